//! Attackers.

mod attacks;
mod fence;
mod limits;
mod origins;
mod tls;
mod tokens;

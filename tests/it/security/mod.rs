//! Attackers.

mod attacks;
mod fence;
mod forwarded;
mod limits;
mod origins;
mod tls;
mod tokens;

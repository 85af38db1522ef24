//! Attackers.

mod attacks;
mod audit;
mod fence;
mod forwarded;
mod limits;
mod origins;
mod revocation;
mod rogue;
mod tls;
mod tokens;

//! Who may: tokens, origins, what a token allows.

pub mod auth;
pub mod origin;
pub mod token;
pub mod token_watch;

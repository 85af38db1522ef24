//! Access: tokens, their rights, and the origins of web pages.
//!
//! These files do not know `App`: each guard gets the few parts that it needs.

mod allowed_origin;
pub mod auth;
mod close_order;
mod files;
pub mod origin;
mod revoked;
mod service_token;
pub mod token;
pub mod token_watch;

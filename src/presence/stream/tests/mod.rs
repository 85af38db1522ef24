mod properties;
mod script;
mod server;
mod world;

// See the head of `server`.
use crate as presence;

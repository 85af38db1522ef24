mod properties;
mod script;
mod server;
mod world;

//! OpenAPI and AsyncAPI.

pub mod asyncapi;
pub mod openapi;

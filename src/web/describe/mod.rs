//! OpenAPI and AsyncAPI: the interface described for programs. It imports no other file of `web/`.

pub mod asyncapi;
pub mod openapi;

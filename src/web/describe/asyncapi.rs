//! The description of the WebSocket: channels, words and examples by hand (`docs/asyncapi.json`), the shapes of the
//! messages from the daemon's own types.

use crate::protocol::schema::MessageId;
use crate::protocol::{ClientMessage, ServerMessage};
use serde_json::{Map, Value, json};
use utoipa::{PartialSchema, ToSchema};

const BY_HAND: &str = include_str!("../docs/asyncapi.json");

/// AsyncAPI 3.0.
pub fn document() -> Value {
    let mut document: Value = serde_json::from_str(BY_HAND).expect("docs/asyncapi.json is JSON");
    document["info"]["version"] = env!("CARGO_PKG_VERSION").into();
    let mut schemas = parts::<ServerMessage>();
    schemas.extend(parts::<ClientMessage>());
    schemas.insert(MessageId::name().into(), value(&MessageId::schema()));
    for mut shape in kinds::<ClientMessage>() {
        // It is read before the message is, since an error's answer carries it too.
        shape["properties"]["id"] = json!({"$ref": "#/components/schemas/MessageId"});
        describe(&mut document, &mut schemas, shape);
    }
    for shape in kinds::<ServerMessage>() {
        describe(&mut document, &mut schemas, shape);
    }
    document["components"]["schemas"] = schemas.into();
    document
}

/// Adds the shape of one message.
fn describe(document: &mut Value, schemas: &mut Map<String, Value>, shape: Value) {
    let name = shape["properties"]["type"]["enum"][0].as_str().unwrap_or_default().to_owned();
    document["components"]["messages"][&name]["payload"] =
        json!({"$ref": format!("#/components/schemas/{name}")});
    document["components"]["messages"][&name]["name"] = json!(name);
    schemas.insert(name, shape);
}

/// What the shapes of a type refer to.
fn parts<T: ToSchema>() -> Map<String, Value> {
    let mut parts = Vec::new();
    T::schemas(&mut parts);
    parts.into_iter().map(|(name, schema)| (name, value(&schema))).collect()
}

/// The shapes of each kind of message.
fn kinds<T: PartialSchema>() -> Vec<Value> {
    match value(&T::schema())["oneOf"].take() {
        Value::Array(kinds) => kinds,
        _ => Vec::new(),
    }
}

fn value(schema: &impl serde::Serialize) -> Value {
    serde_json::to_value(schema).expect("a schema is JSON")
}

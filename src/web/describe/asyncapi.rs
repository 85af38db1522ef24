//! The AsyncAPI description of the WebSocket. `docs/asyncapi.json` has channels, texts and examples, written by hand; the
//! schemas of the messages come from the daemon's own types.

use crate::protocol::schema::MessageId;
use crate::protocol::{ClientMessage, ServerMessage};
use serde_json::{Map, Value, json};
use utoipa::{PartialSchema, ToSchema};

const WRITTEN: &str = include_str!("../docs/asyncapi.json");

/// AsyncAPI 3.0.
pub fn document() -> Value {
    let mut document: Value = serde_json::from_str(WRITTEN).expect("docs/asyncapi.json is JSON");
    document["info"]["version"] = env!("CARGO_PKG_VERSION").into();
    let mut schemas = parts::<ServerMessage>();
    schemas.extend(parts::<ClientMessage>());
    schemas.insert(MessageId::name().into(), value(&MessageId::schema()));
    for mut shape in kinds::<ClientMessage>() {
        // The type has no id: the daemon reads the id first, because the answer to an unreadable message has it too.
        shape["properties"]["id"] = json!({"$ref": "#/components/schemas/MessageId"});
        describe(&mut document, &mut schemas, shape);
    }
    for shape in kinds::<ServerMessage>() {
        describe(&mut document, &mut schemas, shape);
    }
    document["components"]["schemas"] = schemas.into();
    document
}

/// Adds the schema of one message.
fn describe(document: &mut Value, schemas: &mut Map<String, Value>, shape: Value) {
    let name = shape["properties"]["type"]["enum"][0].as_str().unwrap_or_default().to_owned();
    document["components"]["messages"][&name]["payload"] =
        json!({"$ref": format!("#/components/schemas/{name}")});
    document["components"]["messages"][&name]["name"] = json!(name);
    schemas.insert(name, shape);
}

/// The schemas that the schema of a type refers to.
fn parts<T: ToSchema>() -> Map<String, Value> {
    let mut parts = Vec::new();
    T::schemas(&mut parts);
    parts.into_iter().map(|(name, schema)| (name, value(&schema))).collect()
}

/// The schemas of each kind of message.
fn kinds<T: PartialSchema>() -> Vec<Value> {
    match value(&T::schema())["oneOf"].take() {
        Value::Array(kinds) => kinds,
        _ => Vec::new(),
    }
}

fn value(schema: &impl serde::Serialize) -> Value {
    serde_json::to_value(schema).expect("a schema is JSON")
}

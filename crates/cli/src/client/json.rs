//! Answers as JSON, with the names of the protocol: what a script reads today it can read tomorrow.
//!
//! Fields are named as in the `.proto` files. Enum values are in lower case without their type's name (`half_open`), times are RFC 3339,
//! bytes (permits) are hexadecimal. What the protocol calls optional is left out when it is absent; everything else is always there.

use std::sync::LazyLock;

use brama_proto::DESCRIPTORS;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, Kind, MapKey, ReflectMessage, Value as Field};
use serde_json::{Map, Value, json};

use super::text;
use crate::exit::{Code, Failure};

/// The JSON object of a message of type `brama.v1.<name>`.
pub(crate) fn object<M: Message>(name: &str, message: &M) -> Result<Value, Failure> {
    static POOL: LazyLock<Option<DescriptorPool>> =
        LazyLock::new(|| DescriptorPool::decode(DESCRIPTORS).ok());
    let missing = || {
        Failure::new(
            Code::General,
            format!("this program does not know its own message {name}"),
        )
    };
    let pool = POOL.as_ref().ok_or_else(missing)?;
    let descriptor = pool
        .get_message_by_name(&format!("brama.v1.{name}"))
        .ok_or_else(missing)?;
    let message =
        DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice()).map_err(|_| missing())?;
    Ok(of_message(&message))
}

fn of_message(message: &DynamicMessage) -> Value {
    if message.descriptor().full_name() == "google.protobuf.Timestamp" {
        return message
            .transcode_to::<prost_types::Timestamp>()
            .map_or(Value::Null, |time| json!(text::rfc3339(&time)));
    }
    let mut object = Map::new();
    for field in message.descriptor().fields() {
        if !field.supports_presence() || message.has_field(&field) {
            object.insert(
                field.name().to_owned(),
                of_value(&field.kind(), &message.get_field(&field)),
            );
        }
    }
    Value::Object(object)
}

fn of_value(kind: &Kind, value: &Field) -> Value {
    match value {
        Field::Bool(value) => json!(value),
        Field::I32(value) => json!(value),
        Field::I64(value) => json!(value),
        Field::U32(value) => json!(value),
        Field::U64(value) => json!(value),
        Field::F32(value) => json!(value),
        Field::F64(value) => json!(value),
        Field::String(value) => json!(value),
        Field::Bytes(value) => json!(hex::encode(value)),
        Field::EnumNumber(number) => of_enum(kind, *number),
        Field::Message(message) => of_message(message),
        Field::List(values) => values.iter().map(|value| of_value(kind, value)).collect(),
        Field::Map(entries) => {
            let values = kind
                .as_message()
                .map(|entry| entry.map_entry_value_field().kind());
            let of_entry = |value| values.as_ref().map_or(Value::Null, |kind| of_value(kind, value));
            entries
                .iter()
                .map(|(key, value)| (of_key(key), of_entry(value)))
                .collect::<Map<_, _>>()
                .into()
        }
    }
}

/// `STATE_HALF_OPEN` is `half_open`. A value that this program does not know yet is its number.
fn of_enum(kind: &Kind, number: i32) -> Value {
    let Some(descriptor) = kind.as_enum() else {
        return json!(number);
    };
    let prefix = descriptor
        .default_value()
        .name()
        .trim_end_matches("UNSPECIFIED")
        .to_owned();
    match descriptor.get_value(number) {
        Some(value) => json!(value.name().trim_start_matches(&prefix).to_lowercase()),
        None => json!(number),
    }
}

fn of_key(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}

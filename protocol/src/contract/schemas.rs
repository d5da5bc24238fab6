//! Schemas of both documents, in one place each.

use schemars::generate::{Contract, SchemaSettings};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value};

/// Where both documents keep their schemas.
const DEFINITIONS: &str = "/components/schemas";

/// Gathers the schemas that a document refers to. What clients send and what edges send are told apart: a field that
/// may be left out by a client is there or not by other rules in an answer.
pub(super) struct Schemas {
    sent: SchemaGenerator,
    answered: SchemaGenerator,
}

impl Schemas {
    pub(super) fn new() -> Self {
        let of = |contract: Contract| {
            SchemaSettings::draft2020_12()
                .with(|settings| {
                    settings.definitions_path = DEFINITIONS.into();
                    settings.contract = contract;
                    settings.meta_schema = None;
                })
                .into_generator()
        };
        Self { sent: of(Contract::Deserialize), answered: of(Contract::Serialize) }
    }

    /// What a client sends.
    pub(super) fn sent<T: JsonSchema>(&mut self) -> Value {
        self.sent.subschema_for::<T>().to_value()
    }

    /// What an edge sends.
    pub(super) fn answered<T: JsonSchema>(&mut self) -> Value {
        self.answered.subschema_for::<T>().to_value()
    }

    /// All that were referred to, by name.
    ///
    /// # Panics
    /// When one name has two meanings.
    pub(super) fn all(mut self) -> Map<String, Value> {
        let mut all = self.sent.take_definitions(true);
        for (name, schema) in self.answered.take_definitions(true) {
            let before = all.insert(name.clone(), schema.clone());
            assert!(before.is_none_or(|before| before == schema), "{name} is another thing where clients send it");
        }
        all
    }
}

/// Settings that a group's admins may change: at least one, and not what new members see.
pub(crate) fn changeable_settings(_: &mut SchemaGenerator) -> Schema {
    let mut schema = schemars::json_schema!({
        "type": "object",
        "properties": {
            "onlyAdminsCanPost": { "type": "boolean", "description": "Only admins may send." },
            "allowMemberInvites": { "type": "boolean", "description": "Members may add members." },
            "retentionDays": {
                "type": "integer", "minimum": 1, "maximum": crate::limits::RETENTION_DAYS,
                "description": "Days that messages are kept."
            }
        }
    });
    changes_something(&mut schema);
    schema
}

/// A patch names at least one of its fields.
pub(crate) fn changes_something(schema: &mut Schema) {
    let Some(Value::Object(fields)) = schema.get("properties") else { return };
    let one_of_them: Vec<Value> = fields.keys().map(|field| serde_json::json!({ "required": [field] })).collect();
    schema.insert("anyOf".to_owned(), Value::Array(one_of_them));
}

/// The kind of what `POST /conversations` makes.
pub(crate) fn direct(_: &mut SchemaGenerator) -> Schema {
    schemars::json_schema!({ "const": "direct", "description": "Only `direct`." })
}

/// The kinds of what `POST /groups` makes.
pub(crate) fn group_or_channel(_: &mut SchemaGenerator) -> Schema {
    schemars::json_schema!({ "enum": ["group", "channel", null], "description": "`group` (default) or `channel`." })
}

/// An instant that may be taken away.
pub(crate) fn time_or_null(_: &mut SchemaGenerator) -> Schema {
    schemars::json_schema!({
        "type": ["integer", "null"], "minimum": 0, "maximum": crate::limits::SEQUENCE,
        "description": "Milliseconds since the epoch; `null` ends a mute."
    })
}

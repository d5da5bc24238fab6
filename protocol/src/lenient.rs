//! What JSON Schema calls an integer or an object, and the derived readers read otherwise.

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Number, Value};

use crate::limits;

/// A number without a fraction, also where it is written with one (`2.0`).
pub(crate) fn whole<'de, D: Deserializer<'de>, T: TryFrom<u64>>(deserializer: D) -> Result<T, D::Error> {
    let number = Number::deserialize(deserializer)?;
    let of_fraction =
        || number.as_f64().filter(|value| value.fract() == 0.0 && (0.0..=limits::SEQUENCE as f64).contains(value));
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within 0 and 2^53, without fraction")]
    let value = number.as_u64().or_else(|| of_fraction().map(|value| value as u64));
    value.and_then(|value| T::try_from(value).ok()).ok_or_else(|| D::Error::custom("invalid type: not a whole number"))
}

/// The same, where there may be none.
pub(crate) fn whole_or_none<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<u64>,
{
    let value = Option::<Value>::deserialize(deserializer)?;
    value.map(whole).transpose().map_err(D::Error::custom)
}

/// The same, where `null` is another thing than nothing.
pub(crate) fn whole_or_null<'de, D, T>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<u64>,
{
    whole_or_none(deserializer).map(Some)
}

/// An object: a derived reader takes a list of its fields, too.
pub(crate) fn object<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<T, D::Error> {
    let fields = Map::deserialize(deserializer)?;
    serde_json::from_value(Value::Object(fields)).map_err(D::Error::custom)
}

/// The same, where there may be none.
pub(crate) fn object_or_none<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    let value = Option::<Value>::deserialize(deserializer)?;
    value.map(object).transpose().map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use crate::rest::{CreateGroup, PatchConversation, SyncRequest};

    #[test]
    fn whole_numbers_are_read_with_and_without_a_point_and_no_others() {
        let sync = |limit: &str, last: &str| {
            let id = "a4736f08-03ed-57ad-8740-948e022e0756";
            let row = format!("{{\"conversationId\":\"{id}\",\"lastSequence\":{last}}}");
            serde_json::from_str::<SyncRequest>(&format!("{{\"conversations\":[{row}],\"limit\":{limit}}}"))
        };
        let read = sync("200.0", "524289.0").expect("reads");
        assert_eq!((read.limit, read.conversations[0].last_sequence), (Some(200), 524_289));
        assert_eq!(sync("null", "9007199254740991").expect("reads").limit, None);
        for (limit, last) in [("1.5", "1"), ("1", "-1"), ("1", "1e300"), ("\"1\"", "1"), ("1", "null"), ("[1]", "1")] {
            assert!(sync(limit, last).is_err(), "{limit} {last}");
        }
    }

    #[test]
    fn settings_are_an_object_and_no_list() {
        let group = |settings: &str| {
            serde_json::from_str::<CreateGroup>(&format!("{{\"name\":\"a\",\"settings\":{settings}}}"))
        };
        assert_eq!(group("{\"retentionDays\":7.0}").expect("reads").settings.retention_days, Some(7));
        assert!(group("[null,null]").is_err() && group("[]").is_err() && group("{\"retentionDays\":-7}").is_err());
        let patch = |text: &str| serde_json::from_str::<PatchConversation>(text);
        assert!(patch("{\"settings\":null}").expect("reads").is_empty());
        assert!(patch("{\"settings\":[null,null]}").is_err());
    }
}

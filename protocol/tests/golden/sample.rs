//! Fixed values for the golden lines, and how a golden file is read.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use hearth_protocol::{
    ConversationId, DeviceId, Epoch, LogId, MessageId, Position, RegionId, Sequence, Timestamp, UserId,
};
use uuid::Uuid;

/// Compares what this build writes with the golden file, line by line: `name`, a space, the value.
/// With `HEARTH_WRITE_GOLDEN=1` the file is written instead.
pub(crate) fn check(file: &str, values: &[(&str, String)]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file);
    if std::env::var_os("HEARTH_WRITE_GOLDEN").is_some() {
        let lines: String = values.iter().map(|(name, value)| format!("{name} {value}\n")).collect();
        std::fs::write(&path, lines).expect("the golden file can be written");
        return;
    }
    let text = std::fs::read_to_string(&path).expect("the golden file is there");
    let golden: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once(' ')).collect();
    for (name, value) in values {
        assert_eq!(golden.get(name).copied(), Some(value.as_str()), "{file}: {name}");
    }
    assert_eq!(golden.len(), values.len(), "{file}: one line per value, and no other");
}

/// A golden line that this build reads and does not write any more: its bytes, and its value for [`check`].
pub(crate) fn of_before(file: &str, name: &str) -> (Vec<u8>, String) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file);
    let text = std::fs::read_to_string(&path).expect("the golden file is there");
    let line = text.lines().filter_map(|line| line.split_once(' ')).find(|(line, _)| *line == name);
    let value = line.expect("the line is there").1.to_owned();
    let digits: Vec<char> = value.chars().collect();
    let byte = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16).expect("hexadecimal");
    (digits.chunks(2).map(byte).collect(), value)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes it");
        text
    })
}

pub(crate) fn uuid(last: u8) -> Uuid {
    Uuid::from_bytes([1, 0x8f, 0, 0, 0, 0, 0x70, 0, 0x80, 0, 0, 0, 0, 0, 0, last])
}

pub(crate) fn conversation() -> ConversationId {
    ConversationId(uuid(1))
}

pub(crate) fn message() -> MessageId {
    MessageId(uuid(2))
}

pub(crate) fn device() -> DeviceId {
    DeviceId(uuid(3))
}

pub(crate) fn log() -> LogId {
    LogId::conversation(conversation())
}

pub(crate) fn user(name: &str) -> UserId {
    UserId::new(name).expect("a valid user id")
}

pub(crate) fn region(name: &str) -> RegionId {
    RegionId::new(name).expect("a valid region id")
}

pub(crate) fn position() -> Position {
    Position { epoch: Epoch(2), sequence: Sequence(300) }
}

pub(crate) fn time() -> Timestamp {
    Timestamp(1_790_000_000_123)
}

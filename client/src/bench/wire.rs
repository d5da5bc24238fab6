//! Just enough WebSocket and JSON to load a server: frames are built from a template and read by position.
//!
//! The mask is zero, which a server undoes with the same work as any other. What is read by position is checked: a
//! frame that looks otherwise than expected goes the slow way or fails the run, it never counts.

/// Length of a UUID as text.
const UUID_LENGTH: usize = 36;
/// The opcode of a text frame.
pub(super) const TEXT: u8 = 1;
/// The opcode of a close frame.
pub(super) const CLOSE: u8 = 8;
/// The opcode of a ping.
pub(super) const PING: u8 = 9;
/// The opcode of a pong.
pub(super) const PONG: u8 = 10;

/// What a server may not send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum WireError {
    #[error("a fragmented, compressed or masked WebSocket frame")]
    Unusual,
    #[error("a WebSocket frame over 1 MiB")]
    TooLong,
}

/// One WebSocket frame at the front of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) opcode: u8,
    /// Where its payload starts.
    pub(super) start: usize,
    /// Where it ends, and the next frame starts.
    pub(super) end: usize,
}

/// The frame at the front of `buffer`, once it is whole.
pub(super) fn first_frame(buffer: &[u8]) -> Result<Option<Frame>, WireError> {
    let [head, length, rest @ ..] = buffer else { return Ok(None) };
    if head & 0xf0 != 0x80 || length & 0x80 != 0 {
        return Err(WireError::Unusual);
    }
    let (start, length) = match (length & 0x7f, rest) {
        (126, [high, low, ..]) => (4, u64::from(u16::from_be_bytes([*high, *low]))),
        (127, _) => match rest.first_chunk::<8>() {
            Some(bytes) => (10, u64::from_be_bytes(*bytes)),
            None => return Ok(None),
        },
        (126, _) => return Ok(None),
        (short, _) => (2, u64::from(short)),
    };
    let length = usize::try_from(length).ok().filter(|length| *length <= 1 << 20).ok_or(WireError::TooLong)?;
    let end = start + length;
    Ok((buffer.len() >= end).then_some(Frame { opcode: head & 0x0f, start, end }))
}

/// Appends a client's frame to `out`.
pub(super) fn append_frame(opcode: u8, payload: &[u8], out: &mut Vec<u8>) {
    out.push(0x80 | opcode);
    match u16::try_from(payload.len()) {
        Ok(short @ ..126) => out.push(0x80 | short.to_be_bytes()[1]),
        Ok(length) => {
            out.push(0x80 | 126);
            out.extend_from_slice(&length.to_be_bytes());
        }
        Err(_) => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(payload);
}

/// Names one message: which run, which sender, the how-many-eth of that sender (from 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Number {
    pub(super) run: u32,
    pub(super) sender: u16,
    pub(super) counter: u64,
}

impl Number {
    /// As a UUID of version 8; a counter from 2^48 on would be cut.
    pub(super) fn text(self) -> [u8; UUID_LENGTH] {
        let mut text = *b"00000000-0000-8000-8000-000000000000";
        hex(u64::from(self.run), &mut text[..8]);
        hex(u64::from(self.sender), &mut text[9..13]);
        hex(self.counter, &mut text[24..]);
        text
    }

    /// Reads [`Number::text`].
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        if text.len() != UUID_LENGTH || &text[13..24] != b"-8000-8000-" {
            return None;
        }
        Some(Self {
            run: u32::try_from(unhex(&text[..8])?).ok()?,
            sender: u16::try_from(unhex(&text[9..13])?).ok()?,
            counter: unhex(&text[24..])?,
        })
    }
}

fn hex(mut value: u64, out: &mut [u8]) {
    for digit in out.iter_mut().rev() {
        *digit = b"0123456789abcdef"[usize::from((value & 15) as u8)];
        value >>= 4;
    }
}

fn unhex(text: &[u8]) -> Option<u64> {
    text.iter().try_fold(0u64, |value, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u64::from(digit))
    })
}

/// A `message.send` that differs only in its id.
#[derive(Debug)]
pub(super) struct Template {
    frame: Vec<u8>,
    id_at: usize,
}

impl Template {
    /// For a conversation and a text.
    pub(super) fn new(conversation: &str, text: &str) -> Self {
        let before = r#"{"type":"message.send","payload":{"messageId":""#;
        let id = "0".repeat(UUID_LENGTH);
        let after = format!(r#"","conversationId":"{conversation}","content":{{"type":"text","text":"{text}"}}}}}}"#);
        let payload = format!("{before}{id}{after}");
        let mut frame = Vec::new();
        append_frame(TEXT, payload.as_bytes(), &mut frame);
        let id_at = frame.len() - payload.len() + before.len();
        Self { frame, id_at }
    }

    /// Appends the frame of one message.
    pub(super) fn append(&self, number: Number, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.frame);
        let id = start + self.id_at;
        out[id..id + UUID_LENGTH].copy_from_slice(&number.text());
    }
}

/// What a text frame is to the generator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Ack {
        number: Number,
        sequence: u64,
    },
    New {
        number: Number,
        sequence: u64,
    },
    /// Anything else: read it the slow way.
    Other,
}

/// Reads acks and messages by where their fields stood last time.
#[derive(Debug, Default)]
pub(super) struct Reader {
    id_at: [usize; 2],
    sequence_at: [usize; 2],
}

impl Reader {
    /// What `payload` is.
    pub(super) fn read(&mut self, payload: &[u8]) -> Seen {
        let kind = match payload.get(..21) {
            Some(br#"{"type":"message.ack""#) => 0,
            Some(br#"{"type":"message.new""#) => 1,
            _ => return Seen::Other,
        };
        let id = find(payload, br#""messageId":""#, &mut self.id_at[kind]);
        let sequence = find(payload, br#""sequenceNumber":"#, &mut self.sequence_at[kind]);
        let (Some(id), Some(sequence)) = (id, sequence) else { return Seen::Other };
        let number = payload.get(id..id + UUID_LENGTH).and_then(Number::parse);
        let (Some(number), Some(sequence)) = (number, decimal(&payload[sequence..])) else { return Seen::Other };
        if kind == 0 { Seen::Ack { number, sequence } } else { Seen::New { number, sequence } }
    }
}

/// Where what follows `needle` starts; looks at `hint` first and keeps it.
fn find(text: &[u8], needle: &[u8], hint: &mut usize) -> Option<usize> {
    let after = *hint + needle.len();
    if text.get(*hint..after) == Some(needle) {
        return Some(after);
    }
    *hint = text.windows(needle.len()).position(|window| window == needle)?;
    Some(*hint + needle.len())
}

fn decimal(text: &[u8]) -> Option<u64> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit());
    let value = digits.fold((0u64, 0), |(value, length), digit| (value * 10 + u64::from(digit - b'0'), length + 1));
    (1..=16).contains(&value.1).then_some(value.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NUMBER: Number = Number { run: 0xdead_beef, sender: 199, counter: 1_234_567 };

    #[test]
    fn a_number_reads_back_from_a_valid_uuid() {
        let text = NUMBER.text();
        assert_eq!(Number::parse(&text), Some(NUMBER));
        let uuid = uuid::Uuid::try_parse(std::str::from_utf8(&text).expect("ASCII")).expect("a UUID");
        assert_eq!(uuid.get_version_num(), 8);
        assert_eq!(Number::parse(uuid::Uuid::now_v7().to_string().as_bytes()), None);
    }

    #[test]
    fn a_template_makes_a_frame_that_the_server_reads() {
        let conversation = uuid::Uuid::now_v7().to_string();
        let mut out = Vec::new();
        Template::new(&conversation, "hello").append(NUMBER, &mut out);
        assert_eq!(out[1] & 0x80, 0x80, "a client masks");
        let payload = &out[8..];
        let (_, frame) = hearth_protocol::client::parse_client_frame(payload, &Default::default());
        let Ok(hearth_protocol::client::ClientFrame::Send(send)) = frame else { panic!("not a send: {frame:?}") };
        assert_eq!(send.message_id.to_string().as_bytes(), NUMBER.text());
    }

    #[test]
    fn a_frame_comes_out_only_when_it_is_whole() {
        let mut bytes = vec![0x81, 126, 0, 200];
        bytes.extend_from_slice(&[b'x'; 199]);
        assert_eq!(first_frame(&bytes), Ok(None));
        bytes.push(b'x');
        assert_eq!(first_frame(&bytes), Ok(Some(Frame { opcode: TEXT, start: 4, end: 204 })));
        assert_eq!(first_frame(&[0x81, 2, b'{', b'}']), Ok(Some(Frame { opcode: TEXT, start: 2, end: 4 })));
        assert_eq!(first_frame(&[0x81]), Ok(None));
        assert_eq!(first_frame(&[0x01, 0]), Err(WireError::Unusual));
    }

    #[test]
    fn acks_and_messages_are_read_whatever_stands_between_their_fields() {
        let id = String::from_utf8(NUMBER.text().to_vec()).expect("ASCII");
        let mut reader = Reader::default();
        for gap in ["", r#""conversationId":"c","#, r#""content":{"text":"long enough to move it"},"#, ""] {
            let new =
                format!(r#"{{"type":"message.new","payload":{{"messageId":"{id}",{gap}"sequenceNumber":17,"x":1}}}}"#);
            assert_eq!(reader.read(new.as_bytes()), Seen::New { number: NUMBER, sequence: 17 });
            let ack = format!(
                r#"{{"type":"message.ack","id":"1","payload":{{{gap}"messageId":"{id}","sequenceNumber":8}}}}"#
            );
            assert_eq!(reader.read(ack.as_bytes()), Seen::Ack { number: NUMBER, sequence: 8 });
        }
        assert_eq!(reader.read(br#"{"type":"error","payload":{}}"#), Seen::Other);
    }
}

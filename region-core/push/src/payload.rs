//! What a push says to the client: compact JSON, the same for every service.

use region_model::push::Showing;
use region_model::push::ports::{Detail, Notice};
use serde::Serialize;

/// The client's part. Of `Detail::Nothing` only the first two are there.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Data<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    /// A later push with the same tag replaces the earlier one, or takes it away.
    tag: &'a str,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    ids: Option<Ids>,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Ids {
    conversation_id: String,
    epoch: u64,
    sequence_number: u64,
    unread: u32,
    mentions: bool,
}

/// The JSON of a notice, at most `most` bytes: the text is cut, and the title when that is not enough. `None` when it
/// does not fit even so.
pub(crate) fn data(notice: &Notice, most: usize) -> Option<Vec<u8>> {
    let (kind, unread, mentions) = match notice.showing {
        Showing::Notify { unread, mentions, .. } => ("notify", unread, mentions),
        Showing::Clear => ("clear", 0, false),
    };
    let ids = (notice.detail != Detail::Nothing).then(|| Ids {
        conversation_id: notice.conversation.to_string(),
        epoch: notice.position.epoch.0,
        sequence_number: notice.position.sequence.0,
        unread,
        mentions,
    });
    let (title, text) = match &notice.detail {
        Detail::Preview(preview) if kind == "notify" => (Some(preview.title.clone()), Some(preview.text.clone())),
        Detail::Preview(_) | Detail::Ids | Detail::Nothing => (None, None),
    };
    let mut data = Data { kind, tag: &notice.collapse, ids, title, text };
    loop {
        let bytes = serde_json::to_vec(&data).ok()?;
        let over = bytes.len().saturating_sub(most);
        if over == 0 {
            return Some(bytes);
        }
        let longest = [&mut data.text, &mut data.title].into_iter().flatten().find(|part| part.as_str() != CUT)?;
        cut(longest, over);
    }
}

const CUT: &str = "…";

/// Takes at least one character off the end, and about so many bytes of JSON: one byte of text is six at most.
fn cut(text: &mut String, over: usize) {
    let kept = text.strip_suffix(CUT).unwrap_or(text).len();
    let mut to = kept.saturating_sub((over / 6).max(1));
    while !text.is_char_boundary(to) {
        to -= 1;
    }
    text.truncate(to);
    text.push_str(CUT);
}

#[cfg(test)]
mod tests {
    use hearth_protocol::{ConversationId, Epoch, Position, Sequence, Timestamp};
    use proptest::prelude::*;
    use region_model::push::ports::Preview;

    use super::*;

    fn notice(detail: Detail) -> Notice {
        Notice {
            conversation: ConversationId(uuid::Uuid::from_u128(7)),
            collapse: "tag".to_owned(),
            position: Position { epoch: Epoch(2), sequence: Sequence(9) },
            showing: Showing::Notify { unread: 3, mentions: true, expires_at: None },
            detail,
            not_after: Timestamp(0),
        }
    }

    #[test]
    fn a_payload_without_content_says_that_there_is_something_and_nothing_else() {
        let bytes = data(&notice(Detail::Nothing), 4_096).unwrap();
        assert_eq!(String::from_utf8(bytes).unwrap(), r#"{"type":"notify","tag":"tag"}"#);
        let bytes = data(&notice(Detail::Ids), 4_096).unwrap();
        let ids = r#""conversationId":"00000000-0000-0000-0000-000000000007","epoch":2,"sequenceNumber":9"#;
        let expected = format!(r#"{{"type":"notify","tag":"tag",{ids},"unread":3,"mentions":true}}"#);
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }

    #[test]
    fn what_does_not_fit_even_without_its_text_is_not_made() {
        assert_eq!(data(&notice(Detail::Ids), 50), None);
    }

    proptest! {
        #[test]
        fn a_payload_fits_whatever_the_text_and_is_cut_no_more_than_it_must(
            title in "\\PC{0,300}", text in "\\PC{0,6000}|\"{0,6000}", most in 400..4_096usize,
        ) {
            let whole = data(&notice(Detail::Preview(Preview { title: title.clone(), text: text.clone() })), usize::MAX).unwrap();
            let bytes = data(&notice(Detail::Preview(Preview { title, text: text.clone() })), most).unwrap();
            prop_assert!(bytes.len() <= most);
            let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            let shown = json["text"].as_str().unwrap();
            if whole.len() <= most {
                prop_assert_eq!(shown, text);
            } else {
                prop_assert!(shown.ends_with(CUT));
                prop_assert!(text.starts_with(shown.trim_end_matches(CUT)));
            }
        }
    }
}

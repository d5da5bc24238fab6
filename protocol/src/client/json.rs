//! Limits on JSON that hold before anything is allocated for it.

/// Whether the brackets of a JSON text nest deeper than `limit`. Looks at brackets outside strings only, so it is
/// right for every valid JSON text and harmless for others.
#[must_use]
pub fn json_depth_exceeds(text: &[u8], limit: usize) -> bool {
    let mut depth = 0usize;
    let mut in_string = false;
    let mut escaped = false;
    for byte in text {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => {
                depth += 1;
                if depth > limit {
                    return true;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::json_depth_exceeds;

    #[test]
    fn brackets_inside_strings_do_not_count() {
        assert!(!json_depth_exceeds(br#"{"a":"[[[[\"[[["}"#, 2));
        assert!(json_depth_exceeds(br#"{"a":[[1]]}"#, 2));
        assert!(!json_depth_exceeds(br#"{"a":[[1]]}"#, 3));
    }
}

//! What to type instead: turns serde's messages into sentences, with the example file as the source of
//! what a right value looks like.

/// The example that ships with the package; every key stands in it, so every help text can quote it.
pub(crate) const EXAMPLE: &str = include_str!("../examples/three-regions/eu-west.toml");

/// The field of a message about a missing one.
pub(crate) fn missing_field(message: &str) -> Option<&str> {
    quoted(message.strip_prefix("missing field ")?)
}

/// Whether a message of serde is about the name of a key and not about its value.
pub(crate) fn is_about_the_key(message: &str) -> bool {
    message.starts_with("unknown field ")
}

/// A message of serde about the value at `path` as (message, help).
pub(crate) fn explain(path: &str, message: &str) -> (String, String) {
    if let Some(field) = missing_field(message) {
        let table = section_name(path);
        let help = example_of(&format!("{path}.{field}"))
            .map_or_else(|| format!("add a line `{field} = …`"), |line| format!("add a line, for example: {line}"));
        return (format!("the key `{field}` is missing in [{table}]"), help);
    }
    if let Some(rest) = message.strip_prefix("unknown field ") {
        let name = quoted(rest).unwrap_or_default();
        let known = all_quoted(rest).into_iter().skip(1).collect::<Vec<_>>();
        return (format!("unknown key `{name}`"), unknown_help(name, &known));
    }
    if let Some(rest) = message.strip_prefix("unknown variant ") {
        let name = quoted(rest).unwrap_or_default();
        let known = all_quoted(rest).into_iter().skip(1).map(|it| format!("\"{it}\"")).collect::<Vec<_>>();
        return (format!("`{name}` is not one of the values of `{path}`"), format!("type {}", known.join(" or ")));
    }
    if path.ends_with("secret") {
        let help = "keep it out of the configuration file, see secret_file in the examples";
        return ("this is not a text".to_owned(), help.to_owned());
    }
    let message = match message.strip_prefix("invalid type: ") {
        Some(rest) => format!("wrong type: found {}", without_rust_types(rest)),
        None => message.to_owned(),
    };
    let help = example_of(path).map_or_else(
        || format!("see `{path}` in the example files"),
        |line| format!("type it as, for example: {line}"),
    );
    (message, help)
}

/// Serde names numbers by their Rust types, which are nothing to type.
fn without_rust_types(message: &str) -> String {
    match message.rsplit_once(", expected ") {
        Some((found, "usize" | "u32" | "u64")) => format!("{found}, expected a whole number"),
        _ => message.to_owned(),
    }
}

/// A missing section as the example has it.
pub(crate) fn section_help(section: &str) -> String {
    let header = format!("[{section}]");
    let inner = format!("[[{section}.");
    let lines: Vec<&str> = EXAMPLE
        .lines()
        .skip_while(|line| *line != header)
        .take_while(|line| line.starts_with(&header) || line.starts_with(&inner) || !line.starts_with('['))
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    format!("add it, for example:\n{}", lines.join("\n"))
}

/// The nearest of `candidates`, when it is near enough to be meant.
pub(crate) fn nearest<'c>(name: &str, candidates: &[&'c str]) -> Option<&'c str> {
    candidates
        .iter()
        .map(|candidate| (distance(name, candidate), *candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().div_ceil(3))
        .min()
        .map(|(_, candidate)| candidate)
}

fn unknown_help(name: &str, known: &[&str]) -> String {
    match nearest(name, known) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("remove it, or type one of: {}", known.join(", ")),
    }
}

/// The line of the example file that sets the key at `path`, also when it stands there as a comment.
pub(crate) fn example_of(path: &str) -> Option<String> {
    let (section, key) = section_name_and_key(path);
    let mut current = String::new();
    for line in EXAMPLE.lines() {
        let line = line.strip_prefix("# ").unwrap_or(line);
        if let Some(header) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            current = header.trim_matches(['[', ']']).to_owned();
        } else if current == section && line.split(" = ").next() == Some(&key) {
            return Some(line.to_owned());
        }
    }
    None
}

/// The table that `path` names, without the numbers of lists.
fn section_name(path: &str) -> String {
    let mut name = String::new();
    let mut inside = false;
    for character in path.chars() {
        match character {
            '[' => inside = true,
            ']' => inside = false,
            _ if inside => {}
            other => name.push(other),
        }
    }
    name
}

fn section_name_and_key(path: &str) -> (String, String) {
    let name = section_name(path);
    match name.rsplit_once('.') {
        Some((section, key)) => (section.to_owned(), key.to_owned()),
        None => (String::new(), name),
    }
}

fn quoted(text: &str) -> Option<&str> {
    text.strip_prefix('`')?.split('`').next()
}

fn all_quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// The number of characters to add, drop or change.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (above, left) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = above + 1;
        for (index, character) in other.iter().enumerate() {
            let change = diagonal + usize::from(left != *character);
            diagonal = row[index + 1];
            row[index + 1] = change.min(diagonal + 1).min(row[index] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_the_one_that_was_meant() {
        assert_eq!(nearest("frame_byte", &["frame_bytes", "text_bytes"]), Some("frame_bytes"));
        assert_eq!(nearest("colour", &["frame_bytes", "text_bytes"]), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn a_missing_field_is_explained_by_the_example() {
        let (message, help) = explain("region", "missing field `id`");
        assert_eq!(message, "the key `id` is missing in [region]");
        assert_eq!(help, "add a line, for example: id = \"eu-west\"");
    }
}

//! What a person reads when a configuration is wrong, to the letter.

mod fixture;

use std::path::Path;

use fixture::Fixture;

/// Loads `text` and compares what is rendered, the fixture's folder written as `DIR`, with
/// `tests/golden/{name}.txt`; `HEARTH_UPDATE_GOLDEN=1` writes these files anew.
#[track_caller]
fn expect(fixture: &Fixture, text: &str, environment: &[(&str, &str)], name: &str) {
    let error = fixture.load(text, environment).expect_err("the configuration is wrong");
    let rendered = error.render().replace(fixture.folder(), "DIR");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.txt"));
    if std::env::var_os("HEARTH_UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &rendered).expect("the golden folder is writable");
    }
    let golden = std::fs::read_to_string(&path).expect("the golden file exists");
    assert!(rendered == golden, "rendered:\n{rendered}\nexpected:\n{golden}");
}

#[test]
fn an_unknown_key_is_underlined_and_the_one_that_was_meant_is_named() {
    let fixture = Fixture::new();
    let text = fixture.text().replace("[limits]", "[drain]\nwithn = \"5s\"\n[limits]");
    expect(&fixture, &text, &[], "unknown_key");
}

#[test]
fn a_value_of_the_wrong_type_is_underlined_with_an_example() {
    let fixture = Fixture::new();
    let text = fixture.text().replace("[limits]", "[limits]\nsessions = \"many\"");
    expect(&fixture, &text, &[], "wrong_type");
}

#[test]
fn a_missing_section_is_named_with_what_to_add() {
    let fixture = Fixture::new();
    let text = fixture.text();
    let start = text.find("[listen]").unwrap();
    let end = text.find("[auth]").unwrap();
    let text = format!("{}{}", &text[..start], &text[end..]);
    expect(&fixture, &text, &[], "missing_section");
}

#[test]
fn a_missing_key_is_told_at_its_section() {
    let fixture = Fixture::new();
    let text = fixture.text().replace("id = \"eu-west\"\ndata", "data");
    expect(&fixture, &text, &[], "missing_key");
}

#[test]
fn a_bad_duration_is_underlined() {
    let fixture = Fixture::new();
    let text = fixture.text().replace("[limits]", "[limits]\nparked_for = \"7 dogs\"");
    expect(&fixture, &text, &[], "bad_duration");
}

#[test]
fn a_duration_over_its_bound_is_told_with_the_bound() {
    let fixture = Fixture::new();
    let text = fixture.text().replace("[limits]", "[limits]\nparked_for = \"31d\"");
    expect(&fixture, &text, &[], "duration_out_of_range");
}

#[test]
fn a_failover_that_waits_for_too_long_or_knows_more_than_yes_and_no_is_told_at_its_line() {
    let fixture = Fixture::new();
    let text = fixture.text().replace("[limits]", "[failover]\nautomatic = \"manual\"\nafter = \"2h\"\n[limits]");
    expect(&fixture, &text, &[], "failover");
}

#[test]
fn a_region_that_is_not_in_the_list_is_underlined_and_the_near_one_is_named() {
    let fixture = Fixture::new();
    let text = fixture.text().replace("id = \"eu-west\"\ndata", "id = \"eu-wst\"\ndata");
    expect(&fixture, &text, &[], "unlisted_region");
}

#[test]
fn a_file_that_does_not_exist_is_told_with_the_command_that_makes_it() {
    let fixture = Fixture::new();
    let text = fixture.text().replace("key = \"eu-west.key\"", "key = \"eu-vest.key\"");
    expect(&fixture, &text, &[], "missing_file");
}

#[test]
fn all_findings_are_told_at_once() {
    let fixture = Fixture::new();
    let text = fixture
        .text()
        .replace(
            "[limits]",
            "[limits]\nframe_bytes = 12\nsesions = 5\njson_depth = true\n[log]\nformat = \"xml\"\nfilter = \"loud\"",
        )
        .replace("us-east.example.com:7443", "us-east.example.com");
    expect(&fixture, &text, &[], "several");
}

#[test]
fn broken_toml_is_told_with_its_place() {
    let fixture = Fixture::new();
    let text = fixture.text().replace("[limits]", "[limits]\nsessions = = 5");
    expect(&fixture, &text, &[], "broken_toml");
}

#[test]
fn a_wrong_override_is_told_by_the_name_of_its_variable() {
    let fixture = Fixture::new();
    let environment = [
        ("HEARTH__LIMITS__SESSIONS", "many"),
        ("HEARTH__LIMITS__PARKED_FOR", "40d"),
        ("HEARTH__LIMITZ__X", "1"),
        ("HEARTH__MESH__REGIONS__7__ID", "x"),
    ];
    expect(&fixture, &fixture.text(), &environment, "override");
}

#[test]
fn a_secret_in_the_file_is_refused_and_not_shown() {
    let fixture = Fixture::new();
    let text = fixture.text().replace("[auth]", "[auth]\nhs256_secret = \"correct horse battery staple, and more\"");
    let error = fixture.load(&text, &[]).expect_err("secrets are refused");
    assert!(!error.render().contains("horse") && !format!("{error:?}").contains("horse"));
    expect(&fixture, &text, &[], "secret_in_file");
}

#[test]
fn a_configuration_without_keys_is_told_what_to_add() {
    let fixture = Fixture::new();
    let text = fixture.text();
    let start = text.find("[auth]").unwrap();
    let end = text.find("[limits]").unwrap();
    let text = format!("{}{}", &text[..start], &text[end..]);
    expect(&fixture, &text, &[], "no_keys");
}

#[test]
fn listeners_that_collide_and_lists_with_repeats_are_told() {
    let fixture = Fixture::new();
    let text = fixture
        .text()
        .replace("http = \"127.0.0.1:8081\"", "http = \"0.0.0.0:8081\"\nwebtransport = \"0.0.0.0:7443\"\nallowed_origins = [\"https://a.example\", \"https://b.example/\"]")
        .replace("id = \"us-east\"", "id = \"eu-west\"");
    expect(&fixture, &text, &[], "collisions");
}

#[test]
fn a_file_that_is_not_there_is_told() {
    let fixture = Fixture::new();
    let error = hearth_config::load(&fixture.path("none.toml"), &[]).expect_err("there is no such file");
    assert!(error.render().contains("none.toml: error: cannot read the file"), "{}", error.render());
}

#[test]
fn a_secret_of_the_wrong_type_is_not_shown() {
    let fixture = Fixture::new();
    let text = fixture.text().replace("[auth]", "[auth]\nhs256_secret = 271828182845");
    let error = fixture.load(&text, &[]).expect_err("secrets are refused");
    assert!(!error.render().contains("271828"), "{}", error.render());
}

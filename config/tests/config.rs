//! Defaults, overrides, examples and the values that a correct configuration gives.

mod fixture;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use fixture::Fixture;
use hearth_config::{
    AdministrationSection, AuthSection, CertificateAuthority, DrainSection, FailoverSection, IssueOptions, Limits,
    ListenSection, LogFormat, LogSection, MediaSection, MeshRegion, MeshSection, Pem, PushSection, RegionConfig,
    RegionSection, ReplicationSection, ResumeKey, SecretText, Severity, StoreSection, WebTransportCertificate,
    check_file, load_at,
};

/// The folder of the examples that ship with the package.
fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/three-regions")
}

const EXAMPLES: [&str; 3] = ["eu-west", "us-east", "ap-south"];

#[test]
fn what_is_not_said_has_its_default_and_a_correct_file_has_no_findings() {
    let fixture = Fixture::new();
    let config = fixture.load(&fixture.text(), &[]).unwrap_or_else(|error| panic!("{}", error.render()));
    assert_eq!(config.region.node, "core-1");
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.limits.parked_for, Duration::from_secs(7 * 24 * 3600));
    assert_eq!(config.auth.leeway, Duration::from_secs(60));
    assert_eq!(config.replication.anti_entropy, Duration::from_secs(5));
    assert_eq!(config.failover, FailoverSection { automatic: true, after: Duration::from_secs(10) });
    assert_eq!(config.administration.listen, "127.0.0.1:0".parse().unwrap());
    assert_eq!(config.drain.within, Duration::from_secs(10));
    assert_eq!(config.log.format, LogFormat::Text);
    assert_eq!(config.listen.webtransport_certificate, WebTransportCertificate::Tls);
    let report = check_file(&fixture.path("region.toml"));
    assert_eq!(report.findings, []);
    assert!(report.render().ends_with("region.toml: no findings\n"));
}

#[test]
fn relative_paths_start_at_the_folder_of_the_file() {
    let fixture = Fixture::new();
    let config = fixture.load(&fixture.text(), &[]).unwrap();
    assert_eq!(config.region.data, Path::new(fixture.folder()).join("data"));
    assert_eq!(config.mesh.key.path(), Some(fixture.path("eu-west.key").as_path()));
    assert!(config.mesh.ca.read().unwrap().contains("BEGIN CERTIFICATE"));
    assert_eq!(config.auth.read_hs256_secret().unwrap().unwrap().expose().len(), 32);
    assert_eq!(config.auth.resume_keys[0].read_secret().unwrap().unwrap().expose().len(), 32);
}

#[test]
fn the_environment_overrides_scalars_lists_entries_of_lists_and_secrets() {
    let fixture = Fixture::new();
    let secret = "an environment secret, long enough";
    let environment = [
        ("HEARTH__LIMITS__SESSIONS", "77"),
        ("HEARTH__LIMITS__PARKED_BYTES", "2 MiB"),
        ("HEARTH__REGION__NODE", "core-2"),
        ("HEARTH__DRAIN__WITHIN", "3s"),
        ("HEARTH__FAILOVER__AUTOMATIC", "false"),
        ("HEARTH__LISTEN__ALLOWED_ORIGINS", "[\"https://a.example\"]"),
        ("HEARTH__MESH__REGIONS__1__ADDRESS", "127.0.0.1:9999"),
        ("HEARTH__AUTH__HS256_SECRET", secret),
        ("HEARTH__AUTH__AUDIENCE", "12"),
        ("PATH", "ignored"),
    ];
    let config = fixture.load(&fixture.text(), &environment).unwrap_or_else(|error| panic!("{}", error.render()));
    assert_eq!(config.limits.sessions, 77);
    assert_eq!(config.limits.parked_bytes, 2 << 20);
    assert_eq!(config.region.node, "core-2");
    assert_eq!(config.drain.within, Duration::from_secs(3));
    assert!(!config.failover.automatic);
    assert_eq!(config.listen.allowed_origins, ["https://a.example"]);
    assert_eq!(config.mesh.regions[1].address, "127.0.0.1:9999");
    assert_eq!(config.auth.read_hs256_secret().unwrap().unwrap().expose(), secret.as_bytes());
    assert_eq!(config.auth.audience.as_deref(), Some("12"));
}

#[test]
fn every_example_parses_and_lacks_only_the_files_that_each_operator_makes() {
    for name in EXAMPLES {
        let path = examples().join(format!("{name}.toml"));
        let (config, report) = load_at(&path, &[], SystemTime::now());
        let config = config.unwrap_or_else(|| panic!("{}", report.render()));
        assert_eq!(config.region.id, name);
        assert_eq!(config.region_ids(), EXAMPLES);
        for finding in &report.findings {
            assert!(finding.message.starts_with("cannot read "), "{}", report.render());
        }
    }
}

/// Serde names the keys that it knows when it meets one that it does not; so the structures themselves
/// say what must stand in the examples.
#[test]
fn every_key_of_the_structures_appears_in_the_example_with_its_default() {
    let tables = [
        ("", "zz = 1"),
        ("region", "[region]\nzz = 1"),
        ("mesh", "[mesh]\nzz = 1"),
        ("mesh.regions", "[[mesh.regions]]\nzz = 1"),
        ("listen", "[listen]\nzz = 1"),
        ("listen.tls", "[listen.tls]\nzz = 1"),
        ("auth", "[auth]\nzz = 1"),
        ("auth.resume_keys", "[[auth.resume_keys]]\nzz = 1"),
        ("limits", "[limits]\nzz = 1"),
        ("replication", "[replication]\nzz = 1"),
        ("failover", "[failover]\nzz = 1"),
        ("administration", "[administration]\nzz = 1"),
        ("drain", "[drain]\nzz = 1"),
        ("store", "[store]\nzz = 1"),
        ("store.cql", "[store.cql]\nzz = 1"),
        ("store.postgres", "[store.postgres]\nzz = 1"),
        ("push", "[push]\nzz = 1"),
        ("push.web", "[push.web]\nzz = 1"),
        ("push.apns", "[push.apns]\nzz = 1"),
        ("push.fcm", "[push.fcm]\nzz = 1"),
        ("media", "[media]\nzz = 1"),
        ("media.s3", "[media.s3]\nzz = 1"),
        ("log", "[log]\nzz = 1"),
    ];
    let fixture = Fixture::new();
    let example = std::fs::read_to_string(examples().join("eu-west.toml")).unwrap();
    for (table, text) in tables {
        let error = fixture.load(text, &[]).expect_err("zz is no key");
        let finding = error.report().findings.iter().find(|it| it.message == "unknown key `zz`").unwrap();
        let (_, keys) = finding.help.as_deref().unwrap().split_once("one of: ").unwrap();
        for key in keys.split(", ") {
            let stands = [
                format!("\n{key} = "),
                format!("\n# {key} = "),
                format!("\n[{key}]"),
                format!("{key} = \"tls/chat"),
                format!("\n[[{table}.{key}]]"),
                format!("\n# [{table}.{key}]"),
            ]
            .iter()
            .any(|form| example.contains(form));
            assert!(stands, "`{key}` of [{table}] is not in the example");
        }
    }
}

#[test]
fn the_defaults_that_the_examples_show_are_the_defaults() {
    let fixture = Fixture::new();
    let example = std::fs::read_to_string(examples().join("eu-west.toml")).unwrap();
    let limits = &example[example.find("[limits]").unwrap()..example.find("[replication]").unwrap()];
    let live: String = limits
        .lines()
        .filter_map(|line| line.strip_prefix("# "))
        .filter(|line| line.contains(" = "))
        .fold(String::new(), |text, line| text + line + "\n");
    assert_eq!(live.lines().count(), 38);
    let config = fixture.load(&(fixture.text() + &live), &[]).unwrap_or_else(|error| panic!("{}", error.render()));
    assert_eq!(config.limits, Limits::default());
}

#[test]
fn two_regions_are_told_what_they_cannot_survive_and_a_readable_key_is_warned_of() {
    use std::os::unix::fs::PermissionsExt;
    let fixture = Fixture::new();
    std::fs::set_permissions(fixture.path("eu-west.key"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let text = fixture.text().replace("  { id = \"ap-south\", address = \"ap-south.example.com:7443\" },\n", "");
    fixture.load(&text, &[]).unwrap();
    let report = check_file(&fixture.path("region.toml"));
    assert!(!report.has_errors());
    assert_eq!((report.count(Severity::Warning), report.count(Severity::Notice)), (1, 1));
    let rendered = report.render();
    assert!(rendered.contains("two regions cannot survive"), "{rendered}");
    assert!(rendered.contains("chmod 600"), "{rendered}");
}

#[test]
fn the_certificate_of_another_region_or_authority_is_an_error() {
    let fixture = Fixture::new();
    let now = SystemTime::now();
    let other =
        CertificateAuthority::in_memory(now).unwrap().issue_region("eu-west", &IssueOptions::default(), now).unwrap();
    fixture.write("eu-west.pem", &other.certificate_pem);
    let error = fixture.load(&fixture.text(), &[]).unwrap_err();
    assert!(error.render().contains("the key does not belong to the certificate"), "{}", error.render());
    fixture.write("eu-west.key", &other.key_pem);
    let error = fixture.load(&fixture.text(), &[]).unwrap_err();
    assert!(error.render().contains("was not issued by this mesh's authority"), "{}", error.render());
}

#[test]
fn a_certificate_that_ends_soon_is_warned_of_and_one_that_ended_is_an_error() {
    let fixture = Fixture::new();
    fixture.load(&fixture.text(), &[]).unwrap();
    let at = |days: u64| {
        load_at(&fixture.path("region.toml"), &[], SystemTime::now() + Duration::from_secs(days * 86_400)).1
    };
    assert_eq!(at(300).findings, []);
    assert_eq!(at(360).count(Severity::Warning), 1);
    assert!(at(400).has_errors());
}

#[test]
fn a_report_as_json_has_severity_key_place_and_help() {
    let fixture = Fixture::new();
    let error = fixture.load(&(fixture.text() + "sesions = 5\n"), &[]).unwrap_err();
    let json = serde_json::to_value(error.report()).unwrap();
    let finding = &json["findings"][0];
    assert_eq!(finding["severity"], "error");
    assert_eq!(finding["key"], "limits.sesions");
    assert_eq!(finding["location"], serde_json::json!({"line": 27, "column": 1, "length": 7}));
    assert!(finding["help"].as_str().unwrap().starts_with("did you mean `sessions`?"));
}

#[test]
fn miette_renders_the_findings_with_their_lines() {
    let fixture = Fixture::new();
    let error = fixture.load(&(fixture.text() + "sesions = 5\n"), &[]).unwrap_err();
    let mut text = String::new();
    miette::NarratableReportHandler::new().render_report(&mut text, &error).unwrap();
    assert!(text.contains("unknown key `sesions`") && text.contains("line 27"), "{text}");
}

#[test]
fn no_cut_of_a_file_and_no_line_left_out_panics_and_none_of_them_is_silent_about_its_errors() {
    let fixture = Fixture::new();
    let text = fixture.text();
    let path = fixture.path("region.toml");
    let lines: Vec<&str> = text.lines().collect();
    let without = (0..lines.len()).map(|index| [&lines[..index], &lines[index + 1..]].concat().join("\n"));
    let cuts = (0..text.len()).step_by(3).map(|end| text[..end].to_owned());
    for mutilated in without.chain(cuts) {
        std::fs::write(&path, &mutilated).unwrap();
        let (config, report) = load_at(&path, &[], SystemTime::now());
        assert!(config.is_some() || report.has_errors(), "{mutilated}");
        assert!(!report.render().is_empty());
    }
}

fn in_code(ids: &[&str]) -> RegionConfig {
    let now = SystemTime::now();
    let authority = CertificateAuthority::in_memory(now).expect("the names are good");
    let issued = authority.issue_region(ids[0], &IssueOptions::default(), now).expect("the names are good");
    let regions = ids.iter().zip(7000..).map(|(id, port)| MeshRegion::new(*id, format!("127.0.0.1:{port}"))).collect();
    RegionConfig {
        region: RegionSection { id: ids[0].into(), node: "core-1".into(), data: "/nonexistent/hearth".into() },
        mesh: MeshSection {
            id: "dev".into(),
            listen: SocketAddr::from(([127, 0, 0, 1], 7000)),
            certificate: Pem::Inline(issued.certificate_pem),
            key: Pem::Inline(issued.key_pem),
            ca: Pem::Inline(authority.certificate_pem().to_owned()),
            regions,
        },
        listen: ListenSection::new(SocketAddr::from(([127, 0, 0, 1], 8081))),
        auth: AuthSection {
            hs256_secret: Some(SecretText::new("x".repeat(32))),
            issuer: Some("dev".into()),
            audience: Some("dev".into()),
            resume_keys: vec![ResumeKey::inline("1", SecretText::new("y".repeat(32)))],
            ..AuthSection::default()
        },
        limits: Limits::default(),
        replication: ReplicationSection::default(),
        failover: FailoverSection::default(),
        administration: AdministrationSection::default(),
        drain: DrainSection::default(),
        store: StoreSection::default(),
        push: PushSection::default(),
        media: MediaSection::default(),
        log: LogSection::default(),
    }
}

#[test]
fn a_configuration_built_in_code_with_material_in_memory_has_no_findings() {
    assert_eq!(in_code(&["eu-west", "us-east", "ap-south"]).check(SystemTime::now()), []);
    assert_eq!(in_code(&["a", "b", "c"]).mesh.regions[2].resolve().unwrap().port(), 7002);
}

#[test]
fn the_map_digest_depends_on_the_regions_and_their_order_alone() {
    let digest = |ids: &[&str]| in_code(ids).map_digest();
    assert_eq!(digest(&["a", "b", "c"]), digest(&["a", "b", "c"]));
    assert_ne!(digest(&["a", "b", "c"]), digest(&["a", "c", "b"]));
    assert_ne!(digest(&["a", "b", "c"]), digest(&["a", "b"]));
    assert_ne!(digest(&["ab", "c"]), digest(&["a", "bc"]));
}

#[test]
fn what_is_wrong_with_push_is_told_by_its_key_and_a_correct_section_has_no_findings() {
    let fixture = Fixture::new();
    // Any private key of P-256 in PKCS #8 form will do; authorities are made with one.
    let key = std::fs::read_to_string(fixture.path("ca.key")).unwrap();
    fixture.write("vapid.pem", &key);
    fixture.write("no-key.pem", "none");
    let account = r#"{"project_id": "p", "client_email": "c", "private_key": "k", "token_uri": "https://t"}"#;
    fixture.write("account.json", account);
    fixture.write("half.json", r#"{"project_id": "p"}"#);
    let section = |key: &str, contact: &str, id: &str, topic: &str, account: &str| {
        format!(
            "\n[push]\nsays = \"ids\"\n[push.web]\nkey = \"{key}\"\ncontact = \"{contact}\"\n[push.apns]\nkey = \"{key}\"\n\
             key_id = \"{id}\"\nteam_id = \"DEF123GHIJ\"\ntopic = \"{topic}\"\n[push.fcm]\naccount = \"{account}\"\n"
        )
    };
    let good = section("vapid.pem", "mailto:push@example.com", "ABC123DEFG", "com.example.chat", "account.json");
    let config = fixture.load(&(fixture.text() + &good), &[]).unwrap_or_else(|error| panic!("{}", error.render()));
    assert_eq!(check_file(&fixture.path("region.toml")).findings, []);
    assert_eq!(config.push.fcm.unwrap().account, fixture.path("account.json"), "paths are against the file's folder");
    let bad = section("no-key.pem", "push@example.com", "ABC", "", "half.json");
    let error = fixture.load(&(fixture.text() + &bad), &[]).unwrap_err();
    let keys: Vec<&str> = error.report().findings.iter().map(|finding| finding.key.as_str()).collect();
    let expected = ["push.web.key", "push.web.contact", "push.apns.key", "push.apns.key_id", "push.apns.topic"];
    assert_eq!(keys, [&expected[..], &["push.fcm.account"]].concat(), "{}", error.render());
    assert!(error.report().findings.iter().all(|finding| finding.help.is_some() && finding.location.is_some()));
    let open = "\n[push.web]\nkey = \"vapid.pem\"\ncontact = \"mailto:a@b\"\nany_address = true\n";
    fixture.load(&(fixture.text() + open), &[]).unwrap();
    assert_eq!(check_file(&fixture.path("region.toml")).count(Severity::Warning), 1);
}

#[test]
fn what_is_wrong_with_a_store_in_servers_is_told_by_its_key() {
    let fixture = Fixture::new();
    assert_eq!(fixture.load(&fixture.text(), &[]).unwrap().store, StoreSection::default());
    let section = |nodes: &str, keyspace: &str, copies: &str| {
        format!("\n[store.cql]\nnodes = [{nodes}]\nkeyspace = \"{keyspace}\"\n{copies}\n")
    };
    let good = section("\"a.example.com:9042\", \"10.0.0.6:9042\"", "hearth_eu", "data_centres = { dc1 = 3 }");
    let config = fixture.load(&(fixture.text() + &good), &[]).unwrap_or_else(|error| panic!("{}", error.render()));
    assert_eq!(config.store.cql.unwrap().data_centres.get("dc1"), Some(&3));
    assert_eq!(check_file(&fixture.path("region.toml")).findings, []);
    fixture.load(&(fixture.text() + &section("\"a:9042\"", "hearth", "")), &[]).unwrap();
    assert_eq!(check_file(&fixture.path("region.toml")).count(Severity::Notice), 1, "one copy is worth a word");
    let bad = section("\"10.0.0.5\"", "Hearth-EU", "data_centres = { dc1 = 0 }");
    let error = fixture.load(&(fixture.text() + &bad), &[]).unwrap_err();
    let findings = &error.report().findings;
    let keys: Vec<&str> =
        findings.iter().filter(|it| it.severity == Severity::Error).map(|it| it.key.as_str()).collect();
    assert_eq!(keys, ["store.cql.nodes[0]", "store.cql.keyspace", "store.cql.data_centres"], "{}", error.render());
    assert!(findings.iter().all(|finding| finding.help.is_some() && finding.location.is_some()));
    let nobody = fixture.load(&(fixture.text() + &section("", "hearth", "data_centres = { dc1 = 3 }")), &[]);
    assert!(nobody.unwrap_err().render().contains("there is no node to ask"));
}

#[test]
fn who_a_region_is_to_its_servers_and_what_is_spoken_there_is_checked_by_key() {
    let fixture = Fixture::new();
    let section = |more: &str| {
        let copies = "data_centres = { dc1 = 3 }";
        format!("\n[store.cql]\nnodes = [\"a:9042\"]\nkeyspace = \"hearth\"\n{copies}\n{more}\n")
    };
    fixture.write("cassandra.password", "a password\n");
    let login = "username = \"hearth\"\npassword_file = \"cassandra.password\"";
    let tls = "authorities = \"ca.pem\"";
    let good = section(&format!("{login}\n{tls}"));
    let config = fixture.load(&(fixture.text() + &good), &[]).unwrap_or_else(|error| panic!("{}", error.render()));
    let cql = config.store.cql.unwrap();
    assert_eq!(cql.read_password().unwrap().unwrap().expose(), b"a password");
    assert!(cql.authorities.unwrap().read().unwrap().contains("BEGIN CERTIFICATE"));
    assert_eq!(check_file(&fixture.path("region.toml")).findings, []);
    fixture.load(&(fixture.text() + &section(login)), &[]).unwrap();
    let report = check_file(&fixture.path("region.toml"));
    assert_eq!(report.count(Severity::Warning), 1, "a password in clear text is worth a word");
    for (bad, key) in [
        ("username = \"hearth\"", "store.cql.username"),
        ("password_file = \"cassandra.password\"", "store.cql.password_file"),
        ("username = \"hearth\"\npassword_file = \"none\"", "store.cql.password_file"),
        ("authorities = \"cassandra.password\"", "store.cql.authorities"),
        ("authorities = \"ca.pem\"\nkey = \"ca.pem\"", "store.cql.key"),
        ("certificate = \"ca.pem\"\nkey = \"ca.pem\"", "store.cql.certificate"),
    ] {
        let error = fixture.load(&(fixture.text() + &section(bad)), &[]).unwrap_err();
        let findings = &error.report().findings;
        let errors: Vec<_> = findings.iter().filter(|it| it.severity == Severity::Error).collect();
        assert!(errors.len() == 1 && errors[0].key == key && errors[0].help.is_some(), "{bad}: {}", error.render());
    }
}

#[test]
fn a_projection_has_a_server_that_can_be_asked_and_a_schema_that_can_be_named() {
    let fixture = Fixture::new();
    fixture.write("postgres.password", "a password\n");
    let section = |more: &str| format!("\n[store.postgres]\ndatabase = \"chat\"\nusername = \"hearth\"\n{more}\n");
    let good = section("host = \"db.example.com\"\npassword_file = \"postgres.password\"\nevery = \"2s\"");
    let config = fixture.load(&(fixture.text() + &good), &[]).unwrap_or_else(|error| panic!("{}", error.render()));
    let postgres = config.store.postgres.unwrap();
    assert_eq!(postgres.read_password().unwrap().unwrap().expose(), b"a password");
    assert_eq!((postgres.port, postgres.every.as_secs(), postgres.cursors_every.as_secs()), (5432, 2, 60));
    assert_eq!(postgres.schema_of("eu-west"), "hearth_eu_west");
    assert_eq!(check_file(&fixture.path("region.toml")).findings, []);
    for (bad, key) in [
        ("host = \"db:5432\"", "store.postgres.host"),
        ("host = \"db\"\nport = 0", "store.postgres.port"),
        ("host = \"db\"\nschema = \"Hearth-EU\"", "store.postgres.schema"),
        ("host = \"db\"\nconnections = 0", "store.postgres.connections"),
        ("host = \"db\"\nstatement_timeout = \"1ms\"", "store.postgres.statement_timeout"),
        ("host = \"db\"\npassword_file = \"none\"", "store.postgres.password_file"),
    ] {
        let error = fixture.load(&(fixture.text() + &section(bad)), &[]).unwrap_err();
        let findings = &error.report().findings;
        let errors: Vec<_> = findings.iter().filter(|it| it.severity == Severity::Error).collect();
        assert!(errors.len() == 1 && errors[0].key == key && errors[0].help.is_some(), "{bad}: {}", error.render());
    }
}

#[test]
fn media_have_their_defaults_and_what_the_examples_show_of_them_is_those() {
    let fixture = Fixture::new();
    let config = fixture.load(&fixture.text(), &[]).unwrap();
    assert_eq!(config.media, MediaSection::default());
    assert_eq!(config.media.folder_in(Path::new("/data")), Path::new("/data/media"));
    let example = std::fs::read_to_string(examples().join("eu-west.toml")).unwrap();
    let section = &example[example.find("[media]").unwrap()..example.find("[media.s3]").unwrap()];
    let shown = section.lines().filter_map(|line| line.strip_prefix("# ")).filter(|line| line.contains(" = "));
    let live: String =
        shown.filter(|line| !line.starts_with("folder")).fold(String::new(), |text, line| text + line + "\n");
    assert_eq!(live.lines().count(), 6);
    let config = fixture.load(&(fixture.text() + "\n[media]\n" + &live), &[]).unwrap();
    assert_eq!(config.media, MediaSection::default());
}

#[test]
fn what_is_wrong_with_media_is_told_by_its_key_and_a_correct_section_has_no_findings() {
    let fixture = Fixture::new();
    fixture.write("s3.secret", "a secret of a store\n");
    let section = |item: &str, types: &str, unused: &str, endpoint: &str, bucket: &str, secret: &str| {
        format!(
            "\n[media]\nitem_bytes = \"{item}\"\ncontent_types = [\"{types}\"]\nunused_for = \"{unused}\"\n[media.s3]\n\
             endpoint = \"{endpoint}\"\nbucket = \"{bucket}\"\nregion = \"eu\"\naccess_key_id = \"id\"\n{secret}"
        )
    };
    let file = "secret_access_key_file = \"s3.secret\"\n";
    let good = section("1 MiB", "image/png", "9d", "https://s3.example.com:9000", "media", file);
    let config = fixture.load(&(fixture.text() + &good), &[]).unwrap_or_else(|error| panic!("{}", error.render()));
    assert_eq!(check_file(&fixture.path("region.toml")).findings, []);
    let s3 = config.media.s3.unwrap();
    assert_eq!(s3.read_secret().unwrap().unwrap().expose(), b"a secret of a store");
    let environment = [("HEARTH__MEDIA__S3__SECRET_ACCESS_KEY", "of the environment")];
    let without = section("1 MiB", "image/png", "9d", "https://s3.example.com", "media", "");
    let config = fixture.load(&(fixture.text() + &without), &environment).unwrap();
    assert_eq!(config.media.s3.unwrap().read_secret().unwrap().unwrap().expose(), b"of the environment");
    let bad = section("1", "Image/PNG", "1s", "s3.example.com", "", "");
    let error = fixture.load(&(fixture.text() + &bad), &[]).unwrap_err();
    let errors = error.report().findings.iter().filter(|finding| finding.severity == Severity::Error);
    let keys: Vec<&str> = errors.map(|finding| finding.key.as_str()).collect();
    let expected = ["media.item_bytes", "media.content_types[0]", "media.unused_for", "media.s3", "media.s3.endpoint"];
    assert_eq!(keys, [&expected[..], &["media.s3.bucket"]].concat(), "{}", error.render());
    assert!(error.report().findings.iter().all(|finding| finding.help.is_some() && finding.location.is_some()));
    let short = "\n[media]\nunused_for = \"1d\"\nkept_bytes = \"30 MiB\"\n";
    fixture.load(&(fixture.text() + short), &[]).unwrap();
    assert_eq!(check_file(&fixture.path("region.toml")).count(Severity::Warning), 1, "it may be parked for longer");
    let small = "\n[media]\nkept_bytes = \"1 MiB\"\n";
    assert!(fixture.load(&(fixture.text() + small), &[]).unwrap_err().render().contains("nothing large fits"));
}

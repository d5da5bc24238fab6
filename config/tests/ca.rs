//! The certificate authority: what it issues verifies, what another issues does not, and no command
//! overwrites what cannot be made again.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use hearth_config::{
    CaError, CertificateAuthority, Fault, IssueOptions, admin_name, check_pair, init, issue, issue_admin,
    self_signed_webtransport, time_left, verify,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;

const DAY: Duration = Duration::from_secs(86_400);

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("the file exists").permissions().mode() & 0o777
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).expect("the file exists")
}

#[test]
fn an_issued_certificate_verifies_against_its_authority_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let ca = init(folder.path(), now).unwrap();
    let other_ca = init(other.path(), now).unwrap();
    let issued = issue(folder.path(), "eu-west", None, &IssueOptions::default(), now).unwrap();
    let certificate = text(&issued.certificate);
    assert_eq!(check_pair(&certificate, &text(&issued.key)), Ok(()));
    assert_eq!(verify(&certificate, &text(&ca.certificate), "eu-west", now), Ok(()));
    assert_eq!(verify(&certificate, &text(&ca.certificate), "us-east", now), Err(Fault::Name("us-east".into())));
    assert_eq!(verify(&certificate, &text(&ca.certificate), "eu-west", now + DAY * 366), Err(Fault::Time));
    assert_eq!(verify(&certificate, &text(&other_ca.certificate), "eu-west", now), Err(Fault::Issuer));
    assert_eq!(check_pair(&certificate, &text(&ca.key)), Err(Fault::Mismatch));
}

#[test]
fn an_issued_certificate_is_accepted_of_a_client_too() {
    let now = SystemTime::now();
    let authority = CertificateAuthority::in_memory(now).unwrap();
    let issued = authority.issue_region("eu-west", &IssueOptions::default(), now).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.certificate_pem().as_bytes()).unwrap()).unwrap();
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.into()).build().unwrap();
    verifier.verify_client_cert(&CertificateDer::from(issued.certificate_der), &[], UnixTime::now()).unwrap();
}

#[test]
fn further_names_and_addresses_of_the_client_listener_verify() {
    let now = SystemTime::now();
    let authority = CertificateAuthority::in_memory(now).unwrap();
    let options = IssueOptions {
        dns_names: vec!["eu-west.chat.example.com".into(), "*.chat.example.com".into()],
        ips: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
        ..IssueOptions::default()
    };
    let issued = authority.issue_region("eu-west", &options, now).unwrap();
    for name in ["eu-west", "eu-west.chat.example.com", "other.chat.example.com", "127.0.0.1"] {
        assert_eq!(verify(&issued.certificate_pem, authority.certificate_pem(), name, now), Ok(()), "{name}");
    }
}

#[test]
fn a_second_init_refuses_says_what_to_type_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let ca = init(folder.path(), now).unwrap();
    let before = (text(&ca.certificate), text(&ca.key));
    let error = init(folder.path(), now).unwrap_err();
    assert!(matches!(error, CaError::Exists(_)));
    assert!(error.to_string().contains("type `hearth ca issue REGION --dir "), "{error}");
    assert_eq!((text(&ca.certificate), text(&ca.key)), before);
}

#[test]
fn keys_are_readable_by_their_owner_alone() {
    let folder = tempfile::tempdir().unwrap();
    let ca = init(folder.path(), SystemTime::now()).unwrap();
    let issued = issue(folder.path(), "eu-west", None, &IssueOptions::default(), SystemTime::now()).unwrap();
    assert_eq!((mode(&ca.key), mode(&issued.key)), (0o600, 0o600));
    assert_eq!((mode(&ca.certificate), mode(&issued.certificate)), (0o644, 0o644));
}

#[test]
fn an_interrupted_init_is_completed_with_the_key_that_it_left() {
    let folder = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let ca = init(folder.path(), now).unwrap();
    let issued = issue(folder.path(), "eu-west", None, &IssueOptions::default(), now).unwrap();
    let key = text(&ca.key);
    fs::remove_file(&ca.certificate).unwrap();
    init(folder.path(), now).unwrap();
    assert_eq!(text(&ca.key), key);
    assert_eq!(verify(&text(&issued.certificate), &text(&ca.certificate), "eu-west", now), Ok(()));
}

#[test]
fn renewing_keeps_the_key_and_replaces_the_certificate_under_a_new_number() {
    let folder = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    init(folder.path(), now).unwrap();
    let first = issue(folder.path(), "eu-west", None, &IssueOptions::default(), now).unwrap();
    let (certificate, key) = (text(&first.certificate), text(&first.key));
    let later = now + DAY * 300;
    let second = issue(folder.path(), "eu-west", None, &IssueOptions::default(), later).unwrap();
    assert_eq!(text(&second.key), key);
    assert_ne!(text(&second.certificate), certificate);
    assert!(time_left(&text(&second.certificate), later).unwrap() > DAY * 364);
    let number = |pem: &str| {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        x509_parser::parse_x509_certificate(&der).unwrap().1.raw_serial().to_vec()
    };
    assert_ne!(number(&text(&second.certificate)), number(&certificate));
}

#[test]
fn a_folder_of_its_own_gets_everything_that_its_region_needs() {
    let folder = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    init(folder.path(), now).unwrap();
    let out = folder.path().join("eu-west");
    let issued = issue(folder.path(), "eu-west", Some(&out), &IssueOptions::default(), now).unwrap();
    let names: std::collections::BTreeSet<_> =
        fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["ca.pem", "eu-west.key", "eu-west.pem"].map(Into::into).into());
    assert_eq!(verify(&text(&issued.certificate), &text(&issued.ca), "eu-west", now), Ok(()));
}

#[test]
fn issuing_without_an_authority_or_with_a_wrong_name_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let missing = issue(folder.path(), "eu-west", None, &IssueOptions::default(), now).unwrap_err();
    assert!(matches!(missing, CaError::Missing(_)) && missing.to_string().contains("hearth ca init"));
    init(folder.path(), now).unwrap();
    for name in ["../etc", "EU", ""] {
        let refused = issue(folder.path(), name, None, &IssueOptions::default(), now).unwrap_err();
        assert!(matches!(refused, CaError::Name(_)), "{name}");
    }
    let options = IssueOptions { valid_days: 0, ..IssueOptions::default() };
    assert!(matches!(issue(folder.path(), "eu-west", None, &options, now), Err(CaError::Days(0))));
    let options = IssueOptions { dns_names: vec!["a b".into()], ..IssueOptions::default() };
    assert!(matches!(issue(folder.path(), "eu-west", None, &options, now), Err(CaError::AlternativeName(_))));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn an_authority_that_was_created_is_loaded_the_next_time() {
    let folder = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let first = CertificateAuthority::load_or_create(folder.path(), now).unwrap();
    let second = CertificateAuthority::load_or_create(folder.path(), now).unwrap();
    assert_eq!(first.certificate_pem(), second.certificate_pem());
    let issued = second.issue_region("us-east", &IssueOptions::default(), now).unwrap();
    assert_eq!(verify(&issued.certificate_pem, first.certificate_pem(), "us-east", now), Ok(()));
}

#[test]
fn an_authority_with_the_wrong_key_is_told_as_broken() {
    let folder = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let ca = init(folder.path(), now).unwrap();
    fs::copy(init(other.path(), now).unwrap().key, &ca.key).unwrap();
    assert!(matches!(CertificateAuthority::load(folder.path()), Err(CaError::Broken { .. })));
}

#[test]
fn a_webtransport_certificate_lasts_less_than_fourteen_days_and_its_hash_is_of_its_der_form() {
    let now = SystemTime::now();
    let issued = self_signed_webtransport(&["localhost".into()], &[IpAddr::V4(Ipv4Addr::LOCALHOST)], now).unwrap();
    let (_, certificate) = x509_parser::parse_x509_certificate(&issued.certificate_der).unwrap();
    let validity = certificate.validity();
    let seconds = validity.not_after.timestamp() - validity.not_before.timestamp();
    assert_eq!(seconds, 13 * 86_400);
    let started = SystemTime::UNIX_EPOCH + Duration::from_secs(validity.not_before.timestamp().unsigned_abs());
    assert!(now.duration_since(started).unwrap() >= Duration::from_secs(3600));
    assert_eq!(certificate.public_key().algorithm.algorithm.to_id_string(), "1.2.840.10045.2.1");
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &issued.certificate_der);
    assert_eq!(digest.as_ref(), issued.sha256);
    assert_eq!(check_pair(&issued.certificate_pem, &issued.key_pem), Ok(()));
}

#[test]
fn an_administrators_certificate_names_a_person_and_is_no_region_and_no_server() {
    let now = SystemTime::now();
    let authority = CertificateAuthority::in_memory(now).unwrap();
    let admin = authority.issue_admin("ann", 30, now).unwrap();
    assert_eq!(admin_name(&admin.certificate_der).as_deref(), Some("ann"));
    for name in ["ann", "admin", "eu-west"] {
        assert!(verify(&admin.certificate_pem, authority.certificate_pem(), name, now).is_err(), "{name}");
    }
    let options = IssueOptions { dns_names: vec!["admin.example.com".into()], ..IssueOptions::default() };
    let region = authority.issue_region("eu-west", &options, now).unwrap();
    assert_eq!(admin_name(&region.certificate_der), None);
    assert_eq!(admin_name(b"no certificate"), None);
}

#[test]
fn an_issued_administrator_keeps_the_key_and_stands_apart_from_a_region_of_that_name() {
    let folder = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    init(folder.path(), now).unwrap();
    let first = issue_admin(folder.path(), "ann", None, 365, now).unwrap();
    assert_eq!((mode(&first.key), first.key.ends_with("ann.admin.key")), (0o600, true));
    let key = text(&first.key);
    issue(folder.path(), "ann", None, &IssueOptions::default(), now).unwrap();
    let again = issue_admin(folder.path(), "ann", None, 365, now).unwrap();
    assert_eq!((text(&again.key), check_pair(&text(&again.certificate), &key)), (key.clone(), Ok(())));
    assert!(issue_admin(folder.path(), "admin", None, 365, now).unwrap().key.ends_with("admin.key"));
    let reserved = issue(folder.path(), "admin", None, &IssueOptions::default(), now).unwrap_err();
    assert!(matches!(reserved, CaError::Reserved), "{reserved}");
    assert!(matches!(issue_admin(folder.path(), "Ann B", None, 365, now), Err(CaError::AdminName(_))));
    assert!(matches!(issue_admin(folder.path(), "ann", None, 0, now), Err(CaError::Days(0))));
}

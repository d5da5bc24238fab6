//! Tokens by real keys: what is accepted, and every way of lying.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use edge_gateway::{AuthError, JwtOptions, JwtVerifier, KeysError, TokenVerifier};
use hearth_protocol::Timestamp;
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256};
use serde_json::{Value, json};

const NOW: u64 = 1_800_000_000;
const SECRET: &[u8] = b"a secret of at least thirty-two bytes";

struct Signer {
    id: &'static str,
    algorithm: Algorithm,
    key: EncodingKey,
    pair: KeyPair,
}

fn signer(id: &'static str, algorithm: Algorithm) -> Signer {
    let kind = match algorithm {
        Algorithm::EdDSA => &PKCS_ED25519,
        Algorithm::ES256 => &PKCS_ECDSA_P256_SHA256,
        _ => &PKCS_RSA_SHA256,
    };
    let pair = KeyPair::generate_for(kind).unwrap();
    let pem = pair.serialize_pem();
    let key = match algorithm {
        Algorithm::EdDSA => EncodingKey::from_ed_pem(pem.as_bytes()),
        Algorithm::ES256 => EncodingKey::from_ec_pem(pem.as_bytes()),
        _ => EncodingKey::from_rsa_pem(pem.as_bytes()),
    };
    Signer { id, algorithm, key: key.unwrap(), pair }
}

fn claims(change: Value) -> Value {
    let mut claims = json!({"sub": "ann", "exp": NOW + 60, "iss": "idp", "aud": "chat"});
    for (name, value) in change.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    claims
}

impl Signer {
    fn token(&self, claims: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = Some(self.id.to_owned());
        encode(&header, claims, &self.key).unwrap()
    }
}

fn write_keys(path: &Path, signers: &[&Signer]) {
    let keys = signers.iter().map(|signer| {
        let mut jwk = match signer.algorithm {
            Algorithm::EdDSA => {
                let x = URL_SAFE_NO_PAD.encode(signer.pair.public_key_raw());
                serde_json::from_value(json!({"kty": "OKP", "crv": "Ed25519", "x": x, "use": "sig"})).unwrap()
            }
            algorithm => Jwk::from_encoding_key(&signer.key, algorithm).unwrap(),
        };
        jwk.common.key_id = Some(signer.id.to_owned());
        jwk
    });
    std::fs::write(path, serde_json::to_vec(&JwkSet { keys: keys.collect() }).unwrap()).unwrap();
}

fn options(path: &Path) -> JwtOptions {
    JwtOptions {
        jwks: Some(path.to_owned()),
        hs256_secret: Some(SECRET.to_vec()),
        issuer: Some("idp".to_owned()),
        audience: Some("chat".to_owned()),
        leeway_seconds: 10,
    }
}

#[test]
fn tokens_of_every_algorithm_name_their_user_and_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jwks.json");
    let signers = [signer("ed", Algorithm::EdDSA), signer("es", Algorithm::ES256), signer("rs", Algorithm::RS256)];
    write_keys(&path, &signers.iter().collect::<Vec<_>>());
    let verifier = JwtVerifier::new(options(&path)).unwrap();
    let mut tokens: Vec<String> = signers.iter().map(|signer| signer.token(&claims(json!({})))).collect();
    let secret = EncodingKey::from_secret(SECRET);
    tokens.push(encode(&Header::new(Algorithm::HS256), &claims(json!({"aud": ["other", "chat"]})), &secret).unwrap());
    for token in tokens {
        let identity = verifier.verify(&token, Timestamp(NOW * 1000)).unwrap();
        assert_eq!(identity.user.as_str(), "ann");
        assert_eq!(identity.token_expires_at, Timestamp((NOW + 60) * 1000));
        assert_eq!(identity.expires_at, Timestamp((NOW + 70) * 1000));
        verifier.verify(&token, Timestamp((NOW + 70) * 1000 - 1)).unwrap();
        assert_eq!(verifier.verify(&token, Timestamp((NOW + 70) * 1000)), Err(AuthError::Expired));
    }
}

#[test]
fn whose_role_is_operator_is_one_and_whoever_else_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let (file, signer) = (folder.path().join("jwks.json"), signer("one", Algorithm::EdDSA));
    write_keys(&file, &[&signer]);
    let verifier = JwtVerifier::new(options(&file)).unwrap();
    let operator = |role: Value| {
        let token = signer.token(&claims(json!({ "role": role })));
        verifier.verify(&token, Timestamp(NOW * 1_000)).unwrap().operator
    };
    assert!(operator(json!("operator")));
    for other in [json!(null), json!("Operator"), json!("admin"), json!(["operator"]), json!({ "operator": true })] {
        assert!(!operator(other.clone()), "{other}");
    }
}

#[test]
fn claims_that_are_not_right_are_refused_for_their_reason() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jwks.json");
    let ed = signer("ed", Algorithm::EdDSA);
    write_keys(&path, &[&ed]);
    let verifier = JwtVerifier::new(options(&path)).unwrap();
    let table = [
        (json!({"exp": NOW - 11}), AuthError::Expired),
        (json!({"exp": null}), AuthError::Malformed),
        (json!({"exp": "soon"}), AuthError::Malformed),
        (json!({"nbf": NOW + 11}), AuthError::NotYetValid),
        (json!({"sub": null}), AuthError::Subject),
        (json!({"sub": ""}), AuthError::Subject),
        (json!({"sub": "a b"}), AuthError::Subject),
        (json!({"sub": "x".repeat(65)}), AuthError::Subject),
        (json!({"iss": "other"}), AuthError::Issuer),
        (json!({"iss": null}), AuthError::Issuer),
        (json!({"aud": "other"}), AuthError::Audience),
        (json!({"aud": null}), AuthError::Audience),
    ];
    for (change, error) in table {
        let token = ed.token(&claims(change.clone()));
        assert_eq!(verifier.verify(&token, Timestamp(NOW * 1000)), Err(error), "{change}");
    }
    verifier.verify(&ed.token(&claims(json!({"nbf": NOW + 10}))), Timestamp(NOW * 1000)).unwrap();
}

#[test]
fn forged_tokens_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jwks.json");
    let ed = signer("ed", Algorithm::EdDSA);
    let rs = signer("rs", Algorithm::RS256);
    write_keys(&path, &[&ed, &rs]);
    let verifier = JwtVerifier::new(options(&path)).unwrap();
    let verify = |token: &str| verifier.verify(token, Timestamp(NOW * 1000));
    let good = ed.token(&claims(json!({})));

    let stranger = signer("ed", Algorithm::EdDSA).token(&claims(json!({})));
    assert_eq!(verify(&stranger), Err(AuthError::Signature));
    let unknown = signer("other", Algorithm::EdDSA).token(&claims(json!({})));
    assert_eq!(verify(&unknown), Err(AuthError::UnknownKey));
    let guessed = EncodingKey::from_secret(b"guess");
    let guessed = encode(&Header::new(Algorithm::HS256), &claims(json!({})), &guessed).unwrap();
    assert_eq!(verify(&guessed), Err(AuthError::Signature));

    // The public key used as a shared secret, in every form that it is known in.
    let pem = rs.pair.public_key_pem();
    let body: String = pem.lines().filter(|line| !line.starts_with("--")).collect();
    for public in [pem.clone().into_bytes(), pem.trim_end().as_bytes().to_vec(), STANDARD.decode(body).unwrap()] {
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some("rs".to_owned());
        let confused = encode(&header, &claims(json!({})), &EncodingKey::from_secret(&public)).unwrap();
        assert!(verify(&confused).is_err());
    }
    // `alg: none`, with and without the old signature.
    let parts: Vec<&str> = good.split('.').collect();
    let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
    assert!(verify(&format!("{none}.{}.", parts[1])).is_err());
    assert!(verify(&format!("{none}.{}.{}", parts[1], parts[2])).is_err());
    // Another's claims under a good signature.
    let other = ed.token(&claims(json!({"sub": "bob"})));
    let other: Vec<&str> = other.split('.').collect();
    assert_eq!(verify(&format!("{}.{}.{}", parts[0], other[1], parts[2])), Err(AuthError::Signature));

    assert_eq!(verify(""), Err(AuthError::Missing));
    for text in ["x", "a.b", "a.b.c", &"a".repeat(100_000), "..", &good[..good.len() - 2]] {
        assert!(verify(text).is_err());
    }
    assert!(verify(&good).is_ok());
}

#[test]
fn changed_keys_are_taken_without_a_restart_and_a_broken_file_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jwks.json");
    let (old, new) = (signer("1", Algorithm::ES256), signer("2", Algorithm::ES256));
    write_keys(&path, &[&old]);
    let verifier = JwtVerifier::new(options(&path)).unwrap();
    let now = Timestamp(NOW * 1000);
    let token = new.token(&claims(json!({})));
    assert_eq!(verifier.verify(&token, now), Err(AuthError::UnknownKey));
    std::fs::write(&path, "{").unwrap();
    assert!(matches!(verifier.reload(), Err(KeysError::Form(_))));
    assert!(verifier.verify(&old.token(&claims(json!({}))), now).is_ok());
    write_keys(&path, &[&new]);
    verifier.reload().unwrap();
    assert!(verifier.verify(&token, now).is_ok());
    assert_eq!(verifier.verify(&old.token(&claims(json!({}))), now), Err(AuthError::UnknownKey));
}

#[test]
fn a_secret_in_a_public_key_set_is_no_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jwks.json");
    std::fs::write(&path, r#"{"keys":[{"kty":"oct","k":"YWJj","kid":"x","alg":"HS256"}]}"#).unwrap();
    let options = JwtOptions { jwks: Some(path), ..JwtOptions::default() };
    assert!(matches!(JwtVerifier::new(options), Err(KeysError::NoKey)));
}

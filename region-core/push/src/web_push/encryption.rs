//! Message encryption for Web Push (RFC 8291) in the coding `aes128gcm` (RFC 8188), one record a message.

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{ECDH_P256, PrivateKey, UnparsedPublicKey, agree};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};

/// The record size of the header: what every service takes at least (RFC 8030, 7.2).
const RECORD_BYTES: u32 = 4_096;
/// Salt, record size, length of the key id, and the key id: a point of P-256.
const HEADER_BYTES: usize = 16 + 4 + 1 + 65;
const TAG_BYTES: usize = 16;
/// Bytes of a message, so that header and record are 4,096 at most: one byte ends it, and 16 are the tag.
pub const PLAINTEXT_BYTES: usize = RECORD_BYTES as usize - HEADER_BYTES - 1 - TAG_BYTES;
/// The byte that ends the last record's message; zeros may follow.
const LAST_RECORD: u8 = 2;

/// Why a message was not encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncryptionError {
    /// The browser's key is not an uncompressed point of P-256, or its secret is not 16 bytes.
    #[error("the subscription's keys are not of Web Push")]
    Keys,
    /// With its padding it is above [`PLAINTEXT_BYTES`].
    #[error("the message is too long")]
    TooLong,
    /// The provider of cryptography failed.
    #[error("no key or random number could be made")]
    Provider,
}

/// A browser's keys.
#[derive(Clone, PartialEq, Eq)]
pub struct Receiver {
    key: [u8; 65],
    auth: [u8; 16],
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Receiver")
    }
}

impl Receiver {
    /// From `p256dh` and `auth` of a subscription. Whether the point is on the curve shows at the first message.
    ///
    /// # Errors
    /// [`EncryptionError::Keys`].
    pub fn new(p256dh: &[u8], auth: &[u8]) -> Result<Self, EncryptionError> {
        let key: [u8; 65] = p256dh.try_into().map_err(|_| EncryptionError::Keys)?;
        let auth = auth.try_into().map_err(|_| EncryptionError::Keys)?;
        if key[0] != 4 {
            return Err(EncryptionError::Keys);
        }
        Ok(Self { key, auth })
    }
}

/// The length of what a key is expanded to.
struct Bytes(usize);

impl KeyType for Bytes {
    fn len(&self) -> usize {
        self.0
    }
}

fn expand<const N: usize>(prk: &Prk, info: &[&[u8]]) -> Result<[u8; N], EncryptionError> {
    let mut out = [0; N];
    let okm = prk.expand(info, Bytes(N)).map_err(|_| EncryptionError::Provider)?;
    okm.fill(&mut out).map_err(|_| EncryptionError::Provider)?;
    Ok(out)
}

/// Encrypts a message with a new key and salt, followed by so many bytes of padding.
///
/// # Errors
/// [`EncryptionError`].
pub fn encrypt(to: &Receiver, message: &[u8], padding: usize) -> Result<Vec<u8>, EncryptionError> {
    let key = PrivateKey::generate(&ECDH_P256).map_err(|_| EncryptionError::Provider)?;
    let mut salt = [0; 16];
    aws_lc_rs::rand::fill(&mut salt).map_err(|_| EncryptionError::Provider)?;
    encrypt_with(to, message, padding, &key, salt)
}

fn encrypt_with(
    to: &Receiver,
    message: &[u8],
    padding: usize,
    key: &PrivateKey,
    salt: [u8; 16],
) -> Result<Vec<u8>, EncryptionError> {
    if message.len().saturating_add(padding) > PLAINTEXT_BYTES {
        return Err(EncryptionError::TooLong);
    }
    let public = key.compute_public_key().map_err(|_| EncryptionError::Provider)?;
    let public: &[u8] = public.as_ref();
    // RFC 8291, 3.3 and 3.4: the shared secret and the browser's own secret give the keying material.
    let peer = UnparsedPublicKey::new(&ECDH_P256, &to.key[..]);
    let material: [u8; 32] = agree(key, peer, EncryptionError::Keys, |secret| {
        let prk = Salt::new(HKDF_SHA256, &to.auth).extract(secret);
        expand(&prk, &[b"WebPush: info\0", &to.key, public])
    })?;
    // RFC 8188, 2.2 and 2.3: the content's key and nonce.
    let prk = Salt::new(HKDF_SHA256, &salt).extract(&material);
    let content_key: [u8; 16] = expand(&prk, &[b"Content-Encoding: aes128gcm\0"])?;
    let nonce: [u8; 12] = expand(&prk, &[b"Content-Encoding: nonce\0"])?;
    let mut record = Vec::with_capacity(message.len() + 1 + padding + TAG_BYTES);
    record.extend_from_slice(message);
    record.push(LAST_RECORD);
    record.resize(record.len() + padding, 0);
    let sealing = UnboundKey::new(&AES_128_GCM, &content_key).map_err(|_| EncryptionError::Provider)?;
    LessSafeKey::new(sealing)
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut record)
        .map_err(|_| EncryptionError::Provider)?;
    let mut body = Vec::with_capacity(HEADER_BYTES + record.len());
    body.extend_from_slice(&salt);
    body.extend_from_slice(&RECORD_BYTES.to_be_bytes());
    body.push(65);
    body.extend_from_slice(public);
    body.append(&mut record);
    Ok(body)
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    fn bytes(text: &str) -> Vec<u8> {
        URL_SAFE_NO_PAD.decode(text).unwrap()
    }

    /// RFC 8291, appendix A.
    fn vector() -> (Receiver, PrivateKey, [u8; 16]) {
        let receiver = Receiver::new(
            &bytes("BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"),
            &bytes("BTBZMqHH6r4Tts7J_aSIgg"),
        );
        let key = PrivateKey::from_private_key(&ECDH_P256, &bytes("yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw"));
        (receiver.unwrap(), key.unwrap(), bytes("DGv6ra1nlYgDCS1FRnbzlw").try_into().unwrap())
    }

    const EXPECTED: &str = concat!(
        "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6Tlz",
        "AC8wEqKK6PBru3jl7A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN",
    );

    #[test]
    fn the_example_of_the_rfc_is_encrypted_byte_for_byte() {
        let (receiver, key, salt) = vector();
        let body = encrypt_with(&receiver, b"When I grow up, I want to be a watermelon", 0, &key, salt).unwrap();
        assert_eq!(URL_SAFE_NO_PAD.encode(body), EXPECTED);
    }

    #[test]
    fn whatever_differs_from_the_example_gives_other_bytes() {
        let (receiver, key, salt) = vector();
        let message = b"When I grow up, I want to be a watermelon";
        let other_secret = Receiver { auth: [7; 16], ..receiver };
        let other_salt = {
            let mut salt = salt;
            salt[0] ^= 1;
            salt
        };
        for body in [
            encrypt_with(&receiver, message, 1, &key, salt),
            encrypt_with(&receiver, b"When I grow up, I want to be a watermelom", 0, &key, salt),
            encrypt_with(&other_secret, message, 0, &key, salt),
            encrypt_with(&receiver, message, 0, &key, other_salt),
            encrypt(&receiver, message, 0),
        ] {
            assert_ne!(URL_SAFE_NO_PAD.encode(body.unwrap()), EXPECTED);
        }
    }

    #[test]
    fn a_whole_body_is_4096_bytes_at_most_and_keys_of_another_form_are_refused() {
        let (receiver, ..) = vector();
        assert_eq!(encrypt(&receiver, &[0; PLAINTEXT_BYTES], 0).unwrap().len(), 4_096);
        assert_eq!(encrypt(&receiver, &[0; 10], PLAINTEXT_BYTES - 10).unwrap().len(), 4_096);
        assert_eq!(encrypt(&receiver, &[0; 10], PLAINTEXT_BYTES - 9), Err(EncryptionError::TooLong));
        assert_eq!(encrypt(&receiver, &[0; PLAINTEXT_BYTES + 1], 0), Err(EncryptionError::TooLong));
        for (key, auth) in [(&[4; 64][..], &[0; 16][..]), (&[4; 65], &[0; 15]), (&[3; 65], &[0; 16]), (&[], &[])] {
            assert_eq!(Receiver::new(key, auth), Err(EncryptionError::Keys));
        }
        let not_on_the_curve = Receiver::new(&[4; 65], &[0; 16]).unwrap();
        assert_eq!(encrypt(&not_on_the_curve, b"a", 0), Err(EncryptionError::Keys));
    }
}

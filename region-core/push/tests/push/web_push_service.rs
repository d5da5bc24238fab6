//! A push service of a browser (RFC 8030, 8188, 8292). It cannot read what it carries.

use std::sync::Arc;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::Method;
use parking_lot::Mutex;
use serde_json::Value;

use crate::support::{NOW, Received, Reply, TlsService};

/// A push resource that takes pushes; the browser subscribed it for one key (`applicationServerKey`).
pub(crate) const ALIVE: &str = "/p/JzLQ3raZJfFBR0aqvOMsLrt54w4rJUsV";
/// One that the user took back.
pub(crate) const TAKEN_BACK: &str = "/p/gone";

pub(crate) struct PushService {
    pub(crate) service: TlsService,
}

struct Rules {
    key: String,
    origin: Arc<Mutex<String>>,
}

impl Rules {
    /// RFC 8292: who may send, and for which service and time.
    fn vapid(&self, request: &Received) -> Option<()> {
        let value = request.header("authorization")?.strip_prefix("vapid ")?;
        let field = |name: &str| value.split(',').find_map(|field| field.trim().strip_prefix(name));
        let (token, key) = (field("t=")?, field("k=")?);
        let (signed, signature) = token.rsplit_once('.')?;
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, URL_SAFE_NO_PAD.decode(key).ok()?);
        public.verify(signed.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).ok()?).ok()?;
        let part = |part: &str| serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(part).ok()?).ok();
        let (header, claims) = signed.split_once('.')?;
        let (header, claims, now) = (part(header)?, part(claims)?, NOW.0 / 1_000);
        let exp = claims["exp"].as_u64()?;
        let contact = claims["sub"].as_str().is_none_or(|sub| sub.starts_with("mailto:") || sub.starts_with("https:"));
        let good = header["alg"] == "ES256"
            && claims["aud"] == self.origin.lock().as_str()
            && (now < exp && exp <= now + 24 * 3_600)
            && contact
            && key == self.key;
        good.then_some(())
    }

    fn answer(&self, request: &Received) -> Result<Reply, Reply> {
        let refuse = |status: u16| Reply::new(status, "");
        if request.method != Method::POST {
            return Err(refuse(405));
        }
        if request.header("authorization").is_none() {
            return Err(refuse(401));
        }
        self.vapid(request).ok_or_else(|| refuse(403))?;
        request.header("ttl").and_then(|ttl| ttl.parse::<u64>().ok()).ok_or_else(|| refuse(400))?;
        let url_safe = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        if request.header("topic").is_some_and(|topic| topic.len() > 32 || !url_safe(topic)) {
            return Err(refuse(400));
        }
        let urgencies = ["very-low", "low", "normal", "high"];
        if request.header("urgency").is_some_and(|urgency| !urgencies.contains(&urgency)) {
            return Err(refuse(400));
        }
        if request.body.len() > 4_096 {
            return Err(refuse(413));
        }
        let header = request.body.len() > 86 && request.body[20] == 65 && request.body[21] == 4;
        if request.header("content-encoding") != Some("aes128gcm") || !header {
            return Err(refuse(400));
        }
        match request.path.as_str() {
            ALIVE => Ok(Reply::new(201, "")),
            TAKEN_BACK => Err(refuse(410)),
            _ => Err(refuse(404)),
        }
    }
}

impl PushService {
    /// For subscriptions that were made with this key.
    pub(crate) async fn start(key: &str) -> Self {
        let origin: Arc<Mutex<String>> = Arc::default();
        let rules = Rules { key: key.to_owned(), origin: Arc::clone(&origin) };
        let answering = move |request: &Received| rules.answer(request).unwrap_or_else(|refusal| refusal);
        let service = TlsService::start(&["h2", "http/1.1"], Arc::new(answering)).await;
        service.origin.clone_into(&mut origin.lock());
        Self { service }
    }
}

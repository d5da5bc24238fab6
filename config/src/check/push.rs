//! `[push]`: keys and accounts that must be there and of the right kind.

use crate::explain::example_of;
use crate::push::{ApnsSection, FcmSection, WebPushSection};

use super::Checker;

const WEB_KEY_HELP: &str = "make one, the same file in every region: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out vapid.pem";

impl Checker<'_> {
    pub(super) fn push(&mut self) {
        let push = &self.config.push;
        if let Some(web) = &push.web {
            self.web_push(web);
        }
        if let Some(apns) = &push.apns {
            self.apns(apns);
        }
        if let Some(fcm) = &push.fcm {
            self.fcm(fcm);
        }
    }

    fn web_push(&mut self, web: &WebPushSection) {
        self.signing_key("push.web.key", &web.key, WEB_KEY_HELP);
        if !web.contact.starts_with("mailto:") && !web.contact.starts_with("https://") {
            let help = "type an address that push services may write to, as mailto:push@example.com";
            self.error("push.web.contact", format!("`{}` is no way to reach you", web.contact), help);
        }
        if let Some(authorities) = &web.authorities {
            self.pem("push.web.authorities", authorities, false, "name a file of certificates in PEM form");
        }
        if web.any_address {
            let message = "a client may make this region connect to any address, inside your network too";
            let help = "leave any_address out, unless the push service lies in your network";
            self.warning("push.web.any_address", message, help);
        }
    }

    fn apns(&mut self, apns: &ApnsSection) {
        self.signing_key("push.apns.key", &apns.key, "name the AuthKey_….p8 file that Apple gave you");
        for (key, id) in [("key_id", &apns.key_id), ("team_id", &apns.team_id)] {
            if id.len() != 10 || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                let help = "type the 10 letters and digits that Apple shows";
                self.error(format!("push.apns.{key}"), format!("`{id}` is no such id"), help);
            }
        }
        if apns.topic.is_empty() || apns.topic.bytes().any(|byte| !byte.is_ascii_graphic()) {
            let help = example_of("push.apns.topic").unwrap_or_default();
            self.error("push.apns.topic", "this is no bundle id", format!("type it as, for example: {help}"));
        }
    }

    fn fcm(&mut self, fcm: &FcmSection) {
        let help = "name the JSON file of the service account that Google gave you";
        let Some(text) = self.file("push.fcm.account", &fcm.account, help) else { return };
        self.private_mode("push.fcm.account", &fcm.account);
        let account: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let wanted = ["project_id", "client_email", "private_key", "token_uri"];
        if let Some(missing) = wanted.into_iter().find(|field| !account[*field].is_string()) {
            let message = format!("{} has no `{missing}`", fcm.account.display());
            self.error("push.fcm.account", message, help);
        }
    }

    /// A key that tokens are signed by with ES256.
    fn signing_key(&mut self, key: &str, pem: &crate::values::Pem, help: &str) {
        use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
        let Some(text) = self.pem(key, pem, true, help) else { return };
        let pair = crate::certificates::private_key_der(&text)
            .filter(|der| EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der).is_ok());
        if pair.is_none() {
            self.error(key, "this is not a private key of P-256 in PKCS #8 form (PEM)", help);
        }
    }
}

//! `[store]`: servers that can be asked, and a keyspace that can be named.

use super::Checker;
use super::syntax::is_host_and_port;
use crate::store::CqlSection;

const PASSWORD_HELP: &str = "name a file with the password alone, as password_file = \"cassandra.password\"";
const AUTHORITIES_HELP: &str = "name a file of certificates in PEM form, as authorities = \"cassandra/ca.pem\"";
const PAIR_HELP: &str = "name both, as certificate = \"cassandra/region.pem\" and key = \"cassandra/region.key\"";

impl Checker<'_> {
    pub(super) fn store(&mut self) {
        if let Some(postgres) = &self.config.store.postgres {
            self.postgres(postgres);
        }
        let Some(cql) = &self.config.store.cql else { return };
        if cql.nodes.is_empty() {
            self.error("store.cql.nodes", "there is no node to ask", "name some, as nodes = [\"10.0.0.5:9042\"]");
        }
        for (index, node) in cql.nodes.iter().enumerate() {
            if !is_host_and_port(node) {
                let help = "type a host name or an address, and a port, as 10.0.0.5:9042";
                self.error(format!("store.cql.nodes[{index}]"), format!("`{node}` is no address"), help);
            }
        }
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let named =
            cql.keyspace.bytes().all(plain) && cql.keyspace.starts_with(|first: char| first.is_ascii_lowercase());
        if !named || cql.keyspace.len() > 48 {
            let help = "type 1 to 48 of a-z, 0-9 and _, starting with a letter, as hearth_eu_west";
            self.error("store.cql.keyspace", format!("`{}` cannot be a keyspace", cql.keyspace), help);
        }
        for (name, copies) in &cql.data_centres {
            if name.is_empty() || !(1..=9).contains(copies) {
                let help = "type from 1 to 9 copies for each data centre, as data_centres = { dc1 = 3 }";
                self.error("store.cql.data_centres", format!("{copies} copies in `{name}` cannot be"), help);
            }
        }
        if cql.data_centres.values().all(|copies| *copies < 3) {
            let message =
                "a new keyspace has fewer than three copies in every data centre: one node that is gone stops it";
            self.notice("store.cql.data_centres", message, "in production: data_centres = { dc1 = 3 }");
        }
        self.login(cql);
        self.store_tls(cql);
    }

    fn login(&mut self, cql: &CqlSection) {
        match (&cql.username, &cql.password_file) {
            (None, None) => {}
            (Some(_), None) => {
                self.error("store.cql.username", "there is no password for it", PASSWORD_HELP);
            }
            (None, Some(_)) => {
                let help = "say whose it is, as username = \"hearth\"";
                self.error("store.cql.password_file", "there is a password, and nobody whose it is", help);
            }
            (Some(_), Some(path)) => {
                let Some(text) = self.file("store.cql.password_file", path, PASSWORD_HELP) else { return };
                self.private_mode("store.cql.password_file", path);
                if text.trim().is_empty() {
                    let message = format!("{} is empty", path.display());
                    self.error("store.cql.password_file", message, PASSWORD_HELP);
                }
                if cql.authorities.is_none() {
                    let message = "the password goes to the servers in clear text";
                    self.warning("store.cql.password_file", message, AUTHORITIES_HELP);
                }
            }
        }
    }

    fn store_tls(&mut self, cql: &CqlSection) {
        if let Some(authorities) = &cql.authorities
            && let Some(text) = self.pem("store.cql.authorities", authorities, false, AUTHORITIES_HELP)
            && !text.contains("-----BEGIN CERTIFICATE-----")
        {
            self.error("store.cql.authorities", "there is no certificate in it", AUTHORITIES_HELP);
        }
        match (&cql.certificate, &cql.key) {
            (None, None) => {}
            (Some(_), None) => self.error("store.cql.certificate", "its key is missing", PAIR_HELP),
            (None, Some(_)) => self.error("store.cql.key", "its certificate is missing", PAIR_HELP),
            (Some(_), Some(_)) if cql.authorities.is_none() => {
                let message = "it is shown to nobody without TLS";
                self.error("store.cql.certificate", message, AUTHORITIES_HELP);
            }
            (Some(certificate), Some(key)) => {
                let certificate = self.pem("store.cql.certificate", certificate, false, PAIR_HELP);
                let key = self.pem("store.cql.key", key, true, PAIR_HELP);
                if let (Some(certificate), Some(key)) = (certificate, key) {
                    self.pair("store.cql.certificate", "store.cql.key", &certificate, &key, PAIR_HELP);
                }
            }
        }
    }
}

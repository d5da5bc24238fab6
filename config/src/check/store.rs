//! `[store]`: servers that can be asked, and a keyspace that can be named.

use super::Checker;
use super::syntax::is_host_and_port;

impl Checker<'_> {
    pub(super) fn store(&mut self) {
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
    }
}

//! `[store.postgres]`: a server that can be asked, and a schema that can be named.

use super::Checker;
use super::syntax::is_host_and_port;
use crate::postgres::PostgresSection;

const PASSWORD_HELP: &str = "name a file with the password alone, as password_file = \"postgres.password\"";

fn is_schema(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let begins = name.starts_with(|first: char| first.is_ascii_lowercase()) && !name.starts_with("pg_");
    begins && name.len() <= 40 && name.bytes().all(plain)
}

impl Checker<'_> {
    pub(super) fn postgres(&mut self, postgres: &PostgresSection) {
        let address = match postgres.host.contains(':') {
            true => format!("[{}]:{}", postgres.host, postgres.port),
            false => format!("{}:{}", postgres.host, postgres.port),
        };
        if postgres.port == 0 {
            self.error("store.postgres.port", "nobody listens at port 0", "leave it out for 5432");
        } else if !is_host_and_port(&address) {
            let help = "type a host name or an address without a port, as host = \"10.0.0.7\"";
            self.error("store.postgres.host", format!("`{}` is no host", postgres.host), help);
        }
        for (key, value) in [("database", &postgres.database), ("username", &postgres.username)] {
            if value.is_empty() || value.len() > 63 || value.contains('\0') {
                let help = format!("type 1 to 63 characters, as {key} = \"hearth\"");
                self.error(format!("store.postgres.{key}"), format!("`{value}` cannot be a {key}"), help);
            }
        }
        if let Some(schema) = postgres.schema.as_deref().filter(|schema| !is_schema(schema)) {
            let help = "type 1 to 40 of a-z, 0-9 and _, starting with a letter, as hearth_eu_west";
            self.error("store.postgres.schema", format!("`{schema}` cannot be a schema"), help);
        }
        if !(1..=64).contains(&postgres.connections) {
            let message = format!("{} connections cannot be", postgres.connections);
            self.error("store.postgres.connections", message, "type from 1 to 64; the default is 4");
        }
        for (key, value, bounds, default) in postgres.times() {
            self.time(format!("store.postgres.{key}"), value, *bounds.start(), *bounds.end(), default);
        }
        if postgres.deadline < postgres.statement_timeout {
            let message = "a call ends before the server would end its statement: statement_timeout says nothing then";
            self.notice("store.postgres.deadline", message, "make it longer than statement_timeout");
        }
        if let Some(path) = &postgres.password_file
            && let Some(text) = self.file("store.postgres.password_file", path, PASSWORD_HELP)
        {
            self.private_mode("store.postgres.password_file", path);
            if text.trim().is_empty() {
                let message = format!("{} is empty", path.display());
                self.error("store.postgres.password_file", message, PASSWORD_HELP);
            }
        }
    }
}

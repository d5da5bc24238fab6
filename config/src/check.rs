//! What the form of a configuration cannot say: names that must agree, ranges, files that must be there.

mod auth;
mod media;
mod postgres;
mod push;
mod store;
mod syntax;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use self::syntax::{is_authority, is_host_and_port, is_origin};
use crate::ca::ADMIN;
use crate::certificates::{self, Fault};
use crate::explain::nearest;
use crate::limits::Limits;
use crate::model::{
    DrainSection, FailoverSection, RegionConfig, ReplicationSection, TlsFiles, WebTransportCertificate,
};
use crate::report::{Finding, Severity};
use crate::telemetry::check_filter;
use crate::values::{Pem, is_name, show_duration};

/// A certificate that ends sooner than this is worth a warning.
const RENEW_BEFORE: Duration = Duration::from_secs(14 * 24 * 3600);
const NAME_HELP: &str = "type 1 to 32 of a-z, 0-9 and -, starting with a letter, as eu-west";

/// A check with the sections that it reads; it is skipped when one of them could not be read whole.
type Check<'c> = (&'static [&'static str], fn(&mut Checker<'c>));

fn checks<'c>() -> [Check<'c>; 20] {
    [
        (&["region"], Checker::region),
        (&["mesh"], Checker::mesh_regions),
        (&["region", "mesh"], Checker::own_region),
        (&["region", "mesh"], Checker::mesh_certificate),
        (&["mesh"], Checker::survival),
        (&["mesh", "listen"], Checker::listeners),
        (&["listen", "administration"], Checker::administration),
        (&["listen"], Checker::listen_tls),
        (&["listen"], Checker::origins_and_urls),
        (&["auth"], Checker::token_keys),
        (&["auth"], Checker::resume_keys),
        (&["limits"], Checker::limit_orders),
        // Each key of these is judged by itself, and one that was left out has its default.
        (&[], Checker::limit_ranges),
        (&[], Checker::replication),
        (&[], Checker::failover),
        (&[], Checker::drain),
        (&["store"], Checker::store),
        (&["push"], Checker::push),
        (&["media", "limits", "mesh", "region"], Checker::media),
        (&[], Checker::log),
    ]
}

impl RegionConfig {
    /// Everything that is wrong or worth knowing, by key and without places; reads the files that the
    /// configuration names. `now` decides whether certificates are in their time.
    #[must_use]
    pub fn check(&self, now: SystemTime) -> Vec<Finding> {
        check_sections(self, now, &BTreeSet::new())
    }
}

/// Runs all checks that read none of the `damaged` sections.
pub(crate) fn check_sections(config: &RegionConfig, now: SystemTime, damaged: &BTreeSet<String>) -> Vec<Finding> {
    let mut checker = Checker { config, now, findings: Vec::new() };
    for (sections, check) in checks() {
        if !sections.iter().any(|section| damaged.contains(*section)) {
            check(&mut checker);
        }
    }
    checker.findings
}

struct Checker<'c> {
    config: &'c RegionConfig,
    now: SystemTime,
    findings: Vec<Finding>,
}

impl Checker<'_> {
    fn error(&mut self, key: impl Into<String>, message: impl Into<String>, help: impl Into<String>) {
        self.findings.push(Finding::error(key, message).help(help));
    }

    fn warning(&mut self, key: impl Into<String>, message: impl Into<String>, help: impl Into<String>) {
        self.findings.push(Finding::new(Severity::Warning, key, message).help(help));
    }

    fn notice(&mut self, key: impl Into<String>, message: impl Into<String>, help: impl Into<String>) {
        self.findings.push(Finding::new(Severity::Notice, key, message).help(help));
    }

    fn name(&mut self, key: impl Into<String>, name: &str) {
        if !is_name(name) {
            self.error(key, format!("`{name}` cannot be a name"), NAME_HELP);
        }
    }

    fn region(&mut self) {
        let region = &self.config.region;
        self.name("region.id", &region.id);
        self.name("region.node", &region.node);
        if region.data.exists() && !region.data.is_dir() {
            let message = format!("{} is not a folder", region.data.display());
            self.error("region.data", message, "name a folder; it is made when it does not exist");
        }
    }

    fn mesh_regions(&mut self) {
        let mesh = &self.config.mesh;
        self.name("mesh.id", &mesh.id);
        if mesh.regions.is_empty() {
            let help = "list every region of the mesh, this one included, as [[mesh.regions]] with id and address";
            self.error("mesh.regions", "the mesh has no regions", help);
        }
        let mut ids = BTreeMap::new();
        let mut addresses = BTreeMap::new();
        for (index, region) in mesh.regions.iter().enumerate() {
            let key = |field: &str| format!("mesh.regions[{index}].{field}");
            self.name(key("id"), &region.id);
            if region.id == ADMIN {
                let message = "a region cannot be called `admin`: certificates of that name are administrators'";
                self.error(key("id"), message, "name it by its place, as eu-west");
            }
            if let Some(first) = ids.insert(&region.id, index) {
                let message = format!("`{}` is listed twice, first as entry {}", region.id, first + 1);
                self.error(key("id"), message, "give each region one entry");
            }
            if let Some(first) = addresses.insert(&region.address, index) {
                let message = format!("`{}` is also the address of entry {}", region.address, first + 1);
                self.error(key("address"), message, "give each region the address of its own `mesh.listen`");
            }
            if !is_host_and_port(&region.address) {
                let message = format!("`{}` is not a host with a port", region.address);
                self.error(
                    key("address"),
                    message,
                    "type a host name or IP address and a port, as eu-west.example.com:7443",
                );
            }
            self.url(key("ws"), region.ws.as_deref(), &["wss://", "ws://"], "/ws");
            self.url(key("webtransport"), region.webtransport.as_deref(), &["https://"], "/wt");
        }
    }

    fn own_region(&mut self) {
        let (own, ids) = (&self.config.region.id, self.config.region_ids());
        if ids.is_empty() || ids.contains(&own.as_str()) {
            return;
        }
        let help = match nearest(own, &ids) {
            Some(meant) => format!("did you mean `{meant}`? The list has: {}", ids.join(", ")),
            None => format!("add an entry to [[mesh.regions]], or type one of: {}", ids.join(", ")),
        };
        self.error("region.id", format!("the region `{own}` is not in mesh.regions"), help);
    }

    fn survival(&mut self) {
        match self.config.mesh.regions.len() {
            1 => self.notice(
                "mesh.regions",
                "one region: its loss loses what it alone holds",
                "three regions survive the loss of any one",
            ),
            2 => self.notice(
                "mesh.regions",
                "two regions cannot survive the loss of either without a person: the other parks and does not take over",
                "add a third region, so that two of three agree",
            ),
            _ => {}
        }
    }

    fn mesh_certificate(&mut self) {
        let (mesh, id) = (&self.config.mesh, &self.config.region.id);
        let issue = format!("type: hearth ca issue {id}");
        let certificate = self.pem("mesh.certificate", &mesh.certificate, false, &issue);
        let key = self.pem("mesh.key", &mesh.key, true, &issue);
        let authority = self.pem("mesh.ca", &mesh.ca, false, "type: hearth ca init");
        let (Some(certificate), Some(key)) = (certificate, key) else {
            return;
        };
        self.pair("mesh.certificate", "mesh.key", &certificate, &key, &issue);
        let is_listed = self.config.region_ids().contains(&id.as_str());
        if let Some(authority) = authority
            && is_listed
            && let Err(fault) = certificates::verify(&certificate, &authority, id, self.now)
        {
            let (place, help) = match fault {
                Fault::Authority(_) => ("mesh.ca", "name the ca.pem that `hearth ca init` made".to_owned()),
                Fault::Issuer => ("mesh.certificate", format!("all regions use one authority; {issue}")),
                _ => ("mesh.certificate", issue),
            };
            self.error(place, fault.to_string(), help);
        }
    }

    fn listeners(&mut self) {
        let (mesh, listen) = (&self.config.mesh, &self.config.listen);
        if listen.webtransport.is_some_and(|address| overlap(address, mesh.listen)) {
            let message = format!("`{}` is taken by the links between regions", mesh.listen);
            self.error("listen.webtransport", message, "both are UDP: give each its own port");
        }
        if mesh.listen.port() == 0 {
            let message = "port 0 is any free port, which other regions cannot know";
            self.warning("mesh.listen", message, "type the port that stands in this region's entry of mesh.regions");
        }
    }

    fn administration(&mut self) {
        let (listen, administration) = (&self.config.listen, self.config.administration.listen);
        if overlap(administration, listen.http) {
            let message = format!("`{}` is taken by listen.http", listen.http);
            let help = "administrators have a port of their own: give it another, as \"127.0.0.1:7444\"";
            self.error("administration.listen", message, help);
        }
        if !administration.ip().is_loopback() {
            let message = "administrators can reach this node from other machines";
            let help = "only certificates of `hearth ca issue admin` are let in; for this machine alone type \"127.0.0.1:7444\"";
            self.notice("administration.listen", message, help);
        }
    }

    fn listen_tls(&mut self) {
        let listen = &self.config.listen;
        if let Some(TlsFiles { certificate, key }) = &listen.tls {
            let help = "name a certificate chain and its key in PEM form";
            let certificate = self.pem("listen.tls.certificate", certificate, false, help);
            let key = self.pem("listen.tls.key", key, true, help);
            if let (Some(certificate), Some(key)) = (certificate, key) {
                self.pair("listen.tls.certificate", "listen.tls.key", &certificate, &key, help);
            }
            return;
        }
        if listen.webtransport.is_some() && listen.webtransport_certificate == WebTransportCertificate::Tls {
            let help = "add tls = { certificate = \"…\", key = \"…\" }, or webtransport_certificate = \"self-made\"";
            self.error("listen.webtransport", "WebTransport needs a certificate", help);
        }
        if !listen.http.ip().is_loopback() && listen.trusted_forwarders.is_empty() {
            let message = "without TLS, tokens and messages cross the network in plain text";
            let help = "add listen.tls, or name the proxy that ends TLS in listen.trusted_forwarders";
            self.warning("listen.http", message, help);
        }
    }

    fn origins_and_urls(&mut self) {
        let listen = &self.config.listen;
        for (index, origin) in listen.allowed_origins.iter().enumerate() {
            if origin != "*" && !is_origin(origin) {
                let message = format!("`{origin}` is not an origin");
                let help = "type scheme and host, with a port if it is not the usual one and no slash at the end, as https://chat.example.com";
                self.error(format!("listen.allowed_origins[{index}]"), message, help);
            }
        }
        self.url("listen.public_http", listen.public_http.as_deref(), &["https://", "http://"], "");
        self.url("listen.public_ws", listen.public_ws.as_deref(), &["wss://", "ws://"], "/ws");
        self.url("listen.public_webtransport", listen.public_webtransport.as_deref(), &["https://"], "/wt");
    }

    fn url(&mut self, key: impl Into<String>, url: Option<&str>, schemes: &[&str], end: &str) {
        let Some(url) = url else { return };
        let host = schemes.iter().find_map(|scheme| url.strip_prefix(scheme)).and_then(|rest| rest.strip_suffix(end));
        if !host.is_some_and(is_authority) {
            let help = format!("type a full URL, as {}eu-west.chat.example.com{end}", schemes[0]);
            self.error(key, format!("`{url}` is not such a URL"), help);
        }
    }

    fn limit_ranges(&mut self) {
        let defaults = Limits::default();
        for (number, default) in self.config.limits.numbers().into_iter().zip(defaults.numbers()) {
            if !number.holds() {
                let message = format!("{} is out of range", number.value);
                let help =
                    format!("type a number from {} to {}; the default is {}", number.least, number.most, default.value);
                self.error(format!("limits.{}", number.key), message, help);
            }
        }
        for (time, default) in self.config.limits.times().into_iter().zip(defaults.times()) {
            self.time(format!("limits.{}", time.key), time.value, time.least, time.most, default.value);
        }
    }

    fn limit_orders(&mut self) {
        for (small, great, holds) in self.config.limits.orders() {
            if !holds {
                let help = format!("lower `{small}` or raise `{great}`");
                self.error(format!("limits.{small}"), format!("`{small}` is greater than `{great}`"), help);
            }
        }
    }

    fn replication(&mut self) {
        let (least, most) = (Duration::from_millis(100), Duration::from_secs(600));
        let value = self.config.replication.anti_entropy;
        self.time("replication.anti_entropy", value, least, most, ReplicationSection::default().anti_entropy);
    }

    fn failover(&mut self) {
        let (least, most) = (*FailoverSection::AFTER.start(), *FailoverSection::AFTER.end());
        let value = self.config.failover.after;
        self.time("failover.after", value, least, most, FailoverSection::default().after);
    }

    fn drain(&mut self) {
        let (value, most) = (self.config.drain.within, Duration::from_secs(3600));
        self.time("drain.within", value, Duration::ZERO, most, DrainSection::default().within);
    }

    fn log(&mut self) {
        if let Err(reason) = check_filter(&self.config.log.filter) {
            let message = format!("`{}` is not a log filter: {reason}", self.config.log.filter);
            self.error("log.filter", message, "type a level, or targets with levels, as \"info,hearth_mesh=debug\"");
        }
    }

    fn time(&mut self, key: impl Into<String>, value: Duration, least: Duration, most: Duration, default: Duration) {
        if !(least..=most).contains(&value) {
            let show = show_duration;
            let help =
                format!("type a duration from {} to {}; the default is \"{}\"", show(least), show(most), show(default));
            self.error(key, format!("{} is out of range", show(value)), help);
        }
    }

    /// The text of certificate material; a finding and none when its file cannot be read.
    fn pem(&mut self, key: &str, pem: &Pem, private: bool, help: &str) -> Option<String> {
        match pem {
            Pem::Inline(text) => Some(text.clone()),
            Pem::File(path) => {
                let text = self.file(key, path, help)?;
                if private {
                    self.private_mode(key, path);
                }
                Some(text)
            }
        }
    }

    fn pair(&mut self, certificate_key: &str, key_key: &str, certificate: &str, key: &str, help: &str) {
        if let Err(fault) = certificates::check_pair(certificate, key) {
            let place = if matches!(fault, Fault::Key(_) | Fault::Mismatch) { key_key } else { certificate_key };
            return self.error(place, fault.to_string(), help);
        }
        let Some(left) = certificates::time_left(certificate, self.now) else {
            return;
        };
        if left.is_zero() {
            self.error(certificate_key, "the certificate has expired", help);
        } else if left < RENEW_BEFORE {
            let days = left.as_secs() / 86_400;
            self.warning(certificate_key, format!("the certificate expires in {days} days"), help);
        }
    }

    fn file(&mut self, key: impl Into<String>, path: &Path, help: &str) -> Option<String> {
        match std::fs::read_to_string(path) {
            Ok(text) => Some(text),
            Err(error) => {
                self.error(key, format!("cannot read {}: {}", path.display(), reason(&error)), help);
                None
            }
        }
    }

    fn private_file(&mut self, key: impl Into<String>, path: &Path) {
        let key = key.into();
        let help = format!("make a secret by: head -c 32 /dev/urandom | base64 > {}", path.display());
        if self.file(key.clone(), path, &help).is_some() {
            self.private_mode(key, path);
        }
    }

    fn private_mode(&mut self, key: impl Into<String>, path: &Path) {
        let world_readable = std::fs::metadata(path).is_ok_and(|facts| facts.permissions().mode() & 0o004 != 0);
        if world_readable {
            let message = format!("every user of this machine can read {}", path.display());
            self.warning(key, message, format!("type: chmod 600 {}", path.display()));
        }
    }
}

/// The error without the number that Rust adds, which helps nobody who reads a finding.
fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

/// Whether two sockets of the same protocol could not both be bound.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let same_address = one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port() && one.port() != 0 && same_address
}

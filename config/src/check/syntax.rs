//! The written forms of addresses, origins and hosts.

use std::net::SocketAddr;

pub(super) fn is_host_and_port(address: &str) -> bool {
    if address.parse::<SocketAddr>().is_ok() {
        return true;
    }
    address.rsplit_once(':').is_some_and(|(host, port)| is_host(host) && port.parse::<u16>().is_ok_and(|port| port > 0))
}

fn is_host(host: &str) -> bool {
    !host.is_empty()
        && host.len() <= 253
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.')
}

/// Whether `text` is a type and a subtype in lower case without parameters, as `image/png`.
pub(super) fn is_content_type(text: &str) -> bool {
    let is_part = |part: &str| {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$&^_.+-".contains(&byte);
        (1..=64).contains(&part.len()) && part.bytes().all(plain)
    };
    text.split_once('/').is_some_and(|(kind, of)| is_part(kind) && is_part(of))
}

/// A host with an optional port, as between `//` and the path of a URL.
pub(super) fn is_authority(authority: &str) -> bool {
    is_host(authority) || is_host_and_port(authority) || is_bracketed(authority)
}

fn is_bracketed(authority: &str) -> bool {
    authority
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok())
}

pub(super) fn is_origin(origin: &str) -> bool {
    ["https://", "http://"].iter().find_map(|scheme| origin.strip_prefix(scheme)).is_some_and(is_authority)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_have_a_scheme_and_no_path() {
        for good in ["https://chat.example.com", "http://localhost:8081", "https://[::1]"] {
            assert!(is_origin(good), "{good}");
        }
        for bad in ["chat.example.com", "https://chat.example.com/", "https://", "ftp://x", "https://a b"] {
            assert!(!is_origin(bad), "{bad}");
        }
    }

    #[test]
    fn addresses_of_links_have_a_host_and_a_port() {
        assert!(
            is_host_and_port("10.0.0.1:7443") && is_host_and_port("[::1]:7443") && is_host_and_port("eu.example.com:1")
        );
        assert!(
            !is_host_and_port("eu.example.com") && !is_host_and_port(":7443") && !is_host_and_port("eu.example.com:0")
        );
    }
}

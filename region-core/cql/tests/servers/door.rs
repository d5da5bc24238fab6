//! The way in at servers: TLS in front of the real one, and one that asks for a password and takes none.

use std::net::SocketAddr;
use std::sync::Arc;

use region_cql::{Cql, CqlOptions, Login, OpenError, Tls};
use region_model::conformance::samples::{append, conversation};
use region_model::ports::AppendOutcome;
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::{Keyspace, options, region};

/// A certificate of a node at this address, and the server's side of it.
fn node_at(name: &str) -> (String, TlsAcceptor) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.expect("versions").with_no_client_auth();
    let config = config.with_single_cert(vec![made.cert.der().clone()], key).expect("a pair");
    (made.cert.pem(), TlsAcceptor::from(Arc::new(config)))
}

/// A way to the server that speaks TLS.
async fn tls_way(server: String, acceptor: TlsAcceptor) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
    let address = listener.local_addr().expect("has an address");
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (acceptor, server) = (acceptor.clone(), server.clone());
            tokio::spawn(async move {
                let Ok(mut client) = acceptor.accept(client).await else { return };
                let Ok(mut server) = TcpStream::connect(&server).await else { return };
                // Either end may break off.
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_speaks_tls_to_nodes_whose_authority_it_knows_and_to_no_others() {
    let keyspace = Keyspace(options(7));
    drop(super::open(&keyspace.0));
    let (certificate, acceptor) = node_at("127.0.0.1");
    let address = tls_way(keyspace.0.nodes[0].clone(), acceptor).await;
    let through = |authorities: String| CqlOptions {
        nodes: vec![address.to_string()],
        tls: Some(Tls { authorities, identity: None }),
        ..keyspace.0.clone()
    };
    let store = Cql::open(&through(certificate), &region()).await.expect("opens").stores();
    let outcome = store.log.append(vec![append(conversation(1), 0, 2)]).await.expect("appends");
    assert!(matches!(outcome[0], AppendOutcome::Applied { .. }), "{outcome:?}");
    let (foreign, _) = node_at("127.0.0.1");
    let refused = Cql::open(&through(foreign), &region()).await.expect_err("nobody knows it");
    println!("{refused}");
    assert!(matches!(&refused, OpenError::Server { reason, .. } if reason.contains("certificate")), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_certificate_names_another_address_is_not_believed() {
    let keyspace = Keyspace(options(7));
    let (certificate, acceptor) = node_at("10.0.0.5");
    let address = tls_way(keyspace.0.nodes[0].clone(), acceptor).await;
    let tls = Some(Tls { authorities: certificate, identity: None });
    let through = CqlOptions { nodes: vec![address.to_string()], tls, ..keyspace.0.clone() };
    let refused = Cql::open(&through, &region()).await.expect_err("it is another node");
    println!("{refused}");
    assert!(matches!(refused, OpenError::Server { .. }), "{refused}");
}

/// A server that asks who somebody is, and believes nobody.
async fn doorkeeper() -> SocketAddr {
    const OPTIONS: u8 = 0x05;
    const STARTUP: u8 = 0x01;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
    let address = listener.local_addr().expect("has an address");
    let text = |text: &str| [&u16::try_from(text.len()).expect("short").to_be_bytes()[..], text.as_bytes()].concat();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut header = [0; 9];
                while client.read_exact(&mut header).await.is_ok() {
                    let length = u32::from_be_bytes(header[5..].try_into().expect("four bytes"));
                    let mut body = vec![0; usize::try_from(length).expect("fits")];
                    if client.read_exact(&mut body).await.is_err() {
                        return;
                    }
                    let (answer, body) = match header[4] {
                        OPTIONS => (0x06, vec![0, 0]),
                        STARTUP => (0x03, text("org.apache.cassandra.auth.PasswordAuthenticator")),
                        _ => (
                            0x00,
                            [&[0, 0, 1, 0][..], &text("Provided username and/or password are incorrect")].concat(),
                        ),
                    };
                    let length = u32::try_from(body.len()).expect("short").to_be_bytes();
                    let head = [&[0x84, 0, header[2], header[3], answer][..], &length, &body].concat();
                    if client.write_all(&head).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_not_let_in_says_why_and_does_not_say_the_password() {
    let asked = CqlOptions { nodes: vec![doorkeeper().await.to_string()], ..options(7) };
    let refused = Cql::open(&asked, &region()).await.expect_err("nobody is let in");
    assert!(matches!(&refused, OpenError::Login { reason, .. } if reason.contains("password_file")), "{refused}");
    let login = Some(Login { username: "hearth".into(), password: "a password".into() });
    let asked = CqlOptions { login, ..asked };
    let refused = Cql::open(&asked, &region()).await.expect_err("nobody is let in");
    assert!(matches!(&refused, OpenError::Login { reason, .. } if reason.contains("incorrect")), "{refused}");
    assert!(!format!("{refused} {asked:?}").contains("a password"));
}

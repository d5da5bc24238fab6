//! An HTTP service over TLS on this machine, and what every test needs.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use hearth_protocol::{ConversationId, DeviceId, Epoch, Position, Sequence, Timestamp};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::{HeaderMap, Method, Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use parking_lot::Mutex;
use rcgen::{CertificateParams, KeyPair};
use region_model::push::Showing;
use region_model::push::ports::{Detail, Notice, Subscription, Target};
use region_push::{Addresses, HttpOptions, Roots};
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use uuid::Uuid;

/// A moment at which every test begins.
pub(crate) const NOW: Timestamp = Timestamp(1_800_000_000_000);

/// A request as a service got it.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) version: Version,
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Received {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub(crate) fn bearer(&self) -> Option<&str> {
        self.header("authorization")?.strip_prefix("Bearer ")
    }
}

/// What a service answers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<String>) -> Self {
        Self { status, headers: Vec::new(), body: body.into() }
    }

    pub(crate) fn retry_after(mut self, value: &str) -> Self {
        self.headers.push(("retry-after", value.to_owned()));
        self
    }
}

/// What a service decides by.
pub(crate) type Answering = Arc<dyn Fn(&Received) -> Reply + Send + Sync>;

/// A service that runs until it is dropped.
pub(crate) struct TlsService {
    pub(crate) origin: String,
    pub(crate) root: Vec<u8>,
    received: Arc<Mutex<Vec<Received>>>,
    /// Answers that come before the service looks at a request.
    next: Arc<Mutex<VecDeque<Reply>>>,
    task: JoinHandle<()>,
}

impl Drop for TlsService {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl TlsService {
    /// Listens on a free port of this machine, speaking what `versions` names (`h2`, `http/1.1`).
    pub(crate) async fn start(versions: &[&str], answering: Answering) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["localhost".into()]).unwrap().self_signed(&key).unwrap();
        let root = certificate.der().to_vec();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder =
            rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let chain = vec![certificate.der().clone()];
        let mut config = builder.with_no_client_auth().with_single_cert(chain, key.into()).unwrap();
        config.alpn_protocols = versions.iter().map(|version| version.as_bytes().to_vec()).collect();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let (received, next) = (Arc::new(Mutex::default()), Arc::new(Mutex::new(VecDeque::new())));
        let shared = (Arc::clone(&received), Arc::clone(&next), answering);
        let task = tokio::spawn(accept(listener, Arc::new(config), shared));
        Self { origin, root, received, next, task }
    }

    /// How a sender reaches it.
    pub(crate) fn http(&self) -> HttpOptions {
        HttpOptions { roots: Roots::Only(vec![self.root.clone()]), addresses: Addresses::Any }
    }

    /// Answers so once, whatever is asked.
    pub(crate) fn answer_next(&self, reply: Reply) {
        self.next.lock().push_back(reply);
    }

    /// What came so far.
    pub(crate) fn received(&self) -> Vec<Received> {
        self.received.lock().clone()
    }

    pub(crate) fn last(&self) -> Received {
        self.received.lock().last().cloned().expect("a request")
    }
}

type Shared = (Arc<Mutex<Vec<Received>>>, Arc<Mutex<VecDeque<Reply>>>, Answering);

async fn accept(listener: TcpListener, config: Arc<rustls::ServerConfig>, shared: Shared) {
    let acceptor = tokio_rustls::TlsAcceptor::from(config);
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, shared) = (acceptor.clone(), shared.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            // As the real ones: whoever did not agree on HTTP/2 where only that is spoken gets no further.
            let service = hyper::service::service_fn(move |request| handle(request, shared.clone()));
            let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn handle(request: Request<Incoming>, shared: Shared) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let received = Received { version: head.version, method: head.method, path, headers: head.headers, body };
    let (log, next, answering) = shared;
    let scripted = next.lock().pop_front();
    let reply = scripted.unwrap_or_else(|| answering(&received));
    log.lock().push(received);
    let mut response = Response::builder().status(reply.status);
    for (name, value) in reply.headers {
        response = response.header(name, value);
    }
    Ok(response.body(Full::new(Bytes::from(reply.body))).unwrap())
}

/// A client of ours that sends whatever a test breaks.
pub(crate) fn plain_client(service: &TlsService, http2: bool) -> reqwest::Client {
    let root = reqwest::Certificate::from_der(&service.root).unwrap();
    let builder = reqwest::Client::builder().no_proxy().tls_certs_only([root]);
    let builder = if http2 { builder } else { builder.http1_only() };
    builder.build().unwrap()
}

pub(crate) fn subscription(target: Target) -> Subscription {
    let device = DeviceId(Uuid::from_u128(1));
    Subscription { id: Uuid::from_u128(2), device, registered_at: Timestamp(NOW.0 - 1_000), target }
}

pub(crate) fn notice(detail: Detail) -> Notice {
    Notice {
        conversation: ConversationId(Uuid::from_u128(0xc0)),
        collapse: "n9HuwtcYqBmHkyF8_2oG5A".to_owned(),
        position: Position { epoch: Epoch(3), sequence: Sequence(41) },
        showing: Showing::Notify { unread: 2, mentions: false, expires_at: None },
        detail,
        not_after: Timestamp(NOW.0 + 3_600_000),
    }
}

pub(crate) fn clear() -> Notice {
    Notice { showing: Showing::Clear, ..notice(Detail::Ids) }
}

//! What goes out to push services: the queue on the region's own store, the senders of the configuration, and the loop
//! between them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use hearth_config::{PushSays, PushSection, RegionConfig, WebPushSection};
use hearth_protocol::push::{Service, Subscription, Target};
use hearth_protocol::{RegionId, Timestamp, UserId};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use region_core::{PushDoor, PushOptions, RegionHandle};
use region_model::ports::MapStore;
use region_model::push::PushTimes;
use region_model::push::ports::{Preview, PushJob};
use region_push::apns::{ApnsOptions, ApnsSender};
use region_push::fcm::{FcmOptions, FcmSender};
use region_push::web_push::{Vapid, WebPushOptions, WebPushSender, check_endpoint};
use region_push::{
    Addresses, CollapseKey, Directory, DispatchOptions, Dispatcher, HttpOptions, LogSender, Roots, Said, Senders,
    StoredQueue,
};
use uuid::Uuid;

use crate::region::StartError;

/// Jobs that wait in one region; of more none is taken, and the devices find the messages at their next sync.
const JOBS: usize = 100_000;
/// How long a push waits for its device.
const LIVES: Duration = Duration::from_secs(24 * 3_600);

/// What a region sends pushes by.
pub(crate) struct PushParts {
    /// For the core.
    pub(crate) options: PushOptions,
    queue: Arc<StoredQueue>,
    senders: Senders,
    said: Said,
    collapse: CollapseKey,
}

fn clock() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// What clients may subscribe to: services that have a sender, and addresses that it may be made to connect to.
#[derive(Debug, Default)]
pub(crate) struct Door {
    services: Vec<Service>,
    addresses: Addresses,
    key: Option<String>,
}

impl PushDoor for Door {
    fn check(&self, target: &Target) -> Result<(), &'static str> {
        if !self.services.contains(&target.service()) {
            return Err("this mesh sends no pushes by that service");
        }
        match target {
            Target::WebPush { endpoint, .. } => check_endpoint(endpoint, self.addresses).map(drop),
            Target::Apns { .. } | Target::Fcm { .. } => Ok(()),
        }
    }

    fn application_server_key(&self) -> Option<String> {
        self.key.clone()
    }
}

/// Subscriptions as the records of users have them.
#[derive(Debug)]
struct Records(RegionHandle);

#[async_trait]
impl Directory for Records {
    async fn subscription(&self, user: &UserId, id: Uuid) -> Option<Subscription> {
        self.0.push_subscription(user, id).await
    }

    async fn gone(&self, user: &UserId, subscription: &Subscription) {
        self.0.push_gone(user, subscription).await;
    }

    /// No text goes to a push service: nothing in the configuration asks for it.
    async fn preview(&self, _: &PushJob) -> Option<Preview> {
        None
    }
}

impl PushParts {
    /// From the configuration, with what an earlier process left waiting.
    ///
    /// # Errors
    /// When a key or an account cannot be used, or the store does not read.
    pub(crate) async fn new(config: &RegionConfig, store: Arc<dyn MapStore>) -> Result<Self, StartError> {
        let (senders, door) = senders(&config.push)?;
        let queue = Arc::new(StoredQueue::open(store, JOBS, clock()).await?);
        let secret = match config.auth.resume_keys.first() {
            Some(key) => key.read_secret().map_err(|error| StartError::Config(error.to_string()))?,
            None => None,
        };
        // All regions have the same; what it is used for is in the hash.
        let collapse = CollapseKey::new(secret.as_ref().map_or(&[], |secret| secret.expose()));
        let said = match config.push.says {
            PushSays::Nothing => Said::Nothing,
            PushSays::Ids => Said::Ids,
        };
        let options =
            PushOptions { queue: queue.clone(), door: Arc::new(door), times: PushTimes::default(), lives: LIVES };
        Ok(Self { options, queue, senders, said, collapse })
    }

    /// The loop, to be run until it is told to stop.
    pub(crate) fn dispatcher(self, handle: &RegionHandle, registry: &mut Registry) -> Arc<Dispatcher> {
        let options = DispatchOptions { said: self.said, ..DispatchOptions::default() };
        let directory = Arc::new(Records(handle.clone()));
        let queue = self.queue.clone();
        let dispatcher = Dispatcher::new(queue, directory, self.senders, self.collapse, options, Arc::new(clock));
        let dispatcher = Arc::new(dispatcher);
        let (region, queue) = (handle.region().clone(), self.queue);
        registry.register_collector(Box::new(PushCollector { region, queue, dispatcher: dispatcher.clone() }));
        dispatcher
    }
}

fn senders(push: &PushSection) -> Result<(Senders, Door), StartError> {
    let config =
        |what: &'static str| move |error: region_push::SetupError| StartError::Config(format!("{what}: {error}"));
    let mut senders = Senders::new();
    let mut door = Door { services: Vec::new(), addresses: Addresses::Public, key: None };
    if push.log {
        for service in [Service::WebPush, Service::Apns, Service::Fcm] {
            senders.insert(service, Arc::new(LogSender));
        }
        // Nothing is connected to.
        door.addresses = Addresses::Any;
    }
    if let Some(web) = &push.web {
        let options = web_push(web)?;
        door.addresses = options.http.addresses;
        door.key = Some(options.vapid.public_key().to_owned());
        let sender = WebPushSender::new(options).map_err(config("push.web"))?;
        senders.insert(Service::WebPush, Arc::new(sender));
    }
    if let Some(apns) = &push.apns {
        let origin = if apns.development { region_push::apns::DEVELOPMENT } else { region_push::apns::PRODUCTION };
        let options = ApnsOptions {
            origin: origin.to_owned(),
            team_id: apns.team_id.clone(),
            key_id: apns.key_id.clone(),
            key_pem: apns.key.read().map_err(|error| StartError::Config(error.to_string()))?,
            topic: apns.topic.clone(),
            http: HttpOptions::default(),
        };
        senders.insert(Service::Apns, Arc::new(ApnsSender::new(options).map_err(config("push.apns"))?));
    }
    if let Some(fcm) = &push.fcm {
        let account = hearth_config::read_text(&fcm.account);
        let options = FcmOptions {
            origin: region_push::fcm::PRODUCTION.to_owned(),
            service_account: account.map_err(|error| StartError::Config(error.to_string()))?,
            http: HttpOptions::default(),
        };
        senders.insert(Service::Fcm, Arc::new(FcmSender::new(options).map_err(config("push.fcm"))?));
    }
    door.services = senders.keys().copied().collect();
    Ok((senders, door))
}

fn web_push(web: &WebPushSection) -> Result<WebPushOptions, StartError> {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
    let config = |what: &str, error: String| StartError::Config(format!("push.web.{what}: {error}"));
    let key = web.key.read().map_err(|error| config("key", error.to_string()))?;
    let key = PrivatePkcs8KeyDer::from_pem_slice(key.as_bytes()).map_err(|error| config("key", error.to_string()))?;
    let vapid = Vapid::new(key.secret_pkcs8_der(), &web.contact).map_err(|error| config("key", error.to_string()))?;
    let roots = match &web.authorities {
        None => Roots::Platform,
        Some(authorities) => {
            let text = authorities.read().map_err(|error| config("authorities", error.to_string()))?;
            let read: Result<Vec<CertificateDer<'_>>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
            let read = read.map_err(|error| config("authorities", error.to_string()))?;
            Roots::Only(read.into_iter().map(|certificate| certificate.to_vec()).collect())
        }
    };
    let addresses = if web.any_address { Addresses::Any } else { Addresses::Public };
    Ok(WebPushOptions { vapid, http: HttpOptions { roots, addresses } })
}

#[derive(Debug)]
struct PushCollector {
    region: RegionId,
    queue: Arc<StoredQueue>,
    dispatcher: Arc<Dispatcher>,
}

impl Collector for PushCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let counters = self.dispatcher.counters();
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let results = [
            ("accepted", load(&counters.accepted)),
            ("gone", load(&counters.gone)),
            ("waited", load(&counters.waited)),
            ("failed", load(&counters.failed)),
            ("given_up", load(&counters.given_up)),
            ("expired", load(&counters.expired)),
        ];
        let (name, help) = ("hearth_push_attempts", "What came of pushes");
        let kind = prometheus_client::metrics::MetricType::Counter;
        let mut attempts = encoder.encode_descriptor(name, help, None, kind)?;
        for (result, count) in results {
            let labels = [("region", self.region.as_str().to_owned()), ("result", result.to_owned())];
            ConstCounter::new(count).encode(attempts.encode_family(&labels)?)?;
        }
        let waiting = ConstGauge::new(i64::try_from(self.queue.len()).unwrap_or(i64::MAX));
        let labels = [("region", self.region.as_str().to_owned())];
        let mut gauge =
            encoder.encode_descriptor("hearth_push_queue", "Pushes that wait", None, waiting.metric_type())?;
        waiting.encode(gauge.encode_family(&labels)?)
    }
}

use std::path::PathBuf;

use super::*;
use hearth_config::{
    AuthSection, DrainSection, FailoverSection, Limits, LogSection, MeshSection, RegionSection, ReplicationSection,
};

fn config() -> RegionConfig {
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
    RegionConfig {
        region: RegionSection { id: "eu".to_owned(), node: "core-1".to_owned(), data: PathBuf::from("data") },
        mesh: MeshSection {
            id: "test".to_owned(),
            listen: nowhere,
            certificate: Pem::Inline(String::new()),
            key: Pem::Inline(String::new()),
            ca: Pem::Inline(String::new()),
            regions: vec![hearth_config::MeshRegion::new("eu", "127.0.0.1:1")],
        },
        listen: ListenSection::new(nowhere),
        auth: AuthSection::default(),
        limits: Limits::default(),
        replication: ReplicationSection::default(),
        failover: FailoverSection::default(),
        administration: hearth_config::AdministrationSection::default(),
        drain: DrainSection::default(),
        store: hearth_config::StoreSection::default(),
        push: hearth_config::PushSection::default(),
        media: hearth_config::MediaSection::default(),
        log: LogSection::default(),
    }
}

#[test]
fn pages_of_the_public_name_may_connect_beside_the_allowed_ones() {
    let mut config = config();
    assert!(gateway_options(&config, None, false).access.allowed_origins.is_empty());
    config.listen.public_http = Some("https://eu.example.com".to_owned());
    config.listen.allowed_origins = vec!["https://chat.example.com".to_owned()];
    let origins = gateway_options(&config, None, false).access.allowed_origins;
    assert_eq!(origins, ["https://chat.example.com", "https://eu.example.com"]);
}

#[tokio::test]
async fn a_port_that_is_about_to_be_free_is_waited_for() {
    let held = bind_udp(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
    let address = held.local_addr().expect("bound");
    let (bound, ()) = tokio::join!(bind_udp_patiently(address), async { drop(held) });
    assert_eq!(bound.expect("it is free").local_addr().expect("bound"), address);
}

#[test]
fn the_limits_of_the_configuration_are_those_of_edge_and_core() {
    let mut config = config();
    config.limits.sessions = 80;
    config.limits.connections_per_address = 90;
    config.limits.connects_per_minute = 91;
    (config.limits.logins_at_once, config.limits.resumes_at_once) = (92, 93);
    config.limits.conversation_messages_per_minute = 94;
    config.limits.explained_messages = 95;
    config.limits.session_queue_frames = 17;
    config.limits.session_queue_bytes = 70_000;
    config.limits.answer_timeout = Duration::from_secs(3);
    config.limits.heartbeat_timeout = Duration::from_secs(31);
    let edge = gateway_options(&config, None, false);
    let limits = &edge.limits;
    assert_eq!((limits.sessions, limits.session_queue, limits.session_queue_bytes), (80, 17, 70_000));
    assert!(limits.connections > limits.sessions, "REST has room beside sessions");
    assert_eq!((limits.connections_per_address, limits.connects_per_minute), (90, 91));
    assert_eq!((limits.logins_at_once, limits.resumes_at_once), (92, 93));
    assert_eq!(edge.times.heartbeat_timeout, Duration::from_secs(31));
    let region = region_id("eu").expect("a name");
    let push = PushOptions {
        queue: Arc::new(region_push::MemoryQueue::new(1)),
        door: Arc::new(crate::push::Door::default()),
        times: region_model::push::PushTimes::default(),
        lives: Duration::ZERO,
    };
    config.media.item_bytes = 7_000;
    let store = Arc::new(crate::media::s3(&an_s3_store()).expect("a store"));
    let media = MediaOptions { store, rules: crate::media::rules(&config.media) };
    let core = region_options(&config, &region, push, media).expect("a region");
    assert_eq!(core.media.rules.item_bytes, 7_000);
    assert_eq!(core.answer_timeout, Duration::from_secs(3));
    assert_eq!((core.bounds.conversation_messages_per_minute, core.explained_messages), (94, 95));
}

fn an_s3_store() -> hearth_config::S3Section {
    hearth_config::S3Section {
        endpoint: "https://s3.example.com".to_owned(),
        bucket: "media".to_owned(),
        region: "eu".to_owned(),
        path_style: true,
        access_key_id: "id".to_owned(),
        secret_access_key_file: None,
        secret_access_key: Some(hearth_config::SecretText::new("secret")),
    }
}

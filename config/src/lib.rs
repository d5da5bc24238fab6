//! What a region of Hearth is told and how it is told what is wrong with it: the configuration with
//! errors exact to the line, the mesh's certificate authority, logging, and whole-or-absent file writes.

mod ca;
mod certificates;
mod check;
mod document;
mod explain;
mod files;
mod limits;
mod load;
mod media;
mod model;
mod postgres;
mod push;
mod report;
mod store;
mod telemetry;
mod values;

pub use ca::{
    ADMIN, CaError, CaPaths, CertificateAuthority, IssueOptions, IssuedCertificate, IssuedPaths, init, issue,
    issue_admin, self_signed_webtransport,
};
pub use certificates::{Fault, admin_name, check_pair, crypto_provider, time_left, verify};
pub use files::{FileError, PRIVATE, PUBLIC, create_folder, read_text, sync_folder, write_atomic};
pub use limits::Limits;
pub use load::{check_file, environment, load, load_at};
pub use media::{MediaSection, S3Section};
pub use model::{
    AdministrationSection, AuthSection, DrainSection, FailoverSection, ListenSection, LogFormat, LogSection,
    MAP_VERSION, MeshRegion, MeshSection, RegionConfig, RegionSection, ReplicationSection, ResumeKey, TlsFiles,
    WebTransportCertificate,
};
pub use postgres::PostgresSection;
pub use push::{ApnsSection, FcmSection, PushSays, PushSection, WebPushSection};
pub use report::{CheckReport, ConfigError, Finding, Location, Severity};
pub use store::{CqlSection, StoreSection};
pub use telemetry::{LoggingError, init_logging};
pub use values::{Network, NetworkError, Pem, SecretText, is_name};

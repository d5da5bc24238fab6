//! Administration: a port of its own on every node, for who has a certificate of `hearth ca issue admin`.
//!
//! ```text
//!   hearth region … ──mutual TLS──► listener ──► routes ──► reads   (node.rs, verify.rs)
//!   (client.rs)                     (tls.rs)           └──► change ─► audit: began ─► failover, drain, moves, regions, erase, backup
//!                                                                                └─► audit: done | refused | failed
//! ```
//! A change is made by one region map command after the other, and by the [`Mover`]; each step may be made twice, so a
//! change that was cut off is typed again.

mod audit;
mod backup;
mod change;
mod client;
mod drain;
mod erase;
mod failback;
mod failover;
mod listener;
mod lossy;
mod mover;
mod moves;
mod node;
mod regions;
mod routes;
mod tls;
mod verify;
mod votes;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use hearth_config::{MeshSection, PRIVATE, write_atomic};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

pub use change::Teller;
pub use client::{AdminClient, AskError};
pub use mover::{Mover, NotMoved};
pub(crate) use node::AdminNode;
pub use tls::{AdminPem, AdminTlsError, client_without_a_look};
pub use verify::{NotVerified, folder as verify_folder};

use crate::region::StartError;

/// Where a node says where its administration port is, in its data folder.
pub const ADDRESS_FILE: &str = "administration.json";
/// The folder of the audit log, in the node's data folder.
const AUDIT_FOLDER: &str = "audit";

/// What is in [`ADDRESS_FILE`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressFile {
    /// The address of the port.
    pub listen: SocketAddr,
}

/// The audit log of the node whose data are in a folder.
pub(crate) fn audit_in(data: &Path) -> audit::Audit {
    audit::Audit::new(data.join(AUDIT_FOLDER))
}

/// Serves administrators until dropped.
///
/// # Errors
/// [`StartError::Config`] when the mesh's certificates cannot be used, or the address cannot be written down.
pub(crate) fn serve(
    listener: TcpListener,
    node: AdminNode,
    mesh: &MeshSection,
    data: &Path,
) -> Result<impl Future<Output = ()> + use<>, StartError> {
    let config = |error: String| StartError::Config(format!("the administration port: {error}"));
    let text = |pem: &hearth_config::Pem| pem.read().map_err(|error| config(error.to_string()));
    let pem = AdminPem { ca: text(&mesh.ca)?, certificate: text(&mesh.certificate)?, key: text(&mesh.key)? };
    let tls = tls::server(&pem).map_err(|error| config(error.to_string()))?;
    let listen = listener.local_addr().map_err(|error| config(error.to_string()))?;
    let body = serde_json::to_vec(&AddressFile { listen }).map_err(|error| config(error.to_string()))?;
    write_atomic(&data.join(ADDRESS_FILE), &body, PRIVATE).map_err(|error| config(error.to_string()))?;
    Ok(listener::serve(listener, tls, routes::routes(Arc::new(node))))
}

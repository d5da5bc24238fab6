//! The development mesh: regions of one machine, with real links, real stores and faults on command.

mod control;
mod folder;
mod mesh;
mod processes;
mod routes;
mod run;
mod servers;
mod spec;

pub use control::{ControlAnswer, ControlRequest, ask};
pub use folder::{FolderError, MeshFile, admin_pem, read_mesh_file};
pub use mesh::{DevMesh, RegionRow};
pub use processes::child;
pub use run::{DevError, ready_line, run};
pub use servers::DevServers;
pub use spec::{DevOptions, DevSpec, DevStores, Latency, RegionSpec, ServerAddress};

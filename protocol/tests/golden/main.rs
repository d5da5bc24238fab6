//! The bytes of every frame and of every stored record, kept in the `.txt` files beside this one. A change that moves
//! one of them breaks running meshes or data on disk: it needs a new version byte or a new tag, not a new golden line.

mod administration;
mod frames_of_clients;
mod frames_of_edges;
mod mesh_frames;
mod robustness;
mod sample;
mod stored_records;

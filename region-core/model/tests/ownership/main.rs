//! Models of the ownership protocol over the decision types that ship (docs/ownership.md).

mod actions;
mod entry;
mod explore;
mod followers;
mod holds;
mod mutants;
mod properties;
mod world;

//! Stories and properties of a mesh of cores over simulated links and stores.

mod support;
mod properties;
mod sends;

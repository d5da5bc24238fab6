//! Both stores of media: the folder, and an S3-compatible server from a package registry.

mod local;
mod s3;

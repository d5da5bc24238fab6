//! Both stores of media: the folder, and an S3-compatible server from a package registry.

#[cfg(test)]
mod local;
#[cfg(test)]
#[path = "../../../push/tests/push/python.rs"]
mod python;
#[cfg(test)]
mod s3;

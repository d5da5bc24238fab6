//! Places between append and publish where a test may end the process.

/// Ends the process here, as `kill -9` would, when the environment variable `HEARTH_FAIL_POINT` is `name` or
/// `name:N` and this is the N-th pass. Compiled to nothing without the feature `fail-points`.
#[cfg(feature = "fail-points")]
pub(crate) fn fail_point(name: &str) {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    static WANTED: LazyLock<Option<(String, u64)>> = LazyLock::new(|| {
        let text = std::env::var("HEARTH_FAIL_POINT").ok()?;
        let (name, count) = text.split_once(':').unwrap_or((&text, "1"));
        Some((name.to_owned(), count.parse().ok()?))
    });
    static PASSES: AtomicU64 = AtomicU64::new(0);
    if let Some((wanted, count)) = WANTED.as_ref()
        && wanted == name
        && PASSES.fetch_add(1, Ordering::SeqCst) + 1 == *count
    {
        std::process::abort();
    }
}

/// Nothing, without the feature `fail-points`.
#[cfg(not(feature = "fail-points"))]
pub(crate) fn fail_point(_name: &str) {}

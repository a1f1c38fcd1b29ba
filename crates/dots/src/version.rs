//! Which program this is.

/// This program and its build, as runs and caches note it: two builds may round differently.
pub fn made_by() -> String {
    format!("dots {} ({})", env!("CARGO_PKG_VERSION"), option_env!("DOTS_BUILD").unwrap_or("release"))
}

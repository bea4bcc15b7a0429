//! How much is tried.

/// Whether everything is to be tried that there is, however long it takes (`PODSHIM_FAULTS=all`), or what fits into a minute or two.
pub(crate) fn is_long() -> bool {
    std::env::var_os("PODSHIM_FAULTS").is_some_and(|asked| asked == "all")
}

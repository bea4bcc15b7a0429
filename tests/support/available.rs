//! What a test needs of the machine; used by several test binaries.

/// Whether what a test needs is here; if not, that fails unless `PODSHIM_MAY_SKIP` names it.
pub(crate) fn available(needs: &[&str]) -> bool {
    let may = std::env::var("PODSHIM_MAY_SKIP").unwrap_or_default();
    needs.iter().all(|need| {
        let here = match *need {
            "root" => nix::unistd::geteuid().is_root(),
            program => std::env::split_paths(&std::env::var_os("PATH").unwrap()).any(|d| d.join(program).exists()),
        };
        assert!(here || may.split(',').any(|w| w.trim() == *need), "needs {need} (or PODSHIM_MAY_SKIP={need})");
        here
    })
}

//! The documents about the network that a command brings along: Services, NetworkPolicies, Namespaces.

use super::network_args::NetworkArgs;
use super::output;
use crate::error::say;
use crate::manifest::NetworkDocument;
use crate::network::{self, objects};
use crate::paths::Dirs;
use anyhow::Result;
pub(super) use objects::Semantics;

/// What a command has put. Dropped, it is taken back, unless it is to stay.
pub(super) struct Put<'d> {
    dirs: &'d Dirs,
    changes: Vec<objects::Changed>,
}

/// Puts the documents, and makes the network follow.
pub(super) fn put<'d>(
    documents: &[NetworkDocument],
    (args, semantics): (&NetworkArgs, Semantics),
    dirs: &'d Dirs,
) -> Result<Put<'d>> {
    let changes = match documents {
        [] => Vec::new(),
        _ => objects::put(&dirs.network(), &args.bridge(network::there(dirs)?)?, documents, semantics)?,
    };
    let put = Put { dirs, changes };
    put.sync()?;
    Ok(put)
}

impl Put<'_> {
    fn sync(&self) -> Result<()> {
        if self.changes.iter().any(|change| change.done != objects::Done::Unchanged) {
            network::sync(self.dirs)?;
        }
        Ok(())
    }

    /// Whether there were any documents.
    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// They stay. What became of each is said, as `kubectl apply` says it.
    pub(super) fn keep(mut self) -> Result<()> {
        std::mem::take(&mut self.changes).iter().try_for_each(output::line)
    }
}

impl Drop for Put<'_> {
    fn drop(&mut self) {
        if self.changes.is_empty() {
            return;
        }
        let back = objects::take_back(&self.dirs.network(), &self.changes).and_then(|()| self.sync());
        if let Err(error) = back {
            say!("podshim: warning: {error:#}");
        }
    }
}

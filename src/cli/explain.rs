//! `podshim explain`: a field as kubectl explains it, with what podshim does with it; how a pod was made; what two pods share.

use super::output;
use super::recover;
use crate::cgroups::Cgroup;
use crate::error::{Kind, failure, kind_of};
use crate::explain::{Detail, Member, Teller, compared};
use crate::host;
use crate::manifest::{Explanation, explain};
use crate::paths::Dirs;
use crate::plan::config::CgroupPath;
use crate::store::Pod;
use crate::supervisor::timeline::Tail;
use crate::sys::Called;
use anyhow::Result;
use clap::Args;
use std::collections::BTreeMap;
use std::path::Path;

/// Columns of text.
const WIDTH: usize = 96;

#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    /// A field, like pod.spec.containers.livenessProbe; or a pod, NAME or NAMESPACE/NAME, that was run with --explain
    #[arg(value_name = "FIELD|POD")]
    what: String,
    /// Another pod: what the two share, and what each has of its own
    #[arg(value_name = "POD")]
    other: Option<String>,
    /// How much to tell of a pod
    #[arg(long, default_value = "full")]
    detail: Detail,
}

pub(super) fn run(args: ExplainArgs, dirs: &Dirs) -> Result<()> {
    if let Some(other) = &args.other {
        super::require_root()?;
        let members = [&args.what, other].into_iter().map(|name| members(&recover::find(dirs, name)?, dirs));
        let mut members: Vec<Member> = members.collect::<Result<Vec<_>>>()?.concat();
        members.push(member("this host".to_owned(), "self".as_ref())?);
        return output::text(&compared(&members));
    }
    // A pod of a name that is a field's, too, is told by NAMESPACE/NAME.
    let no_field = match explain(&args.what) {
        Ok(found) => return field(&found),
        Err(message) => failure(Kind::NotFound, message),
    };
    let is_field = |first: &str| ["pod", "pods", "po", "spec", "metadata", "status"].contains(&first);
    if args.what.split_once('.').is_some_and(|(first, _)| is_field(first)) {
        return Err(no_field);
    }
    super::require_root()?;
    match recover::find(dirs, &args.what) {
        Ok(pod) => story(&pod, args.detail),
        Err(error) if kind_of(&error) == Some(Kind::NotFound) => {
            Err(error.context(format!("{:?} is neither a field of a pod's manifest nor a pod", args.what)))
        }
        Err(error) => Err(error),
    }
}

/// What was done to make a pod.
fn story(pod: &Pod, detail: Detail) -> Result<()> {
    let name = pod.full_name();
    let entries = Tail::new(&pod.dirs).read()?;
    if entries.is_empty() {
        let message = format!(
            "pod {name} was not run with --explain, so that nothing of its making was written down: \
             `podshim run --explain` does, and `podshim plan` shows what would be done"
        );
        return Err(failure(Kind::NotReady, message));
    }
    let mut teller = Teller::new(Some(name), detail, &pod.dirs);
    entries.iter().try_for_each(|entry| output::text(&teller.tell(entry)))
}

/// The first process of each container of a pod that runs.
fn members(pod: &Pod, dirs: &Dirs) -> Result<Vec<Member>> {
    let setup = host::cgroup::detect()?;
    let CgroupPath { parent, pod: group } = &pod.record.plan.sandbox.cgroup;
    let mut found = Vec::new();
    for container in &pod.record.plan.containers {
        let cgroup = Cgroup::at(&setup, parent, &format!("{group}/{}", container.name))?;
        let Some(first) = cgroup.pids()?.into_iter().min() else { continue };
        let name = format!("{}/{}", pod.record.plan.sandbox.name, container.name);
        found.push(member(name, first.to_string().as_ref())?);
    }
    if found.is_empty() {
        let state = dirs.state.display();
        let message = format!("pod {} has no process (podshim's state is in {state})", pod.full_name());
        return Err(failure(Kind::NotReady, message));
    }
    Ok(found)
}

fn member(name: String, pid: &Path) -> Result<Member> {
    let directory = Path::new("/proc").join(pid).join("ns");
    let mut namespaces = BTreeMap::new();
    for entry in std::fs::read_dir(&directory).called("opendir", directory.display())? {
        let entry = entry.called("readdir", directory.display())?;
        let link = std::fs::read_link(entry.path()).called("readlink", entry.path().display())?;
        namespaces.insert(entry.file_name().to_string_lossy().into_owned(), link.display().to_string());
    }
    Ok(Member { name, namespaces })
}

fn field(found: &Explanation) -> Result<()> {
    output::line("KIND:     Pod\nVERSION:  v1\n")?;
    if !found.path.is_empty() {
        output::line(format_args!("FIELD: {} <{}>\n", found.path, found.type_name))?;
        output::line(format_args!("PODSHIM: {}\n", found.support))?;
    }
    output::line("DESCRIPTION:")?;
    for paragraph in found.description.split('\n') {
        output::line(wrapped(paragraph))?;
    }
    if found.fields.is_empty() {
        return Ok(());
    }
    output::line("\nFIELDS:")?;
    for field in &found.fields {
        let required = if field.is_required { " -required-" } else { "" };
        output::line(format_args!("  {}\t<{}>{required}\n    {}", field.name, field.type_name, field.support))?;
    }
    Ok(())
}

/// Words in lines of at most [`WIDTH`] columns, four blanks before each.
fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.len() - 1;
        if !lines[last].is_empty() && lines[last].chars().count() + 1 + word.chars().count() > WIDTH - 4 {
            lines.push(word.to_owned());
        } else {
            let line = &mut lines[last];
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines.iter().map(|line| format!("    {line}").trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    #[test]
    fn text_is_wrapped_between_words() {
        let text = super::wrapped(&"word ".repeat(40));
        assert!(text.lines().count() > 1 && text.lines().all(|l| l.len() <= super::WIDTH && l.starts_with("    word")));
        assert_eq!(super::wrapped(""), "");
    }
}

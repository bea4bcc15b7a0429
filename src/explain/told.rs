//! What was done to make a pod, told as a story: who did what, when, how long it took, and why. Pure.

use super::steps;
use super::text::one_line;
use crate::paths::PodDirs;
use crate::supervisor::timeline::{Act, Entry, What, Who};
use crate::sys::record::Call;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

/// How much is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Detail {
    /// A line a step, and why it is done
    Brief,
    /// Each system call too, with its arguments, the kernel's answer and the time
    Full,
}

/// Columns of text.
const WIDTH: usize = 110;
/// Where the text of an entry begins.
const INDENT: usize = 28;

/// Tells of one pod, entry by entry.
pub struct Teller {
    pod: Option<String>,
    detail: Detail,
    began: Option<u64>,
    /// Long beginnings of paths, and what is written for them.
    short: Vec<(String, &'static str)>,
    /// The reasons that were given already: what is done again and again is explained once.
    given: BTreeSet<(String, &'static str)>,
}

impl Teller {
    /// `pod` is named where there are several.
    pub fn new(pod: Option<String>, detail: Detail, dirs: &PodDirs) -> Teller {
        let path = |path: &Path| path.display().to_string();
        let uid = dirs.state.file_name().map(|uid| format!("pod{}", uid.display()));
        let mut short = vec![(path(&dirs.state), "$STATE"), (path(&dirs.data), "$DATA")];
        short.extend(uid.map(|uid| (uid, "$POD")));
        Teller { pod, detail, began: None, short, given: BTreeSet::new() }
    }

    /// An entry as lines of text.
    pub fn tell(&mut self, entry: &Entry) -> String {
        let mut text = String::new();
        if self.began.is_none() {
            let pod = self.pod.as_ref().map(|pod| format!(" of pod {pod}")).unwrap_or_default();
            let short: Vec<String> =
                self.short.iter().map(|(long, name)| format!("{name}={}", one_line(long))).collect();
            text += &format!("{}\n ms since    took  who: what was done{pod}\n", short.join("\n"));
        }
        let began = *self.began.get_or_insert(entry.at);
        let who = self.who(&entry.who);
        let at = milliseconds(entry.at.saturating_sub(began));
        let (what, why) = match &entry.what {
            What::Act(act) => (act_name(act), act_why(act)),
            What::Step(step) => {
                let detail = steps::detail(step);
                let name = step.name();
                (if detail.is_empty() { name } else { format!("{name}: {detail}") }, steps::why(step))
            }
            What::Pause(step) => {
                let detail = steps::detail(step);
                let between = if detail.is_empty() { "" } else { ": " };
                let next = self.plain(&format!("{who}: next is {}{between}{detail}", step.name()));
                paragraph(&mut text, &format!("{at}         "), &format!("{next} — Enter goes on"));
                return text;
            }
            What::Full => {
                let _ = writeln!(text, "{at}          the record is full: nothing more is written down");
                return text;
            }
        };
        let took = short(entry.took);
        let answer = if entry.answer.is_empty() { String::new() } else { format!(" → {}", entry.answer) };
        paragraph(&mut text, &format!("{at} {took:>8} "), &self.plain(&format!("{who}: {what}{answer}")));
        if self.given.insert((who, why)) {
            paragraph(&mut text, "", why);
        }
        if let Some(error) = &entry.error {
            paragraph(&mut text, "", &self.plain(&format!("FAILED: {error}")));
        }
        if self.detail == Detail::Full {
            // That a directory above is there already is no news.
            let is_news = |call: &&Call| call.call != "mkdir" || call.errno.as_deref() != Some("EEXIST");
            for call in entry.calls.iter().filter(is_news) {
                paragraph(&mut text, "", &self.plain(&called(call)));
            }
        }
        text
    }

    fn plain(&self, text: &str) -> String {
        self.short.iter().fold(one_line(text), |text, (long, name)| text.replace(long, name))
    }

    fn who(&self, who: &Who) -> String {
        match who {
            Who::Supervisor => "pod".to_owned(),
            Who::Init { container, restart_count: 0, pid } => format!("{container} ({pid})"),
            Who::Init { container, restart_count, pid } => format!("{container}, start {} ({pid})", restart_count + 1),
        }
    }
}

/// `move_mount(7<mount 312>, "", …) = mount 312  3 µs`
fn called(call: &Call) -> String {
    let Call { call, arguments, errno, answer, took } = call;
    let result = match errno {
        Some(errno) => format!("-1 {errno}"),
        None if answer.is_empty() => "0".to_owned(),
        None => answer.clone(),
    };
    // Nobody is left to say how long an execve(2) took: its step says it.
    let took = if *took == 0 { String::new() } else { format!("  {}", short(*took)) };
    format!("· {call}({arguments}) = {result}{took}")
}

fn act_name(act: &Act) -> String {
    match act {
        Act::Volume { name } => format!("set up volume {name}"),
        Act::OwnFiles => "set up /dev/shm and a place for /etc/hosts and the like".to_owned(),
        Act::PodCgroup => "make the pod's cgroup".to_owned(),
        Act::Namespaces => "make the pod's namespaces, and pin them".to_owned(),
        Act::Network => "put the pod on its network".to_owned(),
        Act::RootFileSystem { container } => format!("{container}: mount its root file system, attached nowhere"),
        Act::Sources { container } => format!("{container}: open what is to be mounted into it"),
        Act::Cgroup { container } => format!("{container}: make its cgroup"),
        Act::Init { container } => format!("{container}: clone the process that becomes it"),
    }
}

fn act_why(act: &Act) -> &'static str {
    match act {
        Act::Volume { .. } => {
            "A volume is a place for files that outlives containers: each container of the pod can mount it."
        }
        Act::OwnFiles => {
            "Files that podshim writes for the containers lie in memory of a limited size, so that no container fills the host's disk."
        }
        Act::PodCgroup => {
            "A cgroup counts what the processes in it use, and limits it; this one is for all containers together."
        }
        Act::Namespaces => {
            "A namespace is a view of one kind of resource: processes in it see and share those of their own. It lives as long as a process is in it, or as it is pinned: mounted on a file."
        }
        Act::Network => {
            "A pair of virtual network devices, like a cable: one end in the pod's network namespace, one on the host's bridge; and an address that no other pod has."
        }
        Act::RootFileSystem { .. } => {
            "overlayfs shows the image's layers, which all containers of the image share, as one tree; what this container writes goes to a layer of its own. Below them all is one with the mount points that many images lack."
        }
        Act::Sources { .. } => "Opened now, by the supervisor, so that the container's init needs no path of the host.",
        Act::Cgroup { .. } => "The limits of the manifest, as files that are written.",
        Act::Init { .. } => {
            "clone3 makes a process, which is the first one of a new pid namespace unless the pod's containers share theirs. It performs the steps that follow, and then executes the container's program."
        }
    }
}

/// Words in lines of at most [`WIDTH`] columns, the first one behind `head`.
fn paragraph(text: &mut String, head: &str, words: &str) {
    let blank = " ".repeat(INDENT - 8);
    let mut line = format!("{head:width$}", width = INDENT - 8);
    let mut is_first = true;
    for word in words.split(' ') {
        // What is done is not parted from its mark.
        if !is_first && line.trim_start() != "·" && line.chars().count() + 1 + word.chars().count() > WIDTH {
            text.push_str(line.trim_end());
            text.push('\n');
            line = format!("{blank}  ");
            is_first = true;
        }
        if !is_first {
            line.push(' ');
        }
        line.push_str(word);
        is_first = false;
    }
    text.push_str(line.trim_end());
    text.push('\n');
}

/// `   12.345 ms`
fn milliseconds(nanoseconds: u64) -> String {
    format!("{:>8.2}", nanoseconds as f64 / 1e6)
}

/// `41 µs`, `3.2 ms`, `1.5 s`
fn short(nanoseconds: u64) -> String {
    match nanoseconds {
        0..1_000_000 => format!("{} µs", nanoseconds / 1000),
        1_000_000..1_000_000_000 => format!("{:.1} ms", nanoseconds as f64 / 1e6),
        _ => format!("{:.1} s", nanoseconds as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{NamespaceKind, Step};

    fn entry(at: u64, who: Who, what: What) -> Entry {
        Entry { at, took: 41_000, who, what, calls: Vec::new(), answer: String::new(), error: None }
    }

    fn dirs() -> PodDirs {
        PodDirs { state: "/run/podshim/pods/u".into(), data: "/var/lib/podshim/pods/u".into() }
    }

    fn init() -> Who {
        Who::Init { container: "app".into(), restart_count: 0, pid: 7 }
    }

    #[test]
    fn each_entry_says_when_who_and_what_and_once_why() {
        let mut teller = Teller::new(None, Detail::Full, &dirs());
        let act = Entry {
            answer: "net:[4026532288]".into(),
            ..entry(5_000_000, Who::Supervisor, What::Act(Act::Namespaces))
        };
        let told = teller.tell(&act);
        assert!(told.starts_with("$STATE=/run/podshim/pods/u\n$DATA=/var/lib/podshim/pods/u\n$POD=podu\n"), "{told}");
        assert!(told.contains("    0.00    41 µs   pod: make the pod's namespaces"), "{told}");
        assert!(told.contains("net:[4026532288]") && told.contains("A namespace is a view"), "{told}");
        let join = || What::Step(Step::JoinNamespace { kind: NamespaceKind::Uts });
        let call = Call { took: 2_000, ..Call::new("setns", "4<uts:[7]>, CLONE_NEWUTS".into()) };
        let refused = Call { errno: Some("EPERM".into()), ..call.clone() };
        let first = teller.tell(&Entry { calls: vec![call, refused], ..entry(6_500_000, init(), join()) });
        assert!(first.contains("    1.50") && first.contains("app (7): JoinNamespace uts"), "{first}");
        assert!(first.contains("The pod's host name."), "{first}");
        assert!(first.contains("· setns(4<uts:[7]>, CLONE_NEWUTS) = 0  2 µs\n"), "{first}");
        assert!(first.contains("= -1 EPERM"), "{first}");
        assert!(!teller.tell(&entry(7_000_000, init(), join())).contains("The pod's host name."));
        let again = Who::Init { container: "app".into(), restart_count: 2, pid: 9 };
        assert!(teller.tell(&entry(8_000_000, again, join())).contains("app, start 3 (9): JoinNamespace uts"));
    }

    #[test]
    fn what_comes_of_a_container_is_shown_and_not_obeyed() {
        let mut teller = Teller::new(None, Detail::Full, &dirs());
        let exec =
            Step::Exec { arguments: vec!["\u{1b}[2J".into(), "a\nb".into()], environment: vec!["SECRET=1".into()] };
        let error = Some("exec: \u{1b}]0;x\u{7}".to_owned());
        let call = Call::new("execve\u{1b}", "\"\u{9b}\"".into());
        let told = teller.tell(&Entry { error, calls: vec![call], ..entry(0, init(), What::Step(exec)) });
        assert!(told.chars().all(|c| c == '\n' || !c.is_control()), "{told:?}");
        assert!(told.contains("FAILED: exec:") && told.contains("1 variables") && !told.contains("SECRET"), "{told}");
        assert!(told.lines().all(|line| line.chars().count() <= WIDTH), "{told}");
    }
}

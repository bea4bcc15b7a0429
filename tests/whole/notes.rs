//! What processes in a pod noted (`facts … --log /notes/NAME`), with times that can be compared, and what a test tells them.

use crate::harness::{Host, pod, until};
use serde_json::{Value, json};
use std::path::PathBuf;

/// A folder of the test's that is `/notes` in every container.
pub(crate) struct Notes {
    folder: PathBuf,
}

impl Notes {
    pub(crate) fn of(host: &Host) -> Notes {
        Notes { folder: host.folder("notes").into() }
    }

    /// A pod whose containers, init and app, have the folder.
    pub(crate) fn pod(&self, name: &str, mut spec: Value) -> Value {
        for kind in ["initContainers", "containers"] {
            for container in spec[kind].as_array_mut().into_iter().flatten() {
                container["volumeMounts"] = json!([{ "name": "notes", "mountPath": "/notes" }]);
            }
        }
        spec["volumes"] = json!([{ "name": "notes", "hostPath": { "path": self.folder, "type": "Directory" } }]);
        pod(name, spec)
    }

    /// Writes a file that a server or a script looks at, whole or not at all.
    pub(crate) fn set(&self, file: &str, text: &str) {
        let new = self.folder.join(format!(".{file}.new"));
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.folder.join(file)).unwrap();
    }

    pub(crate) fn unset(&self, file: &str) {
        std::fs::remove_file(self.folder.join(file)).unwrap();
    }

    pub(crate) fn text(&self, file: &str) -> String {
        std::fs::read_to_string(self.folder.join(file)).unwrap_or_default()
    }

    /// The entries of a file; a line that is being written is left out.
    pub(crate) fn all(&self, file: &str) -> Vec<Value> {
        let text = self.text(file);
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
    }

    /// Waits until the entries of a file are as `fine` says.
    #[track_caller]
    pub(crate) fn until(&self, file: &str, what: &str, fine: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        until(what, || Some(self.all(file)).filter(|entries| fine(entries)))
    }

    /// When `who` first noted `what` in the file `log`.
    #[track_caller]
    pub(crate) fn at(&self, who: &str, what: &str) -> f64 {
        let entries = self.all("log");
        let found = entries.iter().find(|e| e["who"] == who && e["what"] == what);
        time(found.unwrap_or_else(|| panic!("no {what:?} of {who} in {entries:#?}")))
    }

    /// Waits until `who` has noted `what` in the file `log`: when.
    #[track_caller]
    pub(crate) fn until_at(&self, who: &str, what: &str) -> f64 {
        self.until("log", &format!("{what} of {who}"), |all| all.iter().any(|e| e["who"] == who && e["what"] == what));
        self.at(who, what)
    }

    /// What `who` noted in the file `log`, in its order.
    pub(crate) fn of_whom(&self, who: &str) -> Vec<String> {
        let entries = self.all("log");
        let own = entries.iter().filter(|e| e["who"] == who);
        own.filter_map(|e| e["what"].as_str().map(str::to_owned)).collect()
    }
}

/// The time of an entry, in seconds since the machine's start.
#[track_caller]
pub(crate) fn time(entry: &Value) -> f64 {
    entry["uptime"].as_f64().unwrap_or_else(|| panic!("no time in {entry}"))
}

/// Now, by the same clock.
pub(crate) fn now() -> f64 {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).unwrap();
    std::time::Duration::from(time).as_secs_f64()
}

/// Arguments that make `facts` note things in the file `log` as `who`.
pub(crate) fn noting<'a>(words: &[&'a str], who: &'a str) -> Vec<&'a str> {
    [words, &["--log", "/notes/log", "--as", who]].concat()
}

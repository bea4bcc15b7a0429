//! One test's own little host: directories, cgroups, network namespaces, and podshim in them.

pub(crate) use crate::available::available;
use crate::leaks;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::{Duration, Instant};

/// How long to wait for what must happen; generous, as only a failing test waits so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// The image whose only program reports facts.
pub(crate) const FACTS: &str = "localhost/facts";

/// Looks again and again until there is an answer.
pub(crate) fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    until_or(|| what.to_owned(), look)
}

/// As [`until`]; what is missing is told when it has not come.
pub(crate) fn until_or<T>(what: impl Fn() -> String, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{} did not come in {PATIENCE:?}", what());
        std::thread::sleep(Duration::from_millis(15));
    }
}

/// The repository's own folder `tests`.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(path)
}

/// podshim itself.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("PODSHIM_BIN").map_or_else(|| env!("CARGO_BIN_EXE_podshim").into(), PathBuf::from)
}

/// The images as `scripts/images.sh` leaves them.
pub(crate) fn image_files() -> PathBuf {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = std::env::var_os("PODSHIM_TEST_IMAGES").map_or_else(|| repository.join("target/images"), PathBuf::from);
    let layout = path.join("oci/index.json");
    assert!(layout.exists(), "{} is missing: make the images with scripts/images.sh", layout.display());
    path
}

/// A root with all the images, imported once and kept from one run of the tests to the next.
fn shared_images() -> &'static Path {
    static SHARED: OnceLock<PathBuf> = OnceLock::new();
    SHARED.get_or_init(|| {
        let files = image_files();
        let base = Path::new(env!("CARGO_TARGET_TMPDIR"));
        std::fs::create_dir_all(base).unwrap();
        let lock = std::fs::File::create(base.join("whole.lock")).unwrap();
        lock.lock().unwrap();
        let index = std::fs::read_to_string(files.join("oci/index.json")).unwrap();
        let root = base.join("whole-images");
        let mark = root.join("imported");
        if std::fs::read_to_string(&mark).ok().as_ref() != Some(&index) {
            let _ = std::fs::remove_dir_all(&root);
            let mut command = Command::new(binary());
            command.arg("--root").arg(&root).arg("--state").arg(root.join("state")).args(["image", "import"]);
            let output = command.arg(files.join("oci")).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            std::fs::write(mark, index).unwrap();
        }
        root
    })
}

/// What a command left: its exit code and its output.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Output {
    /// Fails unless the exit code is `code`.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Output {
        assert_eq!(self.code, code, "\n--- stdout\n{}\n--- stderr\n{}", self.out, self.err);
        self
    }

    /// Fails unless the errors contain each of the words.
    #[track_caller]
    pub(crate) fn says(self, words: &[&str]) -> Output {
        for word in words {
            assert!(self.err.contains(word), "no {word:?} in\n{}", self.err);
        }
        self
    }
}

/// The exit code as a shell has it.
pub(crate) fn code_of(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// A pod `name` with this spec.
pub(crate) fn pod(name: &str, spec: Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name }, "spec": spec })
}

/// A manifest of several documents: its path.
pub(crate) fn documents(host: &Host, name: &str, documents: &[Value]) -> String {
    let text: Vec<String> = documents.iter().map(|d| serde_json::to_string_pretty(d).unwrap()).collect();
    let path = host.path(name);
    std::fs::write(&path, text.join("\n---\n")).unwrap();
    path.to_str().unwrap().to_owned()
}

/// An object of the core API with these fields.
pub(crate) fn object(kind: &str, name: &str, fields: Value) -> Value {
    with(json!({ "apiVersion": "v1", "kind": kind, "metadata": { "name": name } }), fields)
}

/// A container of busybox that runs a script.
pub(crate) fn shell(name: &str, script: &str) -> Value {
    json!({ "name": name, "image": "busybox:1.28", "command": ["sh", "-c", script] })
}

/// A container of the facts image with these arguments.
pub(crate) fn facts(name: &str, args: &[&str]) -> Value {
    json!({ "name": name, "image": FACTS, "args": args })
}

/// `a` with the fields of `b`.
pub(crate) fn with(mut a: Value, b: Value) -> Value {
    for (key, value) in b.as_object().unwrap() {
        a[key] = value.clone();
    }
    a
}

/// Numbers that look random, and are the same in each run from the same seed.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    /// The next one, from 0 to before `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % end
    }
}

/// One test's own host. Dropped, it removes its pods and proves that nothing is left.
pub(crate) struct Host {
    dir: Option<tempfile::TempDir>,
    pub(crate) cgroup_parent: String,
    namespaces: RefCell<Vec<String>>,
    /// The network namespace that podshim runs in, which is this host's own network; the machine's if there is none, where no
    /// pod is put on a bridge.
    network: RefCell<Option<String>>,
}

impl Host {
    /// With all the images; `None` if the test may be skipped here.
    pub(crate) fn new(needs: &[&str]) -> Option<Host> {
        let host = Host::bare(needs)?;
        let images = shared_images();
        for name in ["images", "layers"] {
            std::os::unix::fs::symlink(images.join(name), host.path("root").join(name)).unwrap();
        }
        Some(host)
    }

    /// Without images.
    pub(crate) fn bare(needs: &[&str]) -> Option<Host> {
        let all: Vec<&str> = ["root"].into_iter().chain(needs.iter().copied()).collect();
        if !available(&all) {
            return None;
        }
        let dir = tempfile::Builder::new().prefix("podshim-whole-").tempdir().unwrap();
        std::fs::create_dir(dir.path().join("root")).unwrap();
        let token = dir.path().file_name().unwrap().to_str().unwrap().to_owned();
        Some(Host { dir: Some(dir), cgroup_parent: token, namespaces: RefCell::default(), network: RefCell::default() })
    }

    /// A path of the test's own.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.as_ref().unwrap().path().join(name)
    }

    /// A folder of the test's own, made now.
    pub(crate) fn folder(&self, name: &str) -> String {
        let path = self.path(name);
        std::fs::create_dir_all(&path).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// podshim in this host's directories.
    pub(crate) fn command<S: AsRef<std::ffi::OsStr>>(&self, args: &[S]) -> Command {
        self.command_by(&[binary()], args)
    }

    /// podshim started by other programs, the last of `before` being podshim itself.
    pub(crate) fn command_by<B: AsRef<std::ffi::OsStr>, S: AsRef<std::ffi::OsStr>>(
        &self,
        before: &[B],
        args: &[S],
    ) -> Command {
        let mut words: Vec<&std::ffi::OsStr> = before.iter().map(AsRef::as_ref).collect();
        let network = self.network.borrow();
        let entry = network.as_ref().map(|name| format!("--net=/run/netns/{name}"));
        if let Some(entry) = &entry {
            // Not by `ip netns exec`, which would give each command a mount namespace of its own too.
            words.splice(0..0, ["nsenter".as_ref(), entry.as_ref()]);
        }
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).args(args).stdin(Stdio::null());
        match entry {
            Some(_) => command.env_remove("PODSHIM_NETWORK"),
            None => command.env("PODSHIM_NETWORK", "none"),
        };
        command.env("PODSHIM_ROOT", self.path("root")).env("PODSHIM_STATE", self.path("state"));
        command.env("PODSHIM_LOG_DIR", self.path("log")).env("PODSHIM_CGROUP_PARENT", &self.cgroup_parent);
        command.env("NO_COLOR", "1");
        command
    }

    /// Runs podshim to its end.
    pub(crate) fn run<S: AsRef<std::ffi::OsStr>>(&self, args: &[S]) -> Output {
        self.finish(self.command(args))
    }

    /// Makes `/go` in a container that waits for it. That may end so soon that the command ends with it.
    #[track_caller]
    pub(crate) fn go(&self, pod: &str, container: &str) {
        let made = self.run(&["exec", "-c", container, pod, "--", "touch", "/go"]);
        assert!([0, 137].contains(&made.code), "{}: {}", made.code, made.err);
    }

    /// Runs a command to its end; one that hangs fails the test.
    pub(crate) fn finish(&self, command: Command) -> Output {
        let mut live = Live::start(command);
        let code = live.wait();
        Output { code, out: live.out(), err: live.err() }
    }

    /// Runs podshim, which must succeed; what it prints.
    #[track_caller]
    pub(crate) fn ok<S: AsRef<std::ffi::OsStr>>(&self, args: &[S]) -> String {
        self.run(args).expect(0).out
    }

    /// Imports one of the images as `name`, the fields of its config being replaced by those of `change`.
    pub(crate) fn import(&self, image: &str, name: &str, change: &Value) {
        let layout = self.changed_image((image, name), change, &[]);
        self.ok(&["image", "import", &layout]);
    }

    /// An OCI layout of one of the images as [`Host::import`] imports it, with these tars as further layers: its path.
    pub(crate) fn changed_image(&self, (image, name): (&str, &str), change: &Value, tars: &[Vec<u8>]) -> String {
        let layout = image_files().join("oci");
        let blob = |digest: &Value| layout.join("blobs").join(digest.as_str().unwrap().replace(':', "/"));
        let read = |path: PathBuf| -> Value { serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() };
        let index = read(layout.join("index.json"));
        let named = |m: &&Value| m["annotations"].to_string().contains(&format!("\"{image}"));
        let mut entry = index["manifests"].as_array().unwrap().iter().find(named).unwrap().clone();
        let mut manifest = read(blob(&entry["digest"]));
        if manifest["config"].is_null() {
            manifest = read(blob(&manifest["manifests"][0]["digest"]));
        }
        let mut config = read(blob(&manifest["config"]["digest"]));
        config["config"] = with(config["config"].take(), change.clone());
        let new = PathBuf::from(self.folder("changed/blobs/sha256"));
        for layer in manifest["layers"].as_array().unwrap() {
            std::fs::copy(blob(&layer["digest"]), new.join(&layer["digest"].as_str().unwrap()[7..])).unwrap();
        }
        let put = |bytes: &[u8], descriptor: &mut Value| {
            use sha2::Digest;
            let digest: String = sha2::Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
            std::fs::write(new.join(&digest), bytes).unwrap();
            descriptor["digest"] = json!(format!("sha256:{digest}"));
            descriptor["size"] = json!(bytes.len());
        };
        let add = |value: &Value, descriptor: &mut Value| put(&serde_json::to_vec(value).unwrap(), descriptor);
        for tar in tars {
            let mut layer = json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar" });
            put(tar, &mut layer);
            config["rootfs"]["diff_ids"].as_array_mut().unwrap().push(layer["digest"].clone());
            manifest["layers"].as_array_mut().unwrap().push(layer);
        }
        add(&config, &mut manifest["config"]);
        entry["mediaType"] = json!("application/vnd.oci.image.manifest.v1+json");
        entry["annotations"] = json!({ "org.opencontainers.image.ref.name": format!("{name}:latest") });
        add(&manifest, &mut entry);
        let index = json!({ "schemaVersion": 2, "manifests": [entry] });
        std::fs::write(self.path("changed/index.json"), index.to_string()).unwrap();
        std::fs::write(self.path("changed/oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        self.path("changed").to_str().unwrap().to_owned()
    }

    /// Starts podshim and lets it run.
    pub(crate) fn live<S: AsRef<std::ffi::OsStr>>(&self, args: &[S]) -> Live {
        Live::start(self.command(args))
    }

    /// Writes a manifest: its path.
    pub(crate) fn manifest(&self, value: &Value) -> String {
        let word = |key: &str| value["metadata"][key].as_str().unwrap_or("default");
        let path = self.path(&format!("{}-{}.json", word("namespace"), word("name")));
        std::fs::write(&path, serde_json::to_string_pretty(value).unwrap()).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// `run -d` of a pod, which must come to run.
    #[track_caller]
    pub(crate) fn start(&self, value: &Value) {
        self.run(&["run", "-d", &self.manifest(value)]).expect(0);
    }

    /// A pod in the foreground to its end.
    pub(crate) fn foreground(&self, value: &Value) -> Output {
        self.run(&["run", &self.manifest(value)])
    }

    /// What the only container of a pod with this spec sees: the image's entrypoint with these arguments.
    #[track_caller]
    pub(crate) fn seen(&self, name: &str, container: Value, spec: Value) -> Value {
        let spec = with(json!({ "restartPolicy": "Never", "containers": [container] }), spec);
        let output = self.foreground(&pod(name, spec)).expect(0);
        let text = output.out.split_once("| ").unwrap_or_else(|| panic!("{output:?}")).1;
        serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    /// What a new process in a running container sees.
    #[track_caller]
    pub(crate) fn report(&self, pod: &str, container: &str, words: &[&str]) -> Value {
        let args: Vec<&str> = ["exec", "-c", container, pod, "--", "/facts"].iter().chain(words).copied().collect();
        serde_json::from_str(&self.ok(&args)).unwrap()
    }

    /// A pod as `inspect` shows it.
    #[track_caller]
    pub(crate) fn inspect(&self, pod: &str) -> Value {
        serde_json::from_str(&self.ok(&["inspect", "-o", "json", pod])).unwrap()
    }

    /// The status of one container, of whatever kind.
    #[track_caller]
    pub(crate) fn status(&self, pod: &str, container: &str) -> Value {
        self.find_status(pod, container).unwrap_or_else(|| panic!("no status of {pod}/{container}"))
    }

    /// `None` before the pod has a status.
    pub(crate) fn find_status(&self, pod: &str, container: &str) -> Option<Value> {
        let status = &self.inspect(pod)["status"];
        let of = |kind: &str| status[kind].as_array().cloned().unwrap_or_default();
        let lists = ["initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"];
        lists.into_iter().flat_map(of).find(|c| c["name"] == container)
    }

    /// A container's status once it is as `fine` says.
    #[track_caller]
    pub(crate) fn until_status(&self, of: (&str, &str), what: &str, fine: impl Fn(&Value) -> bool) -> Value {
        let (pod, container) = of;
        until(&format!("{pod}/{container}: {what}"), || self.find_status(pod, container).filter(|status| fine(status)))
    }

    /// A condition of a pod; null if it has none of this type.
    #[track_caller]
    pub(crate) fn condition(&self, pod: &str, type_: &str) -> Value {
        let all = self.inspect(pod)["status"]["conditions"].clone();
        let found = all.as_array().into_iter().flatten().find(|c| c["type"] == type_);
        found.cloned().unwrap_or(Value::Null)
    }

    /// Waits until a condition has this status: the condition.
    #[track_caller]
    pub(crate) fn until_condition(&self, pod: &str, type_: &str, status: &str) -> Value {
        until(&format!("{type_}={status} of {pod}"), || {
            Some(self.condition(pod, type_)).filter(|condition| condition["status"] == status)
        })
    }

    /// The events of a pod with this reason.
    #[track_caller]
    pub(crate) fn events(&self, pod: &str, reason: &str) -> Vec<Value> {
        let all: Value = serde_json::from_str(&self.ok(&["events", pod, "-o", "json"])).unwrap();
        let items = all.get("items").unwrap_or(&all).as_array().cloned().unwrap_or_default();
        items.into_iter().filter(|event| event["reason"] == reason).collect()
    }

    /// Waits for an event with this reason and these words in its message: the event.
    #[track_caller]
    pub(crate) fn until_event(&self, pod: &str, reason: &str, words: &str) -> Value {
        let has = |event: &Value| event["message"].as_str().is_some_and(|message| message.contains(words));
        until(&format!("{reason} {words:?} of {pod}"), || self.events(pod, reason).into_iter().find(has))
    }

    /// READY, STATUS and RESTARTS of a pod as `ps` prints them.
    #[track_caller]
    pub(crate) fn ps(&self, pod: &str) -> [String; 3] {
        let table = self.ok(&["ps"]);
        let row = table.lines().find(|l| l.split_whitespace().nth(1) == Some(pod));
        let words: Vec<&str> = row.unwrap_or_else(|| panic!("no {pod} in\n{table}")).split_whitespace().collect();
        [words[2], words[3], words[4]].map(str::to_owned)
    }

    /// Waits until the STATUS column of `ps` is this.
    #[track_caller]
    pub(crate) fn until_ps(&self, pod: &str, word: &str) -> [String; 3] {
        until(&format!("{pod}: {word}"), || Some(self.ps(pod)).filter(|row| row[1] == word))
    }

    /// The host's process id of a container's first process.
    pub(crate) fn pid(&self, pod: &str, container: &str) -> i32 {
        let uid = self.inspect(pod)["metadata"]["uid"].as_str().unwrap().to_owned();
        let below = format!("{}/podshim/pod{uid}/{container}", self.cgroup_parent);
        let pids = leaks::processes_in(&below);
        *pids.first().unwrap_or_else(|| panic!("no process in cgroup {below}"))
    }

    /// A pod's uid.
    pub(crate) fn uid(&self, pod: &str) -> String {
        self.inspect(pod)["metadata"]["uid"].as_str().unwrap().to_owned()
    }

    /// The process id of a pod's supervisor.
    pub(crate) fn supervisor(&self, pod: &str) -> i32 {
        let found = leaks::supervisors(&self.path("state").join("pods").join(self.uid(pod)));
        assert_eq!(found.len(), 1, "supervisors of {pod}: {found:?}");
        found[0].pid
    }

    /// Kills a pod's supervisor, and waits for its end; podshim, which would put another in its place, is not asked.
    #[allow(dead_code, reason = "not every crate of tests that has this file kills them")]
    #[track_caller]
    pub(crate) fn kill_supervisor(&self, pod: &str) {
        leaks::kill_supervisor(&self.state_of(pod));
    }

    /// A pod's state directory, by its name alone: podshim, which would recover the pod, is not asked.
    #[allow(dead_code, reason = "not every crate of tests that has this file looks for it")]
    pub(crate) fn state_of(&self, pod: &str) -> PathBuf {
        let target = std::fs::read_link(self.path("state/names").join(format!("default_{pod}"))).unwrap();
        self.path("state/pods").join(target.file_name().unwrap())
    }

    /// A network namespace of the test's own with loopback up: its name.
    pub(crate) fn network(&self, name: &str) -> String {
        let full = format!("{}-{name}", self.cgroup_parent);
        ip(&["netns", "add", &full]);
        self.namespaces.borrow_mut().push(full.clone());
        ip(&["-n", &full, "link", "set", "lo", "up"]);
        full
    }

    /// From now on podshim runs in a network namespace of the test's own, so that pods can be put on a bridge: its name.
    pub(crate) fn own_network(&self) -> String {
        let name = self.network("host");
        *self.network.borrow_mut() = Some(name.clone());
        name
    }

    /// A program that runs where podshim does, on this host's own network.
    pub(crate) fn beside(&self, words: &[&str]) -> Command {
        self.command_by(words, &[] as &[&str])
    }

    /// What is left of this test on the host.
    pub(crate) fn leaks(&self) -> Vec<String> {
        leaks::find(&leaks::Own { dir: &self.path(""), token: &self.cgroup_parent })
    }

    /// Fails unless nothing is left, while the host goes on being used.
    #[track_caller]
    pub(crate) fn assert_clean(&self) {
        let left = self.leaks();
        assert!(left.is_empty(), "left behind:\n{}", left.join("\n"));
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let pods = self.run(&["ps", "-q"]).out;
        let removed = self.run(&["rm", "-f", "--all"]);
        if std::thread::panicking() {
            eprintln!("pods at the end: {}", pods.replace('\n', " "));
        }
        let mut left = Vec::new();
        if let Some(name) = self.network.take() {
            left = leaks::on_network(&name);
        }
        for name in self.namespaces.take() {
            ip(&["netns", "del", &name]);
        }
        left.extend(self.leaks());
        leaks::remove_cgroups(&self.cgroup_parent);
        if let (Some(dir), true) = (self.dir.take(), !left.is_empty()) {
            // What is left mounted must not be walked through.
            eprintln!("kept for a look: {}", dir.keep().display());
        }
        if !std::thread::panicking() {
            assert_eq!(removed.code, 0, "rm -f --all: {}", removed.err);
            assert!(left.is_empty(), "left behind:\n{}", left.join("\n"));
        } else if !left.is_empty() {
            eprintln!("left behind:\n{}", left.join("\n"));
        }
    }
}

/// ip(8), which must succeed.
#[track_caller]
pub(crate) fn ip(args: &[&str]) {
    let output = Command::new("ip").args(args).output().unwrap();
    assert!(output.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

type Shared = Arc<(Mutex<Vec<u8>>, Condvar)>;

fn collect(mut from: impl Read + Send + 'static) -> (Shared, std::thread::JoinHandle<()>) {
    let shared = Shared::default();
    let into = Arc::clone(&shared);
    let reader = std::thread::spawn(move || {
        let mut buffer = [0; 1 << 14];
        while let Ok(n) = from.read(&mut buffer) {
            if n == 0 {
                return;
            }
            into.0.lock().unwrap().extend_from_slice(&buffer[..n]);
            into.1.notify_all();
        }
    });
    (shared, reader)
}

/// A command that runs beside the test; killed if the test ends before it.
pub(crate) struct Live {
    child: Child,
    out: Shared,
    err: Shared,
    readers: Vec<std::thread::JoinHandle<()>>,
}

impl Live {
    pub(crate) fn start(mut command: Command) -> Live {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (out, reads_out) = collect(child.stdout.take().unwrap());
        let (err, reads_err) = collect(child.stderr.take().unwrap());
        Live { child, out, err, readers: vec![reads_out, reads_err] }
    }

    pub(crate) fn out(&self) -> String {
        String::from_utf8_lossy(&self.out.0.lock().unwrap()).into_owned()
    }

    pub(crate) fn err(&self) -> String {
        String::from_utf8_lossy(&self.err.0.lock().unwrap()).into_owned()
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// What is written to it goes to its standard input, if the command has a pipe there.
    pub(crate) fn stdin(&mut self) -> std::process::ChildStdin {
        self.child.stdin.take().unwrap()
    }

    /// Waits until it has printed something that `fine` accepts.
    #[track_caller]
    pub(crate) fn until(&self, what: &str, fine: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut bytes = self.out.0.lock().unwrap();
        loop {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if fine(&text) {
                return text;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no {what} in\n{text}\n--- stderr\n{}", self.err());
            bytes = self.out.1.wait_timeout(bytes, left.min(Duration::from_millis(500))).unwrap().0;
        }
    }

    /// Waits until it has printed this.
    #[track_caller]
    pub(crate) fn until_has(&self, text: &str) -> String {
        self.until(text, |out| out.contains(text))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for its end: its exit code, as a shell has it.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> i32 {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() >= deadline {
                panic!("does not end:\n{}\n--- stderr\n{}", self.out(), self.err());
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        // A supervisor must not hold the command's output open: readers would wait for ever.
        let closed = || self.readers.iter().all(std::thread::JoinHandle::is_finished);
        until("the end of the command's output", || closed().then_some(()));
        self.readers.drain(..).for_each(|reader| reader.join().unwrap());
        code_of(status)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

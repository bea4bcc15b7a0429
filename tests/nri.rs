//! NRI against plugins made with NRI's own stub (tests/cri/nriplugin, which takes `go`), with a made-up list of pods.

mod support {
    pub(crate) mod available;
}

use anyhow::Result;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use podshim::cri::api::nri::{
    Container, ContainerEviction, ContainerUpdate, LinuxContainerUpdate, LinuxCpu, LinuxResources, OptionalUInt64,
    PodSandbox,
};
use podshim::cri::nri::{Nri, Runtime, Settings, Timeouts};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};
use support::available::available;
use tokio::sync::mpsc;

/// How long anything may take that is not a matter of time limits.
const DEADLINE: Duration = Duration::from_secs(20);

/// The plugin's program.
static PLUGIN: LazyLock<PathBuf> = LazyLock::new(|| {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("nriplugin");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cri/nriplugin");
    let status = Command::new("go").arg("build").arg("-o").arg(&program).arg(".").current_dir(source).status().unwrap();
    assert!(status.success(), "go build");
    // It may have had a test's umask.
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    program
});

/// A socket is made with a umask of its own for a moment, and that is the whole process's: one test after the other.
static UMASK: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A runtime that has a list.
#[derive(Default)]
struct Listed {
    containers: Mutex<Vec<Container>>,
    updated: Mutex<Vec<ContainerUpdate>>,
    evicted: Mutex<Vec<ContainerEviction>>,
    notes: Mutex<Vec<String>>,
}

impl Runtime for Listed {
    fn list(&self) -> BoxFuture<'_, Result<(Vec<PodSandbox>, Vec<Container>)>> {
        async { Ok((vec![pod()], self.containers.lock().unwrap().clone())) }.boxed()
    }

    /// Fails for the container `gone`.
    fn update(&self, updates: Vec<ContainerUpdate>) -> BoxFuture<'_, Vec<ContainerUpdate>> {
        self.updated.lock().unwrap().extend(updates.iter().cloned());
        async move { updates.into_iter().filter(|update| update.container_id == "gone").collect() }.boxed()
    }

    fn evict(&self, evictions: Vec<ContainerEviction>) -> BoxFuture<'_, Result<()>> {
        self.evicted.lock().unwrap().extend(evictions);
        async { Ok(()) }.boxed()
    }

    fn note(&self, line: String) {
        self.notes.lock().unwrap().push(line);
    }
}

fn pod() -> PodSandbox {
    PodSandbox { id: "pod-1".into(), name: "web".into(), uid: "uid-1".into(), ..PodSandbox::default() }
}

fn container(id: &str) -> Container {
    let (pod_sandbox_id, name) = ("pod-1".to_owned(), format!("name-of-{id}"));
    let env = vec!["COLOUR=none".to_owned(), "PATH=/bin".to_owned()];
    Container { id: id.into(), pod_sandbox_id, name, env, args: vec!["run".into()], ..Container::default() }
}

/// NRI with its socket in a directory of the test's own.
struct Bench {
    nri: Nri,
    listed: Arc<Listed>,
    socket: PathBuf,
    dir: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Bench {
        Bench::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut Settings)) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("nri/nri.sock");
        // As long as a test waits: a plugin that is slow on a busy machine is none that hangs.
        let timeouts = Timeouts { registration: DEADLINE, request: DEADLINE };
        let mut settings = Settings { socket: Some(socket.clone()), timeouts, ..Settings::default() };
        change(&mut settings);
        let listed = Arc::new(Listed::default());
        let turn = UMASK.lock().await;
        let nri = Nri::start(&settings, listed.clone()).await.unwrap();
        drop(turn);
        nri.admit().await;
        Bench { nri, listed, socket, dir }
    }

    /// Starts a plugin and waits until it is synchronised.
    async fn plugin(&self, script: Value) -> Plugin {
        let whole = format!("{}-{}", script["index"].as_str().unwrap(), script["name"].as_str().unwrap());
        let before = self.count(&whole).await;
        let plugin = self.start(script);
        self.until(&format!("{whole} is registered"), async || self.count(&whole).await > before).await;
        plugin
    }

    fn start(&self, mut script: Value) -> Plugin {
        script["socket"] = json!(self.socket);
        let mut command = Command::new(&*PLUGIN);
        command.arg(script.to_string()).stdout(Stdio::piped()).stderr(Stdio::null());
        Plugin::of(command.spawn().unwrap())
    }

    async fn count(&self, whole: &str) -> usize {
        self.nri.registered().await.iter().filter(|name| *name == whole).count()
    }

    async fn until(&self, what: &str, is_so: impl AsyncFn() -> bool) {
        let begin = Instant::now();
        while !is_so().await {
            assert!(begin.elapsed() < DEADLINE, "{what}: {:?}", self.listed.notes.lock().unwrap());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn noted(&self, part: &str) {
        self.until(part, async || self.listed.notes.lock().unwrap().iter().any(|note| note.contains(part))).await;
    }
}

/// A plugin's process, which is killed with this value.
struct Plugin {
    process: Child,
    said: mpsc::UnboundedReceiver<Value>,
}

impl Plugin {
    fn of(mut process: Child) -> Plugin {
        let (say, said) = mpsc::unbounded_channel();
        let output = BufReader::new(process.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if say.send(serde_json::from_str(&line).unwrap()).is_err() {
                    return;
                }
            }
        });
        Plugin { process, said }
    }

    /// The next thing that it is told, which must be this.
    async fn hears(&mut self, event: &str) -> Value {
        let said = tokio::time::timeout(DEADLINE, self.said.recv()).await;
        let said = said.unwrap_or_else(|_| panic!("the plugin did not hear {event}")).expect("the plugin has ended");
        assert_eq!(said["event"], event, "{said}");
        said
    }

    /// Skips what it is told when it registers.
    async fn registered(mut self) -> Plugin {
        self.hears("Configure").await;
        self.hears("Synchronize").await;
        self
    }

    /// Nothing more was said.
    fn is_silent(&mut self) {
        assert!(self.said.try_recv().is_err());
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn script(index: &str, name: &str) -> Value {
    json!({ "index": index, "name": name })
}

#[tokio::test(flavor = "current_thread")]
async fn a_plugin_is_configured_and_told_of_every_event_in_order() {
    if !available(&["go"]) {
        return;
    }
    let timeouts = Timeouts { registration: Duration::from_secs(5), request: Duration::from_secs(2) };
    assert_eq!(Settings::default().timeouts, timeouts);
    let bench = Bench::new().await;
    assert_eq!(std::fs::metadata(&bench.socket).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::metadata(bench.socket.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    bench.listed.containers.lock().unwrap().push(container("first"));
    let mut plugin = bench.plugin(script("10", "all")).await;
    let told = plugin.hears("Configure").await;
    assert_eq!((&told["runtime"], &told["nri"], &told["config"]), (&json!("podshim"), &json!("v0.12.5"), &json!("")));
    assert_eq!((&told["registrationTimeout"], &told["requestTimeout"]), (&json!(20000), &json!(20000)));
    let told = plugin.hears("Synchronize").await;
    assert_eq!((&told["pods"], &told["containers"], &told["last"]), (&json!(1), &json!(1), &json!("first")));

    let (pod, container) = (pod(), container("c"));
    let events = bench.nri.events().await;
    events.run_pod_sandbox(&pod).await.unwrap();
    let told = plugin.hears("RunPodSandbox").await;
    assert_eq!((&told["pod"], &told["name"], &told["uid"]), (&json!("pod-1"), &json!("web"), &json!("uid-1")));
    events.update_pod_sandbox(&pod, None, Some(LinuxResources::default())).await.unwrap();
    plugin.hears("UpdatePodSandbox").await;
    events.post_update_pod_sandbox(&pod).await;
    plugin.hears("PostUpdatePodSandbox").await;
    let adjusted = events.create_container(&pod, &container).await.unwrap();
    assert!(adjusted.adjustment.is_none() && adjusted.updates.is_empty() && adjusted.evictions.is_empty());
    let told = plugin.hears("CreateContainer").await;
    assert_eq!((&told["container"], &told["name"]), (&json!("c"), &json!("name-of-c")));
    plugin.hears("ValidateContainerAdjustment").await;
    events.post_create_container(&pod, &container).await;
    plugin.hears("PostCreateContainer").await;
    events.start_container(&pod, &container).await.unwrap();
    plugin.hears("StartContainer").await;
    events.post_start_container(&pod, &container).await;
    plugin.hears("PostStartContainer").await;
    events.update_container(&pod, &container, LinuxResources::default()).await.unwrap();
    plugin.hears("UpdateContainer").await;
    events.post_update_container(&pod, &container).await;
    plugin.hears("PostUpdateContainer").await;
    assert!(events.stop_container(&pod, &container).await.is_empty());
    plugin.hears("StopContainer").await;
    events.remove_container(&pod, &container).await;
    plugin.hears("RemoveContainer").await;
    events.stop_pod_sandbox(&pod).await;
    plugin.hears("StopPodSandbox").await;
    events.remove_pod_sandbox(&pod).await;
    plugin.hears("RemovePodSandbox").await;
    drop(events);
    bench.nri.shut_down().await;
    plugin.hears("Shutdown").await;
    plugin.hears("Ended").await;
    assert!(!bench.socket.exists());
}

#[tokio::test(flavor = "current_thread")]
async fn only_what_is_asked_for_is_told_and_a_refusal_fails_the_event() {
    if !available(&["go"]) {
        return;
    }
    let bench = Bench::new().await;
    let mut script = script("10", "picky");
    script["events"] = json!("runpodsandbox,createcontainer");
    script["fail"] = json!({ "RunPodSandbox": "no room", "CreateContainer": "not this one" });
    let mut plugin = bench.plugin(script).await.registered().await;
    let events = bench.nri.events().await;
    let told = format!("{:#}", events.run_pod_sandbox(&pod()).await.unwrap_err());
    assert!(told.contains("10-picky") && told.contains("RunPodSandbox") && told.contains("no room"), "{told}");
    events.stop_pod_sandbox(&pod()).await;
    let told = format!("{:#}", events.create_container(&pod(), &container("c")).await.unwrap_err());
    assert!(told.contains("not this one"), "{told}");
    plugin.hears("RunPodSandbox").await;
    plugin.hears("CreateContainer").await;
    plugin.is_silent();
    // What it says is an answer, not a fault: it stays.
    assert_eq!(bench.nri.registered().await, ["10-picky"]);
}

#[tokio::test(flavor = "current_thread")]
async fn what_has_happened_or_must_cannot_be_refused_and_the_others_are_told() {
    if !available(&["go"]) {
        return;
    }
    let bench = Bench::new().await;
    let events = [
        "PostCreateContainer",
        "PostStartContainer",
        "PostUpdateContainer",
        "PostUpdatePodSandbox",
        "StopContainer",
        "RemoveContainer",
        "StopPodSandbox",
        "RemovePodSandbox",
    ];
    let mut stubborn = script("10", "stubborn");
    stubborn["fail"] = events.map(|event| (event.to_owned(), json!("never"))).into_iter().collect();
    let _stubborn = bench.plugin(stubborn).await;
    let mut other = bench.plugin(script("20", "other")).await.registered().await;
    let (pod, container, tell) = (pod(), container("c"), bench.nri.events().await);
    tell.post_create_container(&pod, &container).await;
    tell.post_start_container(&pod, &container).await;
    tell.post_update_container(&pod, &container).await;
    tell.post_update_pod_sandbox(&pod).await;
    assert!(tell.stop_container(&pod, &container).await.is_empty());
    tell.remove_container(&pod, &container).await;
    tell.stop_pod_sandbox(&pod).await;
    tell.remove_pod_sandbox(&pod).await;
    for event in events {
        other.hears(event).await;
        bench.noted(&format!("NRI: the plugin 10-stubborn: {event}")).await;
    }
    assert_eq!(bench.nri.registered().await, ["10-stubborn", "20-other"]);
}

#[tokio::test(flavor = "current_thread")]
async fn thousands_of_containers_are_told_in_several_messages() {
    if !available(&["go"]) {
        return;
    }
    let bench = Bench::new().await;
    let mut all: Vec<_> = (0..3000).map(|number| container(&format!("c{number}"))).collect();
    // 9 MB in all: three messages.
    all.iter_mut().for_each(|container| container.env.push(format!("FILLER={}", "x".repeat(3000))));
    *bench.listed.containers.lock().unwrap() = all;
    let mut plugin = bench.plugin(script("10", "many")).await;
    plugin.hears("Configure").await;
    let told = plugin.hears("Synchronize").await;
    assert_eq!((&told["pods"], &told["containers"], &told["last"]), (&json!(1), &json!(3000), &json!("c2999")));
    // A large answer and a large question pass too.
    let mut large = container("large");
    large.args.push("y".repeat(3 << 20));
    let events = bench.nri.events().await;
    events.start_container(&pod(), &large).await.unwrap();
    assert_eq!(plugin.hears("StartContainer").await["args"][1].as_str().unwrap().len(), 3 << 20);
}

#[tokio::test(flavor = "current_thread")]
async fn plugins_adjust_one_after_the_other_and_conflicts_name_both() {
    if !available(&["go"]) {
        return;
    }
    let bench = Bench::new().await;
    let mut late = script("90", "late");
    late["adjust"] =
        json!({ "annotations": { "late": "yes" }, "env": [{ "key": "-PATH" }], "args": ["", "run", "late"] });
    late["update"] =
        json!([{ "container_id": "other", "linux": { "resources": { "cpu": { "shares": { "value": 7 } } } } }]);
    let mut late = bench.plugin(late).await.registered().await;
    let mut early = script("10", "early");
    early["events"] = json!("createcontainer");
    early["adjust"] = json!({
        "env": [{ "key": "COLOUR", "value": "blue" }],
        "args": ["run", "early"],
        "mounts": [{ "destination": "/data", "type": "bind", "source": "/srv", "options": ["rbind", "ro"] }],
        "linux": { "oom_score_adj": { "value": 5 }, "resources": { "memory": { "limit": { "value": 1048576 } } } },
    });
    let mut early = bench.plugin(early).await.registered().await;
    assert_eq!(bench.nri.registered().await, ["10-early", "90-late"]);
    let events = bench.nri.events().await;
    let adjusted = events.create_container(&pod(), &container("c")).await.unwrap();
    early.hears("CreateContainer").await;
    let told = late.hears("CreateContainer").await;
    assert_eq!(told["env"], json!(["PATH=/bin", "COLOUR=blue"]));
    assert_eq!(told["args"], json!(["run", "early"]));
    let told = late.hears("ValidateContainerAdjustment").await;
    assert_eq!((&told["plugins"], &told["owner"]), (&json!(["10-early", "90-late"]), &json!("10-early")));
    let adjustment = adjusted.adjustment.unwrap();
    assert_eq!(adjustment.args, ["run", "late"]);
    assert_eq!(adjustment.env, [("COLOUR".to_owned(), Some("blue".to_owned())), ("PATH".to_owned(), None)]);
    assert_eq!(adjustment.oom_score_adj, Some(5));
    assert_eq!(adjustment.mounts[0].destination(), Path::new("/data"));
    assert_eq!(adjustment.annotations["late"].as_deref(), Some("yes"));
    assert_eq!(adjusted.updates[0].container_id, "other");

    let mut rival = script("50", "rival");
    rival["adjust"] = json!({ "env": [{ "key": "COLOUR", "value": "red" }] });
    let _rival = {
        drop(events);
        bench.plugin(rival).await
    };
    let events = bench.nri.events().await;
    let told = format!("{:#}", events.create_container(&pod(), &container("c")).await.unwrap_err());
    assert!(told.contains("10-early") && told.contains("50-rival") && told.contains("COLOUR"), "{told}");
    assert_eq!(bench.nri.registered().await.len(), 3);
}

#[tokio::test(flavor = "current_thread")]
async fn what_podshim_cannot_do_and_what_a_validator_rejects_is_an_error() {
    if !available(&["go"]) {
        return;
    }
    let bench = Bench::new().await;
    let mut wanting = script("10", "wanting");
    wanting["adjust"] = json!({ "CDI_devices": [{ "name": "vendor.com/gpu=0" }] });
    let wanting = bench.plugin(wanting).await;
    let told = bench.nri.events().await.create_container(&pod(), &container("c")).await.unwrap_err();
    assert!(format!("{told:#}").contains("CDI"), "{told:#}");
    drop(wanting);
    let mut validator = script("20", "validator");
    (validator["events"], validator["reject"]) = (json!("validatecontaineradjustment"), json!("too colourful"));
    let _validator = bench.plugin(validator).await;
    let told = bench.nri.events().await.create_container(&pod(), &container("c")).await.unwrap_err();
    assert!(format!("{told:#}").contains("too colourful"), "{told:#}");
}

#[tokio::test(flavor = "current_thread")]
async fn a_plugin_that_hangs_is_disconnected_and_the_request_goes_on() {
    if !available(&["go"]) {
        return;
    }
    let request = Duration::from_millis(1500);
    let bench = Bench::with(|settings| settings.timeouts.request = request).await;
    let mut hanging = script("10", "hanging");
    hanging["delay"] = json!({ "RunPodSandbox": 60_000 });
    let _hanging = bench.plugin(hanging).await;
    let mut patient = script("20", "patient");
    patient["delay"] = json!({ "RunPodSandbox": 60_000 });
    (patient["keepConnected"], patient["failRequest"]) = (json!(true), json!(true));
    let _patient = bench.plugin(patient).await;
    let mut other = bench.plugin(script("05", "other")).await.registered().await;
    let begin = Instant::now();
    let told = bench.nri.events().await.run_pod_sandbox(&pod()).await.unwrap_err();
    assert!(begin.elapsed() < 8 * request, "{:?}", begin.elapsed());
    assert!(format!("{told:#}").contains("20-patient"), "{told:#}");
    other.hears("RunPodSandbox").await;
    assert_eq!(bench.nri.registered().await, ["05-other", "20-patient"]);
    bench.noted("10-hanging is gone").await;
    // Its late answer is nobody's, and no fault.
    bench.nri.events().await.stop_pod_sandbox(&pod()).await;
    other.hears("StopPodSandbox").await;
}

#[tokio::test(flavor = "current_thread")]
async fn a_plugin_that_is_killed_is_gone_and_may_come_back() {
    if !available(&["go"]) {
        return;
    }
    let bench = Bench::new().await;
    let mut slow = script("10", "mortal");
    slow["delay"] = json!({ "StartContainer": 60_000 });
    let mut plugin = bench.plugin(slow).await.registered().await;
    let events = bench.nri.events().await;
    let (pod, container) = (pod(), container("c"));
    let begin = Instant::now();
    let killed = async {
        plugin.hears("StartContainer").await;
        plugin.process.kill().unwrap();
    };
    let (result, ()) = tokio::join!(events.start_container(&pod, &container), killed);
    result.unwrap();
    assert!(begin.elapsed() < Duration::from_secs(2), "not by the time limit: {:?}", begin.elapsed());
    bench.noted("10-mortal is gone").await;
    assert!(bench.nri.registered().await.is_empty());
    drop(events);
    let mut again = bench.plugin(script("10", "mortal")).await.registered().await;
    bench.nri.events().await.start_container(&pod, &container).await.unwrap();
    again.hears("StartContainer").await;
    // And a second one of the same name is another plugin.
    let mut twin = bench.plugin(script("10", "mortal")).await.registered().await;
    bench.nri.events().await.start_container(&pod, &container).await.unwrap();
    again.hears("StartContainer").await;
    twin.hears("StartContainer").await;
}

#[tokio::test(flavor = "current_thread")]
async fn no_container_is_missed_by_a_plugin_that_comes_late() {
    if !available(&["go"]) {
        return;
    }
    let bench = Bench::new().await;
    let mut slow = script("10", "late");
    slow["delay"] = json!({ "Synchronize": 1000 });
    // Created as an RPC creates it: told, and then listed.
    let create = async |id: &str| {
        let events = bench.nri.events().await;
        events.create_container(&pod(), &container(id)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        bench.listed.containers.lock().unwrap().push(container(id));
    };
    let mut plugin = bench.start(slow);
    let mut names = Vec::new();
    let begin = Instant::now();
    loop {
        let is_registered = !bench.nri.registered().await.is_empty();
        let name = format!("c{}", names.len());
        create(&name).await;
        names.push(name);
        if is_registered {
            break;
        }
        assert!(begin.elapsed() < DEADLINE, "it does not come");
    }
    plugin.hears("Configure").await;
    let told = plugin.hears("Synchronize").await;
    let listed = usize::try_from(told["containers"].as_u64().unwrap()).unwrap();
    assert!(listed < names.len(), "it came too late to show anything");
    for name in &names[listed..] {
        assert_eq!(plugin.hears("CreateContainer").await["container"], *name);
        plugin.hears("ValidateContainerAdjustment").await;
    }
    plugin.is_silent();
}

#[tokio::test(flavor = "current_thread")]
async fn unsolicited_updates_reach_the_runtime_and_those_that_fail_are_told() {
    if !available(&["go"]) {
        return;
    }
    let bench = Bench::new().await;
    let mut script = script("10", "asking");
    let update =
        |id: &str| json!({ "container_id": id, "linux": { "resources": { "cpu": { "shares": { "value": 9 } } } } });
    script["unsolicited"] = json!([update("here"), update("gone")]);
    let mut plugin = bench.plugin(script).await.registered().await;
    let told = plugin.hears("Updated").await;
    assert_eq!((&told["failed"], &told["error"]), (&json!(["gone"]), &json!("<nil>")));
    let cpu = Some(LinuxCpu { shares: Some(OptionalUInt64 { value: 9 }), ..LinuxCpu::default() });
    let linux = Some(LinuxContainerUpdate { resources: Some(LinuxResources { cpu, ..LinuxResources::default() }) });
    assert_eq!(bench.listed.updated.lock().unwrap()[0].linux, linux);
}

#[tokio::test(flavor = "current_thread")]
async fn plugins_of_a_directory_are_started_with_their_configuration() {
    if !available(&["go"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (plugins, configs, output) = (dir.path().join("plugins"), dir.path().join("conf.d"), dir.path().join("output"));
    std::fs::create_dir(&plugins).unwrap();
    std::fs::create_dir(&configs).unwrap();
    let write = |name: &str, text: String| {
        std::fs::write(plugins.join(name), text).unwrap();
        std::fs::set_permissions(plugins.join(name), std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    write("30-started", format!("#!/bin/sh\nexec {} '{{}}' > {}\n", PLUGIN.display(), output.display()));
    write("31-failing", "#!/bin/sh\nexit 1\n".into());
    std::fs::write(configs.join("started.conf"), "for every index").unwrap();
    std::fs::write(configs.join("30-started.conf"), "for this one").unwrap();
    let (plugins, configs) = (plugins.clone(), configs.clone());
    let bench = Bench::with(|settings| {
        (settings.socket, settings.plugins, settings.plugin_configs) = (None, Some(plugins), configs);
    })
    .await;
    assert_eq!(bench.nri.registered().await, ["30-started"]);
    bench.noted("a plugin did not register").await;
    bench.nri.events().await.run_pod_sandbox(&pod()).await.unwrap();
    bench.nri.shut_down().await;
    let said = || std::fs::read_to_string(&output).unwrap();
    bench.until("it is told", async || said().contains("Shutdown")).await;
    let said = said();
    assert!(said.contains("\"config\":\"for this one\"") && said.contains("RunPodSandbox"), "{said}");
    drop(bench.dir);
}

#[tokio::test(flavor = "current_thread")]
async fn those_who_talk_nonsense_are_disconnected_and_hold_nothing_up() {
    let timeouts = Timeouts { registration: Duration::from_millis(300), request: Duration::from_millis(300) };
    let bench = Bench::with(|settings| settings.timeouts = timeouts).await;
    let connect = || std::os::unix::net::UnixStream::connect(&bench.socket).unwrap();
    let mut silent = connect();
    let cases: &[(&[u8], &str)] = &[
        (b"GET / HTTP/1.1\r\n\r\n", "logical connection"),
        (&[0, 0, 0, 2, 0xff, 0xff, 0xff, 0xff], "4294967295 bytes"),
        (&[0, 0, 0, 2, 0, 0, 0, 10, 0xff, 0, 0, 0, 0, 0, 0, 1, 1, 0], "4278190080 bytes"),
        (&[0, 0, 0, 2, 0, 0, 0, 11, 0, 0, 0, 1, 0, 0, 0, 1, 1, 0, 0xff], "a request that is none"),
        (&[0, 0, 0, 1, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0], "was not made"),
        (&[0, 0, 0, 2, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0], "is not odd"),
    ];
    for (bytes, told) in cases {
        let mut stream = connect();
        stream.write_all(bytes).unwrap();
        bench.noted(told).await;
        // Whatever it wrote is not read to the end: the close may be a reset.
        let _ = stream.read(&mut [0; 1]);
    }
    bench.noted("did not register within").await;
    assert!(matches!(silent.read(&mut [0; 1]), Ok(0)));
    bench.nri.events().await.run_pod_sandbox(&pod()).await.unwrap();
    assert!(bench.nri.registered().await.is_empty());
}

#[tokio::test(flavor = "current_thread")]
async fn off_is_off() {
    let nri = Nri::start(&Settings::default(), Arc::new(Listed::default())).await.unwrap();
    assert!(!nri.is_on());
    let events = nri.events().await;
    events.run_pod_sandbox(&pod()).await.unwrap();
    assert!(events.create_container(&pod(), &container("c")).await.unwrap().adjustment.is_none());
    let asked = LinuxResources { unified: [("a".to_owned(), "b".to_owned())].into(), ..LinuxResources::default() };
    assert_eq!(events.update_container(&pod(), &container("c"), asked.clone()).await.unwrap().resources, asked);
}

//! The columns READY, STATUS, RESTARTS and AGE of `kubectl get pods`, after its own rules (`printPod` in
//! pkg/printers/internalversion/printers.go, `HumanDuration` in apimachinery).

use super::status::{ConditionStatus, ContainerStatus, PodStatus, Terminated, Time};

/// What the columns of one pod are computed from.
#[derive(Debug, Clone, Copy)]
pub struct PodView<'a> {
    /// The pod's status.
    pub status: &'a PodStatus,
    /// The names of those init containers that are sidecars (`restartPolicy: Always`), which a status does not say.
    pub sidecars: &'a [&'a str],
    /// The pod's `metadata.deletionTimestamp`: set while it is being stopped.
    pub deletion: Option<Time>,
    /// The time to which ages are counted.
    pub now: Time,
}

/// The columns of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Columns {
    /// READY: app containers and sidecars that are, of how many.
    pub ready: String,
    /// STATUS: what a user must know first; the phase if nothing else.
    pub status: String,
    /// RESTARTS: of the init containers until they are done, then of the sidecars and app containers; and when the last
    /// one was.
    pub restarts: String,
}

/// One pod's columns. Ephemeral containers count for none of them.
pub fn columns(pod: PodView<'_>) -> Columns {
    let status = pod.status;
    let mut word = status.phase.as_str().to_owned();
    if !status.reason.is_empty() {
        word.clone_from(&status.reason);
    }
    let inits = Inits::of(pod);
    let Inits { mut ready, mut restarts, .. } = inits;
    if let Some(init) = &inits.word {
        word = format!("Init:{init}");
    }

    if inits.word.is_none() || holds(status, "Initialized") {
        restarts = inits.of_sidecars;
        let mut running = false;
        // kubectl goes through them backwards, in a kubelet's order, which is by name: the first name's word wins.
        let mut by_name: Vec<&ContainerStatus> = status.container_statuses.iter().collect();
        by_name.sort_by(|a, b| b.name.cmp(&a.name));
        for app in by_name {
            restarts.add(app);
            if let Some(waiting) = app.state.waiting.as_ref().filter(|waiting| !waiting.reason.is_empty()) {
                word.clone_from(&waiting.reason);
            } else if let Some(ended) = &app.state.terminated {
                word = ended_word(ended);
            } else if app.ready && app.state.running.is_some() {
                ready += 1;
                running = true;
            }
        }
        if word == "Completed" && running {
            word = if holds(status, "Ready") { "Running" } else { "NotReady" }.to_owned();
        }
    }

    if pod.deletion.is_some() && !status.phase.is_terminal() {
        word = "Terminating".to_owned();
    }
    let sidecars = status.init_container_statuses.iter().filter(|init| pod.is_sidecar(init)).count();
    Columns {
        ready: format!("{ready}/{}", status.container_statuses.len() + sidecars),
        status: word,
        restarts: restarts.column(pod.now),
    }
}

impl PodView<'_> {
    fn is_sidecar(&self, container: &ContainerStatus) -> bool {
        self.sidecars.contains(&container.name.as_str())
    }
}

/// What the init containers and sidecars say, gone through in their order up to the first one that is not done.
struct Inits {
    /// Why the initialisation has not come further; `None` if it is over.
    word: Option<String>,
    /// Sidecars that are ready.
    ready: usize,
    /// All restarts.
    restarts: Restarts,
    /// Those of sidecars.
    of_sidecars: Restarts,
}

impl Inits {
    fn of(pod: PodView<'_>) -> Inits {
        let all = &pod.status.init_container_statuses;
        let mut inits = Inits { word: None, ready: 0, restarts: Restarts::default(), of_sidecars: Restarts::default() };
        for (index, init) in all.iter().enumerate() {
            let is_sidecar = pod.is_sidecar(init);
            inits.restarts.add(init);
            if is_sidecar {
                inits.of_sidecars.add(init);
            }
            if init.state.terminated.as_ref().is_some_and(|ended| ended.exit_code == 0) {
                continue;
            }
            if is_sidecar && init.started {
                inits.ready += usize::from(init.ready);
                continue;
            }
            inits.word = Some(init_word(init).unwrap_or_else(|| format!("{index}/{}", all.len())));
            break;
        }
        inits
    }
}

/// What an init container that is not done says of the pod; `None` if only how far the sequence has come.
fn init_word(init: &ContainerStatus) -> Option<String> {
    match (&init.state.terminated, &init.state.waiting) {
        (Some(ended), _) => Some(ended_word(ended)),
        (None, Some(waiting)) if !["", "PodInitializing"].contains(&waiting.reason.as_str()) => {
            Some(waiting.reason.clone())
        }
        _ => None,
    }
}

fn ended_word(ended: &Terminated) -> String {
    match ended.signal {
        _ if !ended.reason.is_empty() => ended.reason.clone(),
        Some(signal) if signal != 0 => format!("Signal:{signal}"),
        _ => format!("ExitCode:{}", ended.exit_code),
    }
}

fn holds(status: &PodStatus, condition: &str) -> bool {
    status.conditions.iter().any(|c| c.type_ == condition && c.status == ConditionStatus::True)
}

#[derive(Clone, Copy, Default)]
struct Restarts {
    count: u32,
    last: Option<Time>,
}

impl Restarts {
    fn add(&mut self, container: &ContainerStatus) {
        self.count += container.restart_count;
        let ended = container.last_state.terminated.as_ref().and_then(|ended| ended.finished_at);
        self.last = self.last.max(ended);
    }

    fn column(&self, now: Time) -> String {
        match self.last {
            Some(last) if self.count != 0 => format!("{} ({} ago)", self.count, age(last, now)),
            _ => self.count.to_string(),
        }
    }
}

/// The AGE column: the time from `since` to `now`.
pub fn age(since: Time, now: Time) -> String {
    human_duration(now.0.saturating_sub(since.0))
}

/// A duration in whole seconds with two or three significant figures: `90s`, `5m30s`, `3h`, `2d5h`, `400d`, `3y2d`.
/// Clocks may differ by a second; anything more negative is `<invalid>`.
pub fn human_duration(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let (days, years) = (hours / 24, hours / 24 / 365);
    let two = |major: i64, unit: &str, rest: i64, sub: &str| match rest {
        0 => format!("{major}{unit}"),
        _ => format!("{major}{unit}{rest}{sub}"),
    };
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        _ if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => two(hours, "h", minutes % 60, "m"),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 192 => two(days, "d", hours % 24, "h"),
        _ if hours < 24 * 365 * 2 => format!("{days}d"),
        _ if hours < 24 * 365 * 8 => two(years, "y", days % 365, "d"),
        _ => format!("{years}y"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::status::{Condition, ContainerState, Phase, Running, Waiting};
    use super::*;

    const NOW: Time = Time(1_000_000);

    /// `name state [restarts]`, where a state is `run`, `unready`, `starting` (runs, its startup
    /// probe has not succeeded), `wait:<reason>`, `exit:<code>[:<reason>]` or `sig:<n>`; a
    /// restarted container ended 10 s ago.
    fn container(text: &str) -> ContainerStatus {
        let mut words = text.split(' ');
        let (name, state) = (words.next().unwrap(), words.next().unwrap());
        let restart_count = words.next().map_or(0, |n| n.parse().unwrap());
        let ended = |exit_code, signal, reason: &str| {
            let (reason, message, container_id) = (reason.to_owned(), String::new(), String::new());
            let (started_at, finished_at) = (None, Some(Time(NOW.0 - 10)));
            Some(Terminated { exit_code, signal, reason, message, started_at, finished_at, container_id })
        };
        let mut now = ContainerState::default();
        let parts: Vec<&str> = state.split(':').collect();
        match parts[..] {
            ["run" | "unready" | "starting"] => now.running = Some(Running { started_at: NOW }),
            ["wait", reason] => now.waiting = Some(Waiting { reason: reason.into(), message: String::new() }),
            ["exit", code] => now.terminated = ended(code.parse().unwrap(), None, ""),
            ["exit", code, reason] => now.terminated = ended(code.parse().unwrap(), None, reason),
            ["sig", n] => now.terminated = ended(0x80 + 1, Some(n.parse().unwrap()), ""),
            _ => panic!("{state}"),
        }
        let last = if restart_count > 0 { ended(1, None, "Error") } else { None };
        ContainerStatus {
            name: name.into(),
            ready: state == "run" || state.starts_with("exit:0"),
            started: now.running.is_some() && state != "starting",
            state: now,
            last_state: ContainerState { terminated: last, ..ContainerState::default() },
            restart_count,
            image: String::new(),
            image_id: String::new(),
            container_id: String::new(),
        }
    }

    fn pod(phase: Phase, inits: &[&str], apps: &[&str]) -> PodStatus {
        let container_statuses: Vec<_> = apps.iter().map(|text| container(text)).collect();
        let init_container_statuses: Vec<_> = inits.iter().map(|text| container(text)).collect();
        let condition = |type_: &str, holds| Condition {
            type_: type_.into(),
            status: if holds { ConditionStatus::True } else { ConditionStatus::False },
            reason: String::new(),
            message: String::new(),
            last_transition_time: NOW,
        };
        PodStatus {
            phase,
            conditions: vec![
                condition("Initialized", inits.iter().all(|text| text.contains(" exit:0"))),
                condition("Ready", container_statuses.iter().all(|c| c.ready && c.started)),
            ],
            reason: String::new(),
            message: String::new(),
            start_time: None,
            pod_ip: None,
            pod_ips: vec![],
            qos_class: None,
            init_container_statuses,
            container_statuses,
            ephemeral_container_statuses: vec![container("debugger wait:ErrImagePull 9")],
        }
    }

    /// In all tests, init containers whose name begins with `s` are sidecars.
    fn view(status: &PodStatus) -> PodView<'_> {
        PodView { status, sidecars: &["s", "s2"], deletion: None, now: NOW }
    }

    #[test]
    fn the_columns_are_kubectls() {
        use Phase::{Failed, Pending, Running, Succeeded};
        type Row<'a> = (Phase, &'a [&'a str], &'a [&'a str], &'a str);
        let rows: &[Row] = &[
            (Pending, &[], &["a wait:ContainerCreating"], "0/1 ContainerCreating 0"),
            (
                Pending,
                &["i wait:PodInitializing", "j wait:PodInitializing"],
                &["a wait:PodInitializing"],
                "0/1 Init:0/2 0",
            ),
            (Pending, &["i run", "j wait:PodInitializing"], &["a wait:PodInitializing"], "0/1 Init:0/2 0"),
            (Pending, &["i exit:0:Completed", "j run"], &["a wait:PodInitializing"], "0/1 Init:1/2 0"),
            (Pending, &["i exit:1:Error", "j wait:PodInitializing"], &["a wait:PodInitializing"], "0/1 Init:Error 0"),
            (
                Pending,
                &["i wait:CrashLoopBackOff 3"],
                &["a wait:PodInitializing"],
                "0/1 Init:CrashLoopBackOff 3 (10s ago)",
            ),
            (Pending, &["i wait:ErrImagePull"], &["a wait:PodInitializing"], "0/1 Init:ErrImagePull 0"),
            (Pending, &["i exit:7"], &["a wait:PodInitializing"], "0/1 Init:ExitCode:7 0"),
            (Pending, &["i sig:9"], &["a wait:PodInitializing"], "0/1 Init:Signal:9 0"),
            (Pending, &["i exit:0:Completed 2"], &["a wait:PodInitializing"], "0/1 PodInitializing 0"),
            (Running, &["i exit:0:Completed 2"], &["a run", "b run"], "2/2 Running 0"),
            (Running, &[], &["a run 1", "b run 2"], "2/2 Running 3 (10s ago)"),
            (Running, &[], &["a unready"], "0/1 Running 0"),
            (Running, &[], &["a run", "b exit:0:Completed"], "1/2 NotReady 0"),
            (Running, &[], &["a run", "b exit:1:Error"], "1/2 Error 0"),
            (Running, &[], &["a run", "b wait:CrashLoopBackOff 5"], "1/2 CrashLoopBackOff 5 (10s ago)"),
            (Running, &[], &["a exit:137:OOMKilled"], "0/1 OOMKilled 0"),
            (Succeeded, &[], &["a exit:0:Completed"], "0/1 Completed 0"),
            (Failed, &[], &["a exit:1:Error", "b exit:0:Completed"], "0/2 Error 0"),
            (Failed, &[], &["b exit:0:Completed", "a exit:1:Error"], "0/2 Error 0"),
            (Failed, &[], &["a exit:0:Completed", "b exit:1:Error"], "0/2 Completed 0"),
            (Failed, &[], &["a exit:3"], "0/1 ExitCode:3 0"),
            (Failed, &[], &["a sig:15"], "0/1 Signal:15 0"),
        ];
        for (phase, inits, apps, expected) in rows {
            let status = pod(*phase, inits, apps);
            let Columns { ready, status, restarts } = columns(view(&status));
            assert_eq!(format!("{ready} {status} {restarts}"), *expected, "{phase:?} {inits:?} {apps:?}");
        }
    }

    #[test]
    fn sidecars_count_as_kubectl_counts_them() {
        use Phase::{Failed, Pending, Running, Succeeded};
        const WAITS: &[&str] = &["a wait:PodInitializing"];
        type Row<'a> = (&'a str, Phase, &'a [&'a str], &'a [&'a str], &'a str);
        let rows: &[Row] = &[
            ("it waits for its turn", Pending, &["s wait:PodInitializing"], WAITS, "0/2 Init:0/1 0"),
            ("its startup probe has not succeeded", Pending, &["s starting"], WAITS, "0/2 Init:0/1 0"),
            ("started, not ready, the next one's turn", Pending, &["s unready", "i run"], WAITS, "0/2 Init:1/2 0"),
            ("ready while the next one runs", Pending, &["s run", "i run"], WAITS, "1/2 Init:1/2 0"),
            (
                "it crashes before the next one",
                Pending,
                &["s wait:CrashLoopBackOff 2", "i run"],
                WAITS,
                "0/2 Init:CrashLoopBackOff 2 (10s ago)",
            ),
            (
                "its restarts and an init container's",
                Pending,
                &["s run 2", "i run 1"],
                WAITS,
                "1/2 Init:1/2 3 (10s ago)",
            ),
            ("all is well", Running, &["s run", "s2 run"], &["a run"], "3/3 Running 0"),
            ("one is not ready", Running, &["s run", "s2 unready"], &["a run"], "2/3 Running 0"),
            (
                "after the initialisation only its own restarts count",
                Running,
                &["i exit:0:Completed 4", "s run 1"],
                &["a run 2"],
                "2/2 Running 3 (10s ago)",
            ),
            (
                "it crashes later: the pod is initialised",
                Running,
                &["s wait:CrashLoopBackOff 3"],
                &["a run"],
                "1/2 Init:CrashLoopBackOff 3 (10s ago)",
            ),
            ("the app is done, it is not", Running, &["s run"], &["a exit:0:Completed"], "1/2 Completed 0"),
            ("both are done", Succeeded, &["s exit:0:Completed"], &["a exit:0:Completed"], "0/2 Completed 0"),
            ("it was killed at the end", Succeeded, &["s exit:137:Error"], &["a exit:0:Completed"], "0/2 Completed 0"),
            ("the app failed", Failed, &["s exit:137:Error"], &["a exit:2:Error"], "0/2 Error 0"),
        ];
        for (name, phase, inits, apps, expected) in rows {
            let mut status = pod(*phase, inits, apps);
            // Initialised is a pod whose app containers have started.
            let initialized = apps != &WAITS;
            status.conditions[0].status = if initialized { ConditionStatus::True } else { ConditionStatus::False };
            let Columns { ready, status, restarts } = columns(view(&status));
            assert_eq!(format!("{ready} {status} {restarts}"), *expected, "{name}");
        }
    }

    #[test]
    fn a_pod_that_is_being_stopped_is_terminating_until_it_is_over() {
        for (phase, app, expected) in
            [(Phase::Running, "a run", "Terminating"), (Phase::Failed, "a exit:143:Error", "Error")]
        {
            let status = pod(phase, &[], &[app]);
            assert_eq!(columns(PodView { deletion: Some(NOW), ..view(&status) }).status, expected);
        }
    }

    #[test]
    fn the_reason_of_the_pod_stands_before_its_phase() {
        let mut status = pod(Phase::Failed, &[], &[]);
        status.reason = "DeadlineExceeded".into();
        assert_eq!(columns(view(&status)).status, "DeadlineExceeded");
    }

    #[test]
    fn durations_are_kubectls() {
        const MINUTE: i64 = 60;
        const HOUR: i64 = 60 * MINUTE;
        const DAY: i64 = 24 * HOUR;
        const YEAR: i64 = 365 * DAY;
        for (seconds, expected) in [
            (-2, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (121, "2m1s"),
            (9 * MINUTE + 59, "9m59s"),
            (10 * MINUTE + 1, "10m"),
            (3 * HOUR - 1, "179m"),
            (3 * HOUR, "3h"),
            (7 * HOUR + 59 * MINUTE, "7h59m"),
            (8 * HOUR + 59 * MINUTE, "8h"),
            (2 * DAY - 1, "47h"),
            (2 * DAY, "2d"),
            (2 * DAY + HOUR, "2d1h"),
            (8 * DAY - 1, "7d23h"),
            (8 * DAY + HOUR, "8d"),
            (2 * YEAR - 1, "729d"),
            (2 * YEAR, "2y"),
            (2 * YEAR + DAY, "2y1d"),
            (8 * YEAR - 1, "7y364d"),
            (8 * YEAR + DAY, "8y"),
        ] {
            assert_eq!(human_duration(seconds), expected, "{seconds}");
        }
        assert_eq!(age(Time(NOW.0 - 90), NOW), "90s");
    }
}

//! `inspect --tree` and `inspect --html`: held against `/proc`, and the page against a browser.

use crate::harness::{Host, facts, pod, shell, with};
use crate::network::NEEDS;
use serde_json::json;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

/// The number of a process's namespace, as /proc says it.
fn inode(pid: i32, kind: &str) -> u64 {
    std::fs::metadata(format!("/proc/{pid}/ns/{kind}")).unwrap().ino()
}

/// The lines of the tree that belong to a container.
fn part<'t>(tree: &'t str, container: &str) -> Vec<&'t str> {
    let head = format!("container {container}  ");
    let lines = tree.lines().skip_while(|line| !line.contains(&head));
    let is_next = |line: &&str| !line.starts_with("├─ ") && !line.starts_with("└─ ");
    let mut found: Vec<&str> = lines.clone().take(1).collect();
    found.extend(lines.skip(1).take_while(is_next));
    assert!(!found.is_empty(), "no {container} in\n{tree}");
    found
}

#[test]
fn the_tree_says_what_proc_says() {
    let Some(host) = Host::new(&[]) else { return };
    let containers = json!([facts("a", &["sleep"]), facts("b", &["sleep"])]);
    host.start(&pod("two", json!({ "terminationGracePeriodSeconds": 1, "containers": containers })));
    let tree = host.ok(&["inspect", "--tree", "two"]);
    let (a, b) = (host.pid("two", "a"), host.pid("two", "b"));
    for (name, pid, other) in [("a", a, "b"), ("b", b, "a")] {
        let lines = part(&tree, name).join("\n");
        let own = lines.lines().find(|line| line.contains("its own")).unwrap();
        let pods = lines.lines().find(|line| line.contains("the pod's")).unwrap();
        let hosts = lines.lines().find(|line| line.contains("the host's")).unwrap();
        for (kind, word) in [("pid", "pid"), ("mnt", "mount"), ("cgroup", "cgroup")] {
            assert!(own.contains(&format!("{word} {}", inode(pid, kind))), "{kind}: {own}");
        }
        for (kind, word) in [("net", "network"), ("uts", "uts"), ("ipc", "ipc")] {
            assert_eq!(inode(a, kind), inode(b, kind));
            assert!(pods.contains(&format!("{word} {}", inode(pid, kind))), "{kind}: {pods}");
        }
        assert!(pods.ends_with(&format!("(with {other})")), "{pods}");
        assert!(hosts.contains(&format!("user {}", inode(pid, "user"))), "{hosts}");
        assert!(lines.contains(&format!("pid {pid}, inside 1  user 0")), "{lines}");
        assert!(lines.contains("/facts sleep"), "{lines}");
    }
    assert!(!tree.contains('\x1b'), "colours without a terminal");
    // All pods without a name; no number of another pod.
    host.start(&pod("three", json!({ "terminationGracePeriodSeconds": 1, "containers": [facts("c", &["sleep"])] })));
    let all = host.ok(&["inspect", "--tree"]);
    assert!(all.contains("pod default/two  Running") && all.contains("pod default/three  Running"), "{all}");
    assert!(part(&all, "c").iter().all(|line| !line.contains("(with ")), "{all}");
}

#[test]
fn every_kind_of_pod_is_drawn() {
    let Some(host) = Host::new(&[]) else { return };
    let quick = json!({ "terminationGracePeriodSeconds": 1 });
    let sleeping = || json!([facts("a", &["sleep"]), facts("b", &["sleep"])]);
    let start = |name: &str, spec: serde_json::Value| {
        host.start(&pod(name, with(with(quick.clone(), spec), json!({ "containers": sleeping() }))))
    };
    start("hosts", json!({ "hostNetwork": true }));
    start("shared", json!({ "shareProcessNamespace": true }));
    start("users", json!({ "hostUsers": false }));
    let tree = host.ok(&["inspect", "--tree", "hosts"]);
    let hosts = part(&tree, "a").join("\n");
    assert!(hosts.contains(&format!("network {}", inode(1.max(host.pid("hosts", "a")), "net"))), "{hosts}");
    assert!(hosts.lines().any(|line| line.contains("the host's") && line.contains("network")), "{hosts}");
    assert!(tree.contains("network  the host's"), "{tree}");
    let tree = host.ok(&["inspect", "--tree", "shared"]);
    assert!(tree.contains("processes of the pod itself"), "{tree}");
    let pid = inode(host.pid("shared", "a"), "pid");
    assert!(tree.contains(&format!("pid     {pid}  shared by a, b")), "{tree}");
    let tree = host.ok(&["inspect", "--tree", "users"]);
    let user = inode(host.pid("users", "a"), "user");
    assert!(tree.contains(&format!("user    {user}  shared by a, b")), "{tree}");
    let first = std::fs::read_to_string(format!("/proc/{}/uid_map", host.pid("users", "a"))).unwrap();
    let first = first.split_whitespace().nth(1).unwrap();
    assert!(tree.contains(&format!("user 0 (on the host {first})")), "{tree}");
    // One that is over has nothing any more.
    let ended = pod("ended", json!({ "restartPolicy": "Never", "containers": [shell("main", "exit 3")] }));
    host.run(&["run", "-d", "--wait=complete", &host.manifest(&ended)]).expect(3);
    let tree = host.ok(&["inspect", "--tree", "ended"]);
    assert!(tree.contains("container main  ended: Error, exit code 3"), "{tree}");
    assert!(tree.contains("namespaces of the pod  none"), "{tree}");
    // One whose supervisor is gone still has what it has.
    let supervisor = nix::unistd::Pid::from_raw(host.supervisor("hosts"));
    nix::sys::signal::kill(supervisor, nix::sys::signal::Signal::SIGKILL).unwrap();
    let page = crate::harness::until("the supervisor's end", || {
        Some(host.ok(&["inspect", "hosts", "--html", "-"])).filter(|page| page.contains("its supervisor is gone"))
    });
    assert!(
        page.contains(&format!("<td role=\"cell\" data-label=\"Pid on the host\">{}</td>", host.pid("hosts", "a")))
    );
}

#[test]
fn the_page_is_written_as_other_tools_write() {
    let Some(host) = Host::new(&[]) else { return };
    host.start(&pod(
        "one",
        json!({ "terminationGracePeriodSeconds": 1, "containers": [with(facts("a", &["sleep"]),
        json!({ "resources": { "limits": { "memory": "64Mi", "cpu": "500m" } } }))] }),
    ));
    let file = host.path("page.html");
    let name = file.to_str().unwrap();
    std::fs::write(&file, "old").unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    host.ok(&["inspect", "one", "--html", name]);
    let page = std::fs::read_to_string(&file).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>\n"));
    assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o640);
    let beside: Vec<_> = std::fs::read_dir(host.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!beside.iter().any(|name| name.to_string_lossy().ends_with(".tmp")), "{beside:?}");
    // The figures are the kernel's.
    let pid = host.pid("one", "a");
    for kind in ["net", "uts", "ipc", "mnt", "pid", "cgroup"] {
        assert!(page.contains(&format!("<code>{}</code>", inode(pid, kind))), "{kind}");
    }
    assert!(page.contains(" of 64 MiB used") && page.contains(" of 0.500 CPU used"), "limits");
    // A symlink is written through, as by a shell.
    let link = host.path("link.html");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    host.ok(&["inspect", "one", "--html", link.to_str().unwrap()]);
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    for (args, words) in [
        (&["inspect", "one", "--html", name, "-o", "json"][..], "cannot be used with"),
        (&["inspect", "one", "--tree", "-o", "json"], "cannot be used with"),
        (&["inspect", "one", "--tree", "--html", name], "cannot be used with"),
        (&["inspect", "--html", name], "required"),
    ] {
        host.run(args).expect(2).says(&[words]);
    }
    let nowhere = host.path("none/page.html");
    host.run(&["inspect", "one", "--html", nowhere.to_str().unwrap()]).expect(125).says(&["open", "No such file"]);
}

/// How the page may be looked at: a name, the width, and what of the style sheet is to hold although it does not here.
const VIEWS: &[(&str, u32, Option<&str>)] = &[
    ("phone", 360, None),
    ("phone, dark", 360, Some("(prefers-color-scheme: dark)")),
    ("tablet", 800, None),
    ("desktop", 1400, None),
    ("desktop, dark", 1400, Some("(prefers-color-scheme: dark)")),
    ("paper", 700, Some("print")),
];

/// Looks at each frame and says what is wrong. The page itself has no script: this one is of the page around it.
const MEASURE: &str = r##"
const problems = []; let texts = 0, links = 0, styles = new Set();
const show = (view, what, element) => problems.push(view + ": " + what + ": " + (element.textContent || "").trim().slice(0, 60) + " <" + element.tagName + " " + (element.getAttribute("class") || "") + ">");
for (const frame of document.querySelectorAll("iframe")) {
  const view = frame.title, page = frame.contentDocument;
  if (!page.querySelector("main")) { problems.push(view + ": nothing there"); continue; }
  styles.add(view + getComputedStyle(page.body).backgroundColor);
  for (const link of page.querySelectorAll("a")) {
    links++;
    const href = link.getAttribute("href");
    if (!href.startsWith("#") || !page.getElementById(href.slice(1))) show(view, "leads nowhere " + href, link);
  }
  const wide = page.documentElement;
  if (wide.scrollWidth > wide.clientWidth) problems.push(view + ": the page is " + wide.scrollWidth + " wide");
  for (const element of page.querySelectorAll("body *:not(svg):not(svg *)")) {
    if (element.closest("thead, .bar")) continue;
    if (element.clientWidth > 0 && element.scrollWidth > element.clientWidth + 1) show(view, element.scrollWidth + " > " + element.clientWidth, element);
  }
  let drawn = 0;
  for (const svg of page.querySelectorAll("svg")) {
    const whole = svg.getBoundingClientRect();
    if (whole.width == 0) continue;
    drawn++;
    const scale = whole.width / svg.viewBox.baseVal.width;
    if (scale * 12 < 11) problems.push(view + ": letters of " + scale * 12 + " pixels");
    for (const text of svg.querySelectorAll("text")) {
      texts++;
      const own = text.getBoundingClientRect(), box = text.closest("g.box").querySelector("rect").getBoundingClientRect();
      for (const [name, outer] of [["box", box], ["drawing", whole]])
        if (own.left < outer.left || own.right > outer.right || own.top < outer.top - 1 || own.bottom > outer.bottom + 1) show(view, "out of its " + name, text);
    }
    for (const box of svg.querySelectorAll("g.box")) {
      const outer = box.parentElement.closest("g.box");
      if (!outer) continue;
      const a = box.querySelector("rect").getBoundingClientRect(), b = outer.querySelector("rect").getBoundingClientRect();
      if (a.left < b.left || a.right > b.right || a.top < b.top || a.bottom > b.bottom) show(view, "a box out of its box", box);
    }
  }
  const pods = page.querySelectorAll("main > section[id]").length;
  if (drawn != pods) problems.push(view + ": " + drawn + " drawings of " + pods + " pods");
}
const result = document.createElement("pre");
result.id = "measured";
result.textContent = problems.length ? "BAD\n" + problems.join("\n") : "FINE " + texts + " texts " + links + " links " + styles.size + " styles";
document.body.append(result);
"##;

/// chromium without a window: what it printed and what it complained of.
fn browser(host: &Host, args: &[&str], file: &Path) -> (String, String) {
    let profile = host.path("chromium");
    let mut command = Command::new("timeout");
    command.args([
        "120",
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
    ]);
    command.args([
        "--disable-breakpad",
        "--disable-background-networking",
        "--enable-logging=stderr",
        "--virtual-time-budget=10000",
    ]);
    command.arg(format!("--user-data-dir={}", profile.display())).args(args).arg(format!("file://{}", file.display()));
    command.env("HOME", &profile).stdin(std::process::Stdio::null());
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "chromium: {}\n{}", output.status, text(&output.stderr));
    (text(&output.stdout), text(&output.stderr))
}

/// A page with the page in a frame for each view.
fn around(page: &str) -> String {
    let mut out = String::from("<!DOCTYPE html><meta charset=utf-8><title>measure</title><body>");
    for (name, width, holds) in VIEWS {
        let page = match holds {
            Some("print") => page.replace("@media print", "@media all"),
            Some(condition) => page.replace(condition, "(min-width: 0)"),
            None => page.to_owned(),
        };
        let page = page.replace('&', "&amp;").replace('"', "&quot;");
        out.push_str(&format!(
            "<iframe title=\"{name}\" style=\"width:{width}px;height:900px;border:0\" srcdoc=\"{page}\"></iframe>"
        ));
    }
    out + "<script>addEventListener('load', () => {" + MEASURE + "})</script>"
}

#[test]
fn the_page_in_a_browser() {
    let Some(host) = Host::new(&[NEEDS, &["chromium"]].concat()) else { return };
    host.own_network();
    let hostile = "# </text></svg><script>document.title='run'</script> <b onload=x>漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字 \u{202e}";
    let long = "x".repeat(300);
    let volumes =
        json!([{ "name": "content", "emptyDir": {} }, { "name": "logs", "emptyDir": { "medium": "Memory" } }]);
    let mount = json!({ "volumeMounts": [{ "name": "content", "mountPath": format!("/{}", "deep/".repeat(20)) },
        { "name": "logs", "mountPath": "/logs", "readOnly": true }],
        "resources": { "limits": { "memory": "64Mi", "cpu": "500m" } } });
    let beside = shell(
        "worker-with-a-long-name-that-is-as-long-as-a-name-may-be-in-all",
        &format!("{hostile}\n: {long}; sleep 1000 & sleep 1000"),
    );
    host.start(&pod(
        "web",
        json!({ "terminationGracePeriodSeconds": 1, "volumes": volumes,
        "initContainers": [shell("setup", "true")],
        "containers": [with(facts("server", &["sleep"]), mount), beside] }),
    ));
    host.start(&pod(
        "shared",
        json!({ "terminationGracePeriodSeconds": 1, "hostUsers": false, "shareProcessNamespace": true,
        "containers": [facts("a", &["sleep"])] }),
    ));
    let ended =
        pod("ended", json!({ "restartPolicy": "Never", "hostNetwork": true, "containers": [shell("main", "exit 3")] }));
    host.run(&["run", "-d", "--wait=complete", &host.manifest(&ended)]).expect(3);
    let (file, frames) = (host.path("page.html"), host.path("frames.html"));
    host.ok(&["inspect", "web", "shared", "ended", "--html", file.to_str().unwrap()]);
    let page = std::fs::read_to_string(&file).unwrap();
    assert!(page.contains("bridge podshim0"), "the bridge");
    // From the moment when the pod's name was taken; what is known to the second only may have begun with it.
    let after = |what: &str| {
        let row = page.split("<tr").find(|row| row.contains(what) && row.contains("data-label=\"After\">")).unwrap();
        row.split("data-label=\"After\">").nth(1).unwrap().split('<').next().unwrap().to_owned()
    };
    assert_eq!(after("namespaces, network and files of the pod are made"), "0 ms");
    let begun = after(">setup</a>");
    assert!(begun.starts_with("about ") || begun != "0 ms", "{begun}");
    // The page as it is: it says nothing on the console, and no text of a container became anything else.
    let (dom, console) = browser(&host, &["--dump-dom"], &file);
    assert!(!console.contains("CONSOLE"), "{console}");
    assert!(dom.contains("<title>3 pods on "), "the title");
    assert!(!dom.contains("<script") && !dom.contains("<b onload"));
    let measure = |page: &str| {
        std::fs::write(&frames, around(page)).unwrap();
        let (dom, console) = browser(&host, &["--dump-dom", "--window-size=1500,1000"], &frames);
        assert!(!console.contains("CONSOLE"), "{console}");
        dom.rsplit_once("<pre id=\"measured\">").map_or("nothing was measured".to_owned(), |(_, rest)| rest.to_owned())
    };
    let measured = measure(&page);
    assert!(measured.starts_with("FINE "), "{measured}");
    // Faults are found: letters that are too large, a word that cannot be broken, a link to nowhere.
    let bad = page.replace("svg text { font-size: 12px", "svg text { font-size: 16px").replace(" id=\"w-cgroup\"", "");
    let bad = measure(&bad.replace("<footer>", "<footer style='white-space: nowrap'>"));
    for fault in ["out of its box", "leads nowhere #w-cgroup", "the page is"] {
        assert!(bad.contains(fault), "{fault}: {bad}");
    }
    let numbers: Vec<u32> = measured.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert!(numbers[0] > 200 && numbers[1] > 200, "{measured}");
    assert_eq!(numbers[2] as usize, VIEWS.len(), "{measured}");
}

//! A survey as one page: a drawing of each pod, and tables that say the same and more. Pure.
//!
//! The page is whole in itself: no script, no style sheet, no picture from elsewhere, so it can be mailed and printed. A policy
//! in its head forbids the browser to load or run anything, whatever a container's command line may hold; and each text goes
//! through [`esc`]. Ids and links are made of numbers, never of names.

mod drawing;
mod tables;

use super::model::{Pod, Supervisor, Survey};
use super::text::{plain, time};
use crate::embedded::{self, compressed};
use drawing::Size;
use std::fmt::Write;

/// A text as part of HTML or of an attribute in quotes.
fn esc(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    plain(&out, usize::MAX)
}

/// The page.
pub fn page(survey: &Survey) -> String {
    let names: Vec<String> = survey.pods.iter().map(Pod::full_name).collect();
    let title = match &names[..] {
        [one] => format!("Pod {one}"),
        all => format!("{} pods", all.len()),
    };
    let mut out = String::new();
    let host = &survey.host;
    let style = embedded::text(compressed!("style.css"));
    // A String never refuses.
    let _ = write!(
        out,
        r##"<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{title} on {host}</title>
<style>
{style}</style>
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<header>
<h1>{title}</h1>
<p>What the kernel of the host <strong>{host}</strong> showed at {time} (Linux {kernel}, cgroups {cgroups}). Every number here was read
from that machine, and can be looked up there: <code>ls -l /proc/PID/ns</code> shows the same namespace numbers.</p>
<nav aria-label="Contents"><ul>
"##,
        title = esc(&title),
        host = esc(&host.name),
        time = time(survey.taken),
        kernel = esc(&host.kernel),
        cgroups = esc(&host.cgroups),
    );
    for (index, pod) in survey.pods.iter().enumerate() {
        let id = format!("p{index}");
        if survey.pods.len() > 1 {
            let _ = writeln!(out, r##"<li><a href="#{id}">Pod {}</a></li>"##, esc(&pod.full_name()));
        } else {
            for (part, name) in PARTS {
                let _ = writeln!(out, r##"<li><a href="#{id}-{part}">{name}</a></li>"##);
            }
        }
    }
    out.push_str(
        "<li><a href=\"#words\">What the words mean</a></li>\n</ul></nav>\n</header>\n<main id=\"content\">\n",
    );
    for (index, pod) in survey.pods.iter().enumerate() {
        section(&mut out, survey, pod, &format!("p{index}"));
    }
    // What each term means, once.
    out.push_str(&embedded::text(compressed!("words.html")));
    out.push_str("</main>\n<footer>Made by <code>podshim inspect --html</code>. The page loads nothing and runs nothing.</footer>\n");
    out.push_str("</body>\n</html>\n");
    out
}

/// The parts of a pod's section: ends of ids, and headings.
const PARTS: [(&str, &str); 8] = [
    ("picture", "The picture"),
    ("ns", "Namespaces"),
    ("containers", "Containers and processes"),
    ("network", "Network"),
    ("volumes", "Volumes"),
    ("cgroups", "Limits and use"),
    ("timeline", "Start-up"),
    ("events", "Events"),
];

fn section(out: &mut String, survey: &Survey, pod: &Pod, id: &str) {
    let supervisor = match pod.supervisor {
        Supervisor::Alive => "its supervisor lives",
        Supervisor::Over => "over: its supervisor has ended too",
        Supervisor::Gone => "its supervisor is gone: phase and states are the last ones seen",
    };
    let phase = if pod.phase.is_empty() { "not reported yet" } else { &pod.phase };
    let _ = write!(
        out,
        "<section id=\"{id}\" aria-labelledby=\"{id}-h\">\n<h2 id=\"{id}-h\">Pod {}</h2>\n<ul class=\"tags\"><li>{}</li><li>{}</li>\
         <li>{}</li><li>uid <code>{}</code></li></ul>\n",
        esc(&pod.full_name()),
        esc(phase),
        supervisor,
        esc(&pod.qos),
        esc(&pod.uid)
    );
    for missing in &pod.missing {
        let _ = writeln!(out, "<p class=\"bad\">Not found out: {}</p>", esc(missing));
    }
    let bodies: [fn(&mut String, &Survey, &Pod, &str); 8] = [
        picture,
        tables::namespaces,
        tables::containers,
        tables::network,
        tables::volumes,
        tables::cgroups,
        tables::timeline,
        tables::events,
    ];
    for ((part, name), body) in PARTS.into_iter().zip(bodies) {
        let _ = writeln!(out, "<h3 id=\"{id}-{part}\">{name}</h3>");
        body(out, survey, pod, id);
    }
    out.push_str("</section>\n");
}

fn picture(out: &mut String, survey: &Survey, pod: &Pod, id: &str) {
    out.push_str("<figure>\n");
    for size in [Size::Wide, Size::Medium, Size::Narrow] {
        out.push_str(&drawing::svg(survey, pod, id, size));
        out.push('\n');
    }
    out.push_str(
        "<figcaption>A box with a solid edge is a thing: the host, the pod, a container, a process. A box with a dashed edge is a \
         namespace: what is in it shares one view of something. Letters tie each volume to the places where containers see it. \
         Of a process the first number is the one that it sees itself. A text in blue leads to where the same is told in full.</figcaption>\n</figure>\n",
    );
}

fn capitalised(word: &str) -> String {
    if matches!(word, "uts" | "ipc" | "pid") {
        return word.to_uppercase();
    }
    let mut letters = word.chars();
    letters.next().map(|first| first.to_ascii_uppercase().to_string() + letters.as_str()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::sample::{self, HOSTILE};
    use std::collections::BTreeSet;

    fn values<'a>(page: &'a str, attribute: &str) -> Vec<&'a str> {
        let start = format!(" {attribute}=\"");
        page.split(&start).skip(1).map(|rest| rest.split('"').next().unwrap()).collect()
    }

    #[test]
    fn a_made_up_survey() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/picture/page.html");
        let found = page(&sample::survey());
        if std::env::var_os("PODSHIM_BLESS").is_some() {
            std::fs::write(&path, &found).unwrap();
        }
        let expected = std::fs::read_to_string(&path).unwrap();
        assert!(found == expected, "PODSHIM_BLESS=1 rewrites {}", path.display());
    }

    #[test]
    fn every_link_leads_somewhere_and_every_id_is_there_once() {
        let page = page(&sample::survey());
        let ids = values(&page, "id");
        let once: BTreeSet<&str> = ids.iter().copied().collect();
        assert_eq!(ids.len(), once.len());
        let links: Vec<&str> = values(&page, "href").into_iter().filter_map(|href| href.strip_prefix('#')).collect();
        assert!(links.len() > 40, "{links:?}");
        for link in links {
            assert!(once.contains(link), "#{link} leads nowhere");
        }
        for labels in values(&page, "aria-labelledby") {
            assert!(labels.split(' ').all(|label| once.contains(label)), "{labels}");
        }
    }

    #[test]
    fn whatever_a_container_says_stays_text() {
        let mut survey = sample::survey();
        let evil = format!("{HOSTILE}\x1b\u{202e}");
        survey.host.name = evil.clone();
        let pod = &mut survey.pods[0];
        for text in [&mut pod.name, &mut pod.namespace, &mut pod.uid, &mut pod.phase, &mut pod.qos, &mut pod.hostname] {
            text.clone_from(&evil);
        }
        pod.missing = vec![evil.clone()];
        pod.network.links[1].name.clone_from(&evil);
        pod.network.links[1].addresses = vec![evil.clone()];
        pod.network.links[1].peer.as_mut().unwrap().bridge.clone_from(&evil);
        pod.network.routes = vec![evil.clone()];
        let volume = &mut pod.volumes[0];
        for text in [&mut volume.name, &mut volume.kind, &mut volume.source] {
            text.clone_from(&evil);
        }
        pod.timeline[0].of.clone_from(&evil);
        let event = &mut pod.events[0];
        for text in [&mut event.reason, &mut event.object] {
            text.clone_from(&evil);
        }
        let app = &mut pod.containers[1];
        for text in [&mut app.name, &mut app.image, &mut app.kind, &mut app.writable, &mut app.layers[0].id] {
            text.clone_from(&evil);
        }
        app.mounts.volumes[0].path.clone_from(&evil);
        app.mounts.other =
            vec![crate::picture::model::Mount { path: evil.clone(), fs_type: evil.clone(), read_only: false }];
        app.cgroup.path.clone_from(&evil);
        app.cgroup.cpu.files = vec![(evil.clone(), evil)];
        let page = page(&survey);
        for what in ["<script", "</svg><", "<b onload", "<b ", "\x1b", "\u{202e}", "onload=x>"] {
            assert!(!page.contains(what), "{what}");
        }
        assert!(page.contains("&lt;script&gt;alert(1)"));
        assert_eq!(page.matches("</svg>").count(), 3 * survey.pods.len());
    }

    #[test]
    fn nothing_is_loaded_or_run() {
        let page = page(&sample::survey());
        for what in ["<script", "http://", "https://", "src=", "url(", "@import", "<iframe", "<img"] {
            assert!(!page.contains(what), "{what}");
        }
    }

    #[test]
    fn without_pods() {
        assert!(page(&Survey { pods: Vec::new(), ..sample::survey() }).contains("<h1>0 pods</h1>"));
    }
}

//! Exec and Attach.

use crate::fixture::{Client, DEADLINE, Fixture, client, timeouts};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use podshim::cri::streaming::{Config, Tls};
use std::io::{BufRead, BufReader, Read, Write};
use std::time::{Duration, Instant};

/// Arguments for each way to the server by which a client can end a command's input.
const HALF_CLOSING: [&[&str]; 4] =
    [&[], &["-protocols", "v3.channel.k8s.io"], &["-protocols", "v2.channel.k8s.io"], &["-websocket"]];
/// Those that tell exit codes.
const WITH_CODES: [&[&str]; 3] = [&[], &["-websocket"], &["-websocket", "-protocols", "v4.channel.k8s.io"]];

fn start(way: &[&str], flags: &[&str], url: &str) -> Client {
    Client::start(&[way, flags, &["exec", url]].concat())
}

/// Bytes that compress badly and repeat late.
fn bytes(count: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(count).collect()
}

#[test]
fn megabytes_go_there_and_back_and_the_end_of_input_ends_the_command() {
    if client().is_none() {
        return;
    }
    let (server, sent) = (Fixture::start(), bytes(5 << 20));
    for way in HALF_CLOSING {
        let url = server.exec(&["cat"], "ioe");
        let outcome = start(way, &["-streams", "ioe"], &url).finish(&sent);
        assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""), "{way:?}");
        assert!(outcome.stdout == sent, "{way:?}: {} bytes came back of {}", outcome.stdout.len(), sent.len());
    }
}

#[test]
fn exit_codes_are_told_and_outputs_are_kept_apart() {
    if client().is_none() {
        return;
    }
    let server = Fixture::start();
    let script = ["sh", "-c", "echo out; echo err >&2; exit 42"];
    for way in WITH_CODES {
        let outcome = start(way, &[], &server.exec(&script, "oe")).finish(b"");
        assert_eq!((outcome.code, outcome.stderr.as_str()), (42, "err\n"), "{way:?}");
        assert_eq!(outcome.stdout, b"out\n", "{way:?}");
        let outcome = start(way, &["-streams", "o"], &server.exec(&script, "o")).finish(b"");
        assert_eq!((outcome.code, outcome.stdout.as_slice(), outcome.stderr.as_str()), (42, &b"out\n"[..], ""));
        let outcome = start(way, &[], &server.exec(&["sh", "-c", "kill -9 $$"], "oe")).finish(b"");
        assert_eq!(outcome.code, 137, "{way:?}");
    }
    for protocol in ["v3.channel.k8s.io", "v2.channel.k8s.io"] {
        let outcome = start(&["-protocols", protocol], &[], &server.exec(&script, "oe")).finish(b"");
        assert_eq!(outcome.code, 250);
        assert!(outcome.stderr.contains("non-zero exit code: exit status 42"), "{}", outcome.stderr);
    }
    let outcome = start(&["-protocols", "channel.k8s.io"], &[], &server.exec(&["echo", "v1"], "oe")).finish(b"");
    assert_eq!((outcome.code, outcome.stdout), (0, b"v1\n".to_vec()), "{}", outcome.stderr);
}

#[test]
fn a_command_that_cannot_be_started_is_an_internal_error() {
    if client().is_none() {
        return;
    }
    let server = Fixture::start();
    for way in WITH_CODES {
        let outcome = start(way, &[], &server.exec(&["/no/such/command"], "oe")).finish(b"");
        assert_eq!(outcome.code, 250);
        let expected = "error executing command in container: starting /no/such/command: No such file";
        assert!(outcome.stderr.contains(expected), "{way:?}: {}", outcome.stderr);
    }
}

#[test]
fn a_terminal_follows_its_window() {
    if client().is_none() {
        return;
    }
    let server = Fixture::start();
    // Until it has that size; a typed word ends it.
    let script = "stty -echo; until [ \"$(stty size)\" = '24 80' ]; do sleep 0.01; done; echo first; \
                  until [ \"$(stty size)\" = '30 100' ]; do sleep 0.01; done; echo second; read word; echo \"got $word\"; exit 5";
    for way in WITH_CODES {
        let url = server.exec(&["sh", "-c", script], "iot");
        let mut client = start(way, &["-tty", "-streams", "io", "-sizes", "80x24,100x30"], &url);
        let pid = Pid::from_raw(client.child.id() as i32);
        let mut lines = BufReader::new(client.child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "first", "{way:?}");
        kill(pid, Signal::SIGUSR1).unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), "second", "{way:?}");
        client.child.stdin.as_mut().unwrap().write_all(b"hello\n").unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), "got hello", "{way:?}");
        assert_eq!(client.child.wait().unwrap().code(), Some(5), "{way:?}");
    }
}

#[test]
fn attaching_ends_well_however_the_container_ended() {
    if client().is_none() {
        return;
    }
    let server = Fixture::start();
    for way in WITH_CODES {
        let url = server.attach("read line; echo \"<$line>\"; echo err >&2; exit 7", "ioe");
        let outcome = start(way, &["-streams", "ioe"], &url).finish(b"text\nmore\n");
        assert_eq!((outcome.code, outcome.stderr.as_str()), (0, "err\n"), "{way:?}");
        assert_eq!(outcome.stdout, b"<text>\n", "{way:?}");
        assert_eq!(server.ended(), 7);
    }
}

#[test]
fn a_client_that_does_not_read_stops_the_command() {
    if client().is_none() {
        return;
    }
    let (server, scratch) = (Fixture::start(), tempfile::tempdir().unwrap());
    for (number, way) in WITH_CODES.into_iter().enumerate() {
        let count = scratch.path().join(number.to_string());
        let script = format!(
            "i=0; while [ $i -lt 200 ]; do head -c 1048576 /dev/zero; i=$((i+1)); echo $i >{0}.new; mv {0}.new {0}; done",
            count.display()
        );
        let client = start(way, &[], &server.exec(&["sh", "-c", &script], "oe"));
        let megabytes = || std::fs::read_to_string(&count).ok().and_then(|text| text.trim().parse::<usize>().ok());
        // It has come to a stand: no megabyte for a second.
        let (mut before, mut since, until) = (None, Instant::now(), Instant::now() + DEADLINE);
        while before.is_none() || since.elapsed() < Duration::from_secs(1) {
            assert!(Instant::now() < until, "it does not stop: {before:?}");
            if megabytes() != before {
                (before, since) = (megabytes(), Instant::now());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(before < Some(60), "{way:?}: {before:?} megabytes are on their way");
        let outcome = client.finish(b"");
        assert_eq!((outcome.code, outcome.stdout.len()), (0, 200 << 20), "{way:?}: {}", outcome.stderr);
    }
}

#[test]
fn a_command_that_does_not_read_stops_its_client() {
    if client().is_none() {
        return;
    }
    let server = Fixture::start();
    for way in HALF_CLOSING {
        let url = server.exec(&["sh", "-c", "read line; echo $line"], "io");
        let mut client = start(way, &["-streams", "io"], &url);
        // Not to its end: the first line is enough, and the rest is nobody's.
        let input = [b"line\n".to_vec(), bytes(60 << 20)].concat();
        let mut stdin = client.child.stdin.take().unwrap();
        let writer = std::thread::spawn(move || stdin.write_all(&input).is_err());
        let outcome = client.wait();
        assert_eq!((outcome.code, outcome.stdout), (0, b"line\n".to_vec()), "{way:?}: {}", outcome.stderr);
        assert!(writer.join().unwrap(), "{way:?}: 60 megabytes were taken that nobody read");
    }
}

#[test]
fn a_client_that_disappears_ends_the_input_and_hangs_up_the_terminal() {
    if client().is_none() {
        return;
    }
    let server = Fixture::start();
    for way in WITH_CODES {
        // One that read from the terminal might see its end before the signal.
        for (streams, tty, command, expected) in
            [("io", None, "echo there; exec cat", 0), ("iot", Some("-tty"), "echo there; exec sleep 60", 129)]
        {
            let url = server.exec(&["sh", "-c", command], streams);
            let flags: Vec<&str> = tty.into_iter().chain(["-streams", "io"]).collect();
            let mut client = start(way, &flags, &url);
            let mut line = [0; 5];
            client.child.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
            client.child.kill().unwrap();
            client.child.wait().unwrap();
            assert_eq!(server.ended(), expected, "{way:?} {streams}");
            server.released();
        }
        // While nothing of it is read, since the command takes nothing.
        let url = server.exec(&["sh", "-c", "echo there; exec sleep 60"], "io");
        let mut client = start(way, &["-streams", "io"], &url);
        let (mut stdin, input) = (client.child.stdin.take().unwrap(), bytes(16 << 20));
        let writer = std::thread::spawn(move || stdin.write_all(&input));
        client.child.stdout.as_mut().unwrap().read_exact(&mut [0; 5]).unwrap();
        // 16 MiB do not fit into what there is on the way.
        std::thread::sleep(Duration::from_millis(500));
        client.child.kill().unwrap();
        client.child.wait().unwrap();
        writer.join().unwrap().unwrap_err();
        server.released();
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", BASE64_STANDARD.encode(der))
}

#[test]
fn it_can_be_had_with_tls() {
    if client().is_none() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).unwrap();
    let (certificate, key) = (scratch.path().join("cert.pem"), scratch.path().join("key.pem"));
    std::fs::write(&certificate, pem("CERTIFICATE", made.cert.der())).unwrap();
    std::fs::write(&key, pem("PRIVATE KEY", &made.signing_key.serialize_der())).unwrap();
    let tls = Some(Tls { certificate: certificate.clone(), key });
    let server = Fixture::with(&Config { tls, timeouts: timeouts(), ..Config::default() });
    let (ca, sent) = (certificate.to_str().unwrap(), bytes(1 << 20));
    for way in WITH_CODES {
        let url = server.exec(&["head", "-c", "1048576"], "io");
        assert!(url.starts_with("https://127.0.0.1:"), "{url}");
        let outcome = start(way, &["-streams", "io", "-ca", ca], &url).finish(&sent);
        assert_eq!(outcome.code, 0, "{way:?}: {}", outcome.stderr);
        assert!(outcome.stdout == sent, "{way:?}");
    }
    let outcome = start(&[], &[], &server.exec(&["true"], "o")).finish(b"");
    assert!(outcome.stderr.contains("certificate"), "{}", outcome.stderr);
}

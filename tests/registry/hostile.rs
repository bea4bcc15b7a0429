//! A registry that lies, stalls, cuts and redirects (attacks.md G).

use crate::support::{Blob, Sample, Setup, available, entries, reference};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use podshim::image::auth::AuthFiles;
use podshim::image::registry::{Limits, Settings};
use podshim::image::{Image, Quiet};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A request as the registry saw it.
#[derive(Clone, Debug)]
struct Request {
    path: String,
    authorization: Option<String>,
    range: Option<(usize, usize)>,
}

type Handler = dyn Fn(&Request, &mut TcpStream, usize) + Send + Sync;

/// A listener on loopback; each connection is one request. The handler also learns the how-manieth request for this path
/// it is, from 0. The thread ends with the test process.
struct Server {
    port: u16,
    seen: Arc<Mutex<Vec<Request>>>,
}

fn serve(handler: impl Fn(&Request, &mut TcpStream, usize) + Send + Sync + 'static) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let handler: Arc<Handler> = Arc::new(handler);
    let log = seen.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (handler, log) = (handler.clone(), log.clone());
            std::thread::spawn(move || one(stream.unwrap(), &*handler, &log));
        }
    });
    Server { port, seen }
}

fn one(mut stream: TcpStream, handler: &Handler, log: &Mutex<Vec<Request>>) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            // The client tries TLS first: this is no TLS server.
            Ok(1) if head.is_empty() && byte[0] == 0x16 => return,
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let header = |name: &str| {
        head.lines().find_map(|l| {
            l.split_once(':').filter(|(k, _)| k.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim().to_owned())
        })
    };
    let range = header("range").map(|r| {
        let (first, last) = r.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        (first.parse().unwrap(), last.parse().expect("a closed range"))
    });
    let path = head.split(' ').nth(1).unwrap().to_owned();
    let request = Request { path, authorization: header("authorization"), range };
    let number = {
        let mut log = log.lock().unwrap();
        log.push(request.clone());
        log.iter().filter(|r| r.path == request.path).count() - 1
    };
    handler(&request, &mut stream, number);
}

/// A peer that hung up is what some of these tests are about.
fn send(stream: &mut TcpStream, status: &str, headers: &str, body: &[u8]) {
    let _ = stream.write_all(format!("HTTP/1.1 {status}\r\n{headers}Connection: close\r\n\r\n").as_bytes());
    let _ = stream.write_all(body);
}

fn send_blob(stream: &mut TcpStream, blob: &Blob) {
    let headers = format!("Content-Type: {}\r\nContent-Length: {}\r\n", blob.kind, blob.bytes.len());
    send(stream, "200 OK", &headers, &blob.bytes);
}

/// Serves the sample honestly, but for what `lie` answers (it returns whether it did).
fn registry(sample: &Sample, lie: impl Fn(&Request, &mut TcpStream, usize) -> bool + Send + Sync + 'static) -> Server {
    let sample = sample.clone();
    serve(move |request, stream, number| {
        if lie(request, stream, number) {
            return;
        }
        let mut all: Vec<&Blob> = sample.blobs();
        all.extend([&sample.manifest, &sample.index]);
        match all.into_iter().find(|b| request.path.ends_with(&b.digest)) {
            Some(blob) => send_blob(stream, blob),
            None if request.path.ends_with("/manifests/latest") => send_blob(stream, &sample.index),
            None => send(stream, "404 Not Found", "Content-Length: 0\r\n", b""),
        }
    })
}

fn short() -> Limits {
    Limits {
        connect: Duration::from_secs(2),
        headers: Duration::from_millis(600),
        stall: Duration::from_millis(600),
        attempts: 4,
        backoff: Duration::from_millis(10),
        longest_wait: Duration::from_millis(400),
    }
}

fn pull_with(setup: &Setup, server: &Server, auth: AuthFiles) -> anyhow::Result<Image> {
    pull_within(setup, server, (short(), auth))
}

fn pull_within(setup: &Setup, server: &Server, (limits, auth): (Limits, AuthFiles)) -> anyhow::Result<Image> {
    let settings = Settings { limits, auth, ..Settings::plain() };
    setup.store().with_registries(settings).pull(&reference(&format!("127.0.0.1:{}/app", server.port)), &mut Quiet)
}

/// Pulls; a failure must come soon, leave nothing, and a success must be the sample.
fn pull(name: &str, server: &Server, sample: &Sample) -> Result<(), String> {
    let setup = Setup::new();
    let start = Instant::now();
    let result = pull_with(&setup, server, AuthFiles::none());
    assert!(start.elapsed() < Duration::from_secs(15), "{name} took {:?}", start.elapsed());
    assert!(setup.leftovers().is_empty(), "{name}: {:?}", setup.leftovers());
    match result {
        Ok(image) => {
            assert_eq!(image.id, sample.config.digest, "{name}");
            Ok(())
        }
        Err(error) => {
            assert!(setup.content().is_empty(), "{name}: {:?}", setup.content());
            let text = format!("{error:#}");
            assert!(text.contains(&format!("127.0.0.1:{}", server.port)), "{name} does not name the registry: {text}");
            Err(text)
        }
    }
}

#[test]
fn what_can_be_repaired_is_and_the_rest_is_refused_soon() {
    if !available(&["root"]) {
        return;
    }
    let sample = Sample::new("hostile");
    let layer = sample.layers[0].clone();
    let (at, at_manifest) = (layer.digest.clone(), sample.manifest.digest.clone());
    let is_layer = move |r: &Request| r.path.ends_with(&at);
    let bytes = layer.bytes.clone();
    let third = bytes.len() / 3 + 1;
    type Lie = Box<dyn Fn(&Request, &mut TcpStream, usize) -> bool + Send + Sync>;
    let on_layer = |answer: Box<Handler>| -> Lie {
        let is_layer = is_layer.clone();
        Box::new(move |r, s, n| {
            let mine = is_layer(r);
            if mine {
                answer(r, s, n);
            }
            mine
        })
    };
    let fixed = |status: &'static str, headers: String, body: Vec<u8>| {
        on_layer(Box::new(move |_, s, _| send(s, status, &headers, &body)))
    };
    let length = format!("Content-Length: {}\r\n", bytes.len());
    let (all, all2, all3, all4) = (bytes.clone(), bytes.clone(), bytes.clone(), bytes.clone());
    let (len2, len4) = (length.clone(), length.clone());
    let mut wrong = bytes.clone();
    wrong[100] ^= 1;
    let cases: Vec<(&str, Lie, Option<&str>)> = vec![
        ("honest", Box::new(|_, _, _| false), None),
        ("G1 wrong digest", fixed("200 OK", length.clone(), wrong), Some("has digest")),
        ("G1 announced short", fixed("200 OK", "Content-Length: 10\r\n".into(), vec![0; 10]), Some("descriptor says")),
        (
            "G1 announced long",
            fixed("200 OK", "Content-Length: 999999999\r\n".into(), Vec::new()),
            Some("descriptor says"),
        ),
        ("G1 longer", fixed("200 OK", String::new(), [bytes.clone(), vec![0]].concat()), Some("longer than")),
        (
            "G2 endless",
            on_layer(Box::new(|_, s, _| {
                send(s, "200 OK", "", b"");
                while s.write_all(&[0; 65536]).is_ok() {}
            })),
            Some("longer than"),
        ),
        (
            "G3 a third each time",
            on_layer(Box::new(move |r, s, _| {
                let from = r.range.map_or(0, |r| r.0);
                let part = &all[from..(from + third).min(all.len())];
                let left = all.len() - from;
                let (status, range) = match r.range {
                    None => ("200 OK", String::new()),
                    Some(_) => (
                        "206 Partial Content",
                        format!("Content-Range: bytes {from}-{}/{}\r\n", all.len() - 1, all.len()),
                    ),
                };
                send(s, status, &format!("Content-Length: {left}\r\n{range}"), part);
            })),
            None,
        ),
        (
            "G3 no ranges, once cut",
            on_layer(Box::new(move |_, s, n| send(s, "200 OK", &len2, if n == 0 { &all2[..1000] } else { &all2 }))),
            None,
        ),
        (
            "G3 wrong range",
            on_layer(Box::new(move |r, s, _| match r.range {
                None => send(s, "200 OK", &len4, &all4[..1000]),
                Some(_) => {
                    send(s, "206 Partial Content", "Content-Range: bytes 0-9/10\r\nContent-Length: 10\r\n", &[0; 10])
                }
            })),
            Some("was asked for from byte 1000"),
        ),
        ("G3 always cut", fixed("200 OK", length.clone(), Vec::new()), Some("after 4 attempts")),
        (
            "G4 no headers",
            on_layer(Box::new(|_, _, _| std::thread::sleep(Duration::from_secs(20)))),
            Some("no data for"),
        ),
        (
            "G4 stall",
            on_layer(Box::new(move |_, s, _| {
                send(s, "200 OK", &format!("Content-Length: {}\r\n", all3.len()), &all3[..100]);
                std::thread::sleep(Duration::from_secs(20));
            })),
            Some("no data for"),
        ),
        ("G5 500", fixed("500 Oops", "Content-Length: 0\r\n".into(), Vec::new()), Some("after 4 attempts")),
        (
            "G5 500 twice",
            on_layer(Box::new(move |_, s, n| match n {
                0 | 1 => send(s, "500 Oops", "Content-Length: 0\r\n", b""),
                _ => send(s, "200 OK", &length, &bytes),
            })),
            None,
        ),
        (
            "G5 429",
            fixed("429 Slow", "Retry-After: 0\r\nContent-Length: 0\r\n".into(), Vec::new()),
            Some("after 4 attempts"),
        ),
        (
            "G5 wait",
            fixed("429 Slow", "Retry-After: 3600\r\nContent-Length: 0\r\n".into(), Vec::new()),
            Some("wait 3600 s"),
        ),
        (
            "G6 manifest of 2 GiB",
            Box::new(|r, s, _| {
                let mine = r.path.ends_with("/latest");
                if mine {
                    send(s, "200 OK", "", b"");
                    while s.write_all(&[b' '; 65536]).is_ok() {}
                }
                mine
            }),
            Some("longer than 4194304"),
        ),
        (
            "G7 loop",
            on_layer(Box::new(|r, s, _| {
                send(s, "307 R", &format!("Location: {}\r\nContent-Length: 0\r\n", r.path), b"")
            })),
            Some("redirects"),
        ),
        (
            "G7 file",
            fixed("307 R", "Location: file:///etc/passwd\r\nContent-Length: 0\r\n".into(), Vec::new()),
            Some("not http"),
        ),
        (
            "G7 metadata",
            fixed("307 R", "Location: http://169.254.169.254/x\r\nContent-Length: 0\r\n".into(), Vec::new()),
            Some("local address"),
        ),
        (
            "G9 realm",
            fixed(
                "401 No",
                "WWW-Authenticate: Bearer realm=\"http://192.0.2.1/token\"\r\nContent-Length: 0\r\n".into(),
                Vec::new(),
            ),
            Some("refused: not https"),
        ),
        (
            "G10 manifest under another digest",
            Box::new(move |r, s, _| {
                let mine = r.path.ends_with(&at_manifest);
                if mine {
                    send(s, "200 OK", "Content-Length: 2\r\n", b"{}");
                }
                mine
            }),
            Some("has digest"),
        ),
        (
            "media types disagree",
            Box::new(|r, s, _| {
                let mine = r.path.ends_with("/latest");
                if mine {
                    let body =
                        format!(r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[]}}"#, crate::support::INDEX);
                    let headers =
                        format!("Content-Type: {}\r\nContent-Length: {}\r\n", crate::support::MANIFEST, body.len());
                    send(s, "200 OK", &headers, body.as_bytes());
                }
                mine
            }),
            Some("announced as"),
        ),
    ];
    for (name, lie, expected) in cases {
        let server = registry(&sample, lie);
        match (pull(name, &server, &sample), expected) {
            (Ok(()), None) => {}
            (Err(text), Some(part)) => assert!(text.contains(part), "{name}: {text}"),
            (Ok(()), Some(_)) => panic!("{name} was accepted"),
            (Err(text), None) => panic!("{name}: {text}"),
        }
    }
}

/// What `alice` with her password is in a header.
const LOGIN: &str = "YWxpY2U6c2VzYW1l";

/// Answers a request without the login.
fn asks_for_login(request: &Request, stream: &mut TcpStream) -> bool {
    let is_without = request.authorization.as_deref() != Some(&format!("Basic {LOGIN}"));
    if is_without {
        send(stream, "401 No", "WWW-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\n", b"");
    }
    is_without
}

/// Answers a request without the token that this registry gives for the login, and the one for that token.
fn asks_for_token(request: &Request, stream: &mut TcpStream) -> bool {
    if let Some(query) = request.path.strip_prefix("/token?") {
        let right = request.authorization.as_deref() == Some(&format!("Basic {LOGIN}"))
            && query.contains("scope=repository%3Aapp%3Apull&")
            && query.contains("service=here");
        let body: &[u8] = if right { br#"{"token":"good"}"# } else { b"{}" };
        send(stream, "200 OK", &format!("Content-Length: {}\r\n", body.len()), body);
        return true;
    }
    let is_without = request.authorization.as_deref() != Some("Bearer good");
    if is_without {
        let port = stream.local_addr().unwrap().port();
        let challenge = format!(
            "WWW-Authenticate: Bearer realm=\"http://127.0.0.1:{port}/token\",service=\"here\",scope=\"repository:*:*\"\r\nContent-Length: 0\r\n"
        );
        send(stream, "401 No", &challenge, b"");
    }
    is_without
}

/// The file with the login for a server.
fn login_at(setup: &Setup, server: &Server) -> AuthFiles {
    let auth = setup.path("auth.json");
    std::fs::write(&auth, format!(r#"{{"auths": {{"127.0.0.1:{}": {{"auth": "{LOGIN}"}}}}}}"#, server.port)).unwrap();
    AuthFiles::only(&auth)
}

#[test]
fn credentials_stay_with_their_origin() {
    if !available(&["root"]) {
        return;
    }
    let sample = Sample::new("credentials");
    type Asks = fn(&Request, &mut TcpStream) -> bool;
    for (asks, way, works) in [
        (asks_for_login as Asks, "plain", true),
        (asks_for_login, "login", false),
        (asks_for_login, "token", false),
        (asks_for_token, "plain", true),
        (asks_for_token, "login", false),
        (asks_for_token, "token", false),
    ] {
        // The same host on another port, which serves the blobs, or asks for a login of its own.
        let blobs = sample.clone();
        let other = serve(move |request, stream, _| {
            if way == "login" && asks_for_login(request, stream) || way == "token" && asks_for_token(request, stream) {
                return;
            }
            match blobs.blobs().into_iter().find(|b| request.path.ends_with(&b.digest)) {
                Some(blob) => send_blob(stream, blob),
                None => send(stream, "404 No", "Content-Length: 0\r\n", b""),
            }
        });
        let port = other.port;
        let server = registry(&sample, move |request, stream, _| {
            if asks(request, stream) {
                return true;
            }
            let blob = request.path.contains("/blobs/");
            if blob {
                let digest = request.path.rsplit('/').next().unwrap();
                let location = format!("Location: http://127.0.0.1:{port}/{digest}\r\nContent-Length: 0\r\n");
                send(stream, "307 Elsewhere", &location, b"");
            }
            blob
        });
        let setup = Setup::new();
        let result = pull_with(&setup, &server, login_at(&setup, &server));
        assert_eq!(result.is_ok(), works, "{way}: {result:?}");
        let seen = other.seen.lock().unwrap();
        assert!(!seen.is_empty(), "{way}");
        assert!(seen.iter().all(|r| r.authorization.is_none()), "{way}: {seen:?}");
    }
}

#[test]
fn a_bearer_token_is_fetched_with_the_login_and_for_this_repository_only() {
    if !available(&["root"]) {
        return;
    }
    let sample = Sample::new("bearer");
    let server = registry(&sample, |request, stream, _| asks_for_token(request, stream));
    let setup = Setup::new();
    let image = pull_with(&setup, &server, login_at(&setup, &server)).unwrap();
    assert_eq!(image.id, sample.config.digest);
}

/// A pull that is ended in the middle: by Ctrl-C it cleans up itself, after a kill the next one does.
#[test]
fn a_pull_that_is_ended_leaves_nothing() {
    if !available(&["root"]) {
        return;
    }
    let sample = Sample::new("ended");
    let slow = sample.layers[1].digest.clone();
    for (signal, said) in [(Signal::SIGINT, "FAILED interrupted"), (Signal::SIGKILL, "")] {
        let slow = slow.clone();
        let server = registry(&sample, move |request, _, number| {
            let hang = request.path.ends_with(&slow) && number == 0;
            if hang {
                std::thread::sleep(Duration::from_secs(20));
            }
            hang
        });
        let setup = Setup::new();
        // In the program itself the puller is the only thread; here the test harness has one that would take the signal.
        let child = Command::new("env")
            .arg("--block-signal=INT")
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "child_pull", "--ignored", "--nocapture"])
            .env("PODSHIM_TEST_IMAGE", format!("127.0.0.1:{}/app", server.port))
            .env("PODSHIM_TEST_ROOT", setup.path(""))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while !server.seen.lock().unwrap().iter().any(|r| r.path.ends_with(&sample.layers[1].digest)) {
            assert!(Instant::now() < deadline, "the layer was never asked for");
            std::thread::sleep(Duration::from_millis(10));
        }
        kill(Pid::from_raw(child.id() as i32), signal).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(text.contains(said), "{signal}: {text}");
        assert_eq!(setup.leftovers().is_empty(), signal == Signal::SIGINT, "{signal}: {:?}", setup.leftovers());
        assert!(setup.content().is_empty(), "{signal}: {:?}", setup.content());
        assert_eq!(pull_with(&setup, &server, AuthFiles::none()).unwrap().id, sample.config.digest, "{signal}");
        assert!(setup.leftovers().is_empty(), "{signal}");
    }
}

/// A layer is there while a later one has not come, and goes with a pull that fails.
#[test]
fn layers_are_unpacked_while_others_are_fetched() {
    if !available(&["root"]) {
        return;
    }
    let sample = Sample::new("ahead");
    let last = sample.layers[1].digest.clone();
    for gives in [true, false] {
        let setup = Setup::new();
        let (work, waited_for, found) = (setup.path("lib/tmp"), last.clone(), Arc::new(Mutex::new(Vec::new())));
        let seen = found.clone();
        let server = registry(&sample, move |request, stream, _| {
            if !request.path.ends_with(&waited_for) {
                return false;
            }
            let names = |place: &Path| entries(place).into_iter().find(|layer| layer.join("noise").exists());
            let deadline = Instant::now() + Duration::from_secs(10);
            while Instant::now() < deadline && seen.lock().unwrap().is_empty() {
                seen.lock().unwrap().extend(entries(&work).iter().find_map(|work| names(&work.join("layers"))));
                std::thread::sleep(Duration::from_millis(5));
            }
            if !gives {
                send(stream, "404 Not Found", "Content-Length: 0\r\n", b"");
            }
            !gives
        });
        // The layer before comes meanwhile, however long the disk takes for it.
        let patient = Duration::from_secs(20);
        let limits = Limits { headers: patient, stall: patient, ..short() };
        let pulled = pull_within(&setup, &server, (limits, AuthFiles::none()));
        assert_eq!(found.lock().unwrap().len(), 1, "{pulled:?}");
        match gives {
            true => assert_eq!(std::fs::read(pulled.unwrap().layers[1].join("hello")).unwrap(), b"ahead"),
            false => {
                assert!(format!("{:#}", pulled.unwrap_err()).contains("404 Not Found"));
                assert!(setup.content().is_empty(), "{:?}", setup.content());
            }
        }
        assert!(setup.leftovers().is_empty(), "{:?}", setup.leftovers());
    }
}

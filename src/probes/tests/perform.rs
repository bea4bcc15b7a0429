//! [`perform`] of what takes TLS, HTTP/2 or a name, against servers that speak it, and against such as do not.

use super::*;
use ::http::Response;
use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use rustls::pki_types::PrivateKeyDer;
use std::io::Write;
use std::sync::{LazyLock, mpsc};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

/// What a request leads to: what was said before its end, and its end, which must come.
#[track_caller]
pub(super) fn ask(request: &Request) -> (Vec<Said>, Outcome) {
    let (tell, told) = mpsc::channel();
    let request = request.clone();
    let thread = std::thread::spawn(move || {
        let mut said = Vec::new();
        let outcome = super::perform(&request, &mut |word| said.push(word)).unwrap();
        tell.send((said, outcome)).unwrap();
    });
    let ended = told.recv_timeout(PATIENCE).expect("it does not end");
    thread.join().unwrap();
    ended
}

/// Performs the whole of `serve` on a connection; who is asked may go away at any time.
pub(super) fn block_on<F: Future<Output = ()>>(stream: TcpStream, serve: impl FnOnce(tokio::net::TcpStream) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        stream.set_nonblocking(true).unwrap();
        let served = serve(tokio::net::TcpStream::from_std(stream).unwrap());
        tokio::time::timeout(PATIENCE, served).await.expect("the connection does not end");
    });
}

/// A server's TLS, with a certificate of its own that nobody signed, for a name that nobody asks for.
pub(super) fn acceptor(protocols: &[&str]) -> TlsAcceptor {
    static OWN: LazyLock<rcgen::CertifiedKey<rcgen::KeyPair>> =
        LazyLock::new(|| rcgen::generate_simple_self_signed(["nobody.example".to_owned()]).unwrap());
    let key = PrivateKeyDer::Pkcs8(OWN.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_no_client_auth().with_single_cert(vec![OWN.cert.der().clone()], key).unwrap();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

/// Serves HTTP/2 until the connection is over.
pub(super) async fn serve_http2<IO, A>(io: IO, mut answer: A)
where
    IO: AsyncRead + AsyncWrite + Unpin,
    A: AsyncFnMut(::http::Request<RecvStream>, SendResponse<Bytes>),
{
    let Ok(mut connection) = h2::server::handshake(io).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        answer(request, respond).await;
    }
}

/// A server that reads a request and answers it with these bytes, with TLS.
fn secure(answer: impl Into<Vec<u8>>) -> Server {
    let answer = answer.into();
    Server::start(move |stream, _| {
        block_on(stream, async |stream| {
            let Ok(mut stream) = acceptor(&["http/1.1"]).accept(stream).await else { return };
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.is_ok_and(|count| count > 0) {}
            let _ = stream.write_all(&answer).await;
            let _ = stream.shutdown().await;
        });
    })
}

/// A server without TLS that answers with these bytes as soon as it has heard something.
fn clear(answer: impl Into<Vec<u8>>) -> Server {
    let answer = answer.into();
    Server::start(move |mut stream, _| {
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(&answer);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        read_to_end(&mut stream);
    })
}

fn https(server: &Server, purpose: Purpose) -> Request {
    let headers = vec![("Authorization".into(), "Bearer secret".into())];
    request(Ask::Http(Get::new(&HttpGet { tls: true, headers, ..handler("/") }, server.place(), purpose)))
}

fn h2c(server: &Server) -> Request {
    request(Ask::Http(Get::new(&HttpGet { http2: true, ..handler("/x?y") }, server.place(), Purpose::Probe)))
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn s6_https_does_not_look_at_the_certificate() {
    let rows = [
        (OK, Outcome::Success),
        ("HTTP/1.1 404 X\r\n\r\n", Outcome::Failure("HTTP probe failed with statuscode: 404".into())),
        (
            "HTTP/1.1 302 X\r\nLocation: https://other.example/\r\nContent-Length: 0\r\n\r\n",
            Outcome::Warning("Probe terminated redirects, Response body: ".into()),
        ),
        ("HTTP/1.1 200 X\r\nContent-Length: 3\r\n\r\nok", Outcome::Error("unexpected EOF".into())),
    ];
    for (answer, expected) in rows {
        let server = secure(answer);
        assert_eq!(ask(&https(&server, Purpose::Probe)).1, expected, "{answer}");
    }
    let server = secure("");
    let words = format!("Get \"https://{}/\": EOF", server.address);
    assert_eq!(ask(&https(&server, Purpose::Probe)).1, Outcome::Failure(words));
}

#[test]
fn s6_https_takes_http2_from_who_offers_it() {
    let (tell, told) = mpsc::channel();
    let server = Server::start(move |stream, _| {
        let tell = tell.clone();
        block_on(stream, async |stream| {
            let stream = acceptor(&["h2", "http/1.1"]).accept(stream).await.unwrap();
            let answer = async |request: ::http::Request<RecvStream>, mut respond: SendResponse<Bytes>| {
                tell.send((request.uri().to_string(), request.headers().clone())).unwrap();
                respond.send_response(Response::new(()), true).unwrap();
            };
            serve_http2(stream, answer).await;
        });
    });
    assert_eq!(ask(&https(&server, Purpose::Probe)).1, Outcome::Success);
    let (uri, fields) = told.recv_timeout(PATIENCE).unwrap();
    assert_eq!(uri, format!("https://{}/", server.address));
    assert_eq!(fields["user-agent"], "kube-probe/1.37");
    assert_eq!(fields["authorization"], "Bearer secret");
    assert!(!fields.contains_key("connection") && !fields.contains_key("host"), "{fields:?}");
}

#[test]
fn s6_halfway_is_said_when_the_head_is_there() {
    let (go_on, may_go_on) = mpsc::channel();
    let server = Server::start(move |mut stream, _| {
        read_head(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n").unwrap();
        // Without the word this would not go on.
        may_go_on.recv_timeout(PATIENCE).unwrap();
        stream.write_all(b"ok").unwrap();
    });
    let mut said = Vec::new();
    let outcome = super::perform(&server.get("/"), &mut |word| {
        said.push(word);
        go_on.send(()).unwrap();
    });
    assert_eq!((outcome.unwrap(), &said[..]), (Outcome::Success, &[Said::Halfway][..]));
}

#[test]
fn s6_redirects_from_http_to_https_and_back_are_followed() {
    let plain = clear(OK);
    let secure = secure(format!("HTTP/1.1 301 X\r\nLocation: http://{}/end\r\n\r\n", plain.address));
    let first = clear(format!("HTTP/1.1 301 X\r\nLocation: https://{}/next\r\n\r\n", secure.address));
    assert_eq!(ask(&first.get("/")).1, Outcome::Success);
}

#[test]
fn s6_a_probe_of_https_fails_where_http_is_spoken() {
    let server = clear("HTTP/1.0 400 Bad Request\r\n\r\nClient sent plain TLS");
    let words = format!("Get \"https://{}/\": http: server gave HTTP response to HTTPS client", server.address);
    assert_eq!(ask(&https(&server, Purpose::Probe)).1, Outcome::Failure(words));
}

#[test]
fn s7_a_hook_falls_back_to_http_without_what_authorizes() {
    let (tell, told) = mpsc::channel();
    let server = Server::start(move |mut stream, number| {
        let answer: &[u8] = match number {
            0 => {
                let _ = stream.read(&mut [0; 4096]);
                b"HTTP/1.0 400 Bad Request\r\n\r\n"
            }
            _ => {
                tell.send(read_head(&mut stream)).unwrap();
                b"HTTP/1.1 200 OK\r\n\r\n"
            }
        };
        let _ = stream.write_all(answer);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        read_to_end(&mut stream);
    });
    let words =
        format!("request to HTTPS lifecycle hook {} got HTTP response, retry with HTTP succeeded", server.address);
    assert_eq!(ask(&https(&server, Purpose::Hook)).1, Outcome::Warning(words));
    let head = told.recv_timeout(PATIENCE).unwrap();
    assert!(head.starts_with("GET / HTTP/1.1\r\n") && head.contains("User-Agent: kube-lifecycle/1.37\r\n"), "{head}");
    assert!(!head.contains("uthorization") && !head.contains("secret"), "{head}");
}

#[test]
fn s7_a_hook_whose_fallback_fails_tells_the_first_failure() {
    let server = Server::start(|mut stream, number| {
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(if number == 0 { b"HTTP/1.0 400 X\r\n\r\n" } else { b"no HTTP" });
        let _ = stream.shutdown(std::net::Shutdown::Write);
        read_to_end(&mut stream);
    });
    let words = format!("Get \"https://{}/\": http: server gave HTTP response to HTTPS client", server.address);
    assert_eq!(ask(&https(&server, Purpose::Hook)).1, Outcome::Failure(words));
}

#[test]
fn s6_who_speaks_no_tls_fails() {
    let rows: [(&str, &[u8], &str); 6] = [
        ("closes", b"", "EOF"),
        ("another protocol", b"SSH-2.0-OpenSSH_9\r\n", "tls: first record does not look like a TLS handshake"),
        ("zeros", &[0; 64], "tls: first record does not look like a TLS handshake"),
        ("an alert", b"\x15\x03\x03\x00\x02\x02\x28", "tls: received fatal alert"),
        ("half a record", b"\x16\x03\x03\x00\x40\x02", "tls: "),
        ("a handshake of nothing", b"\x16\x03\x03\x00\x04\x02\x00\x00\x00", "tls: "),
    ];
    for (name, answer, words) in rows {
        let server = clear(answer);
        for purpose in [Purpose::Probe, Purpose::Hook] {
            let outcome = ask(&https(&server, purpose)).1;
            let what = failure(&outcome);
            let expected = format!("Get \"https://{}/\": {words}", server.address);
            assert!(what.starts_with(&expected), "{name}: {what}");
        }
    }
    let flood = Server::start(|mut stream, _| while stream.write_all(b"\x16\x03\x03\x3f\xffxxxxxxxxxxx").is_ok() {});
    failure(&ask(&https(&flood, Purpose::Probe)).1);
}

#[test]
fn s6_names_are_looked_up() {
    let server = clear(OK);
    let named = Place { host: "localhost".into(), ..server.place() };
    assert_eq!(ask(&request(Ask::Tcp(named.clone()))).1, Outcome::Success);
    let get = Get::new(&handler("/"), named, Purpose::Probe);
    assert_eq!(ask(&request(Ask::Http(get))).1, Outcome::Success);
    // A name that no resolver asks anybody about.
    let nowhere = Place { host: "a..invalid".into(), port: 80 };
    let words = "dial tcp: lookup a..invalid: no such host";
    assert_eq!(ask(&request(Ask::Tcp(nowhere.clone()))).1, Outcome::Failure(words.into()));
    let get = Get::new(&handler("/"), nowhere, Purpose::Probe);
    let words = format!("Get \"http://a..invalid:80/\": {words}");
    assert_eq!(ask(&request(Ask::Http(get))).1, Outcome::Failure(words));
    let (_taken, address) = unheard();
    let closed = Place { host: "localhost".into(), port: address.port() };
    let outcome = ask(&request(Ask::Tcp(closed))).1;
    assert!(failure(&outcome).ends_with(": connect: connection refused"), "{outcome:?}");
}

#[test]
fn s6_a_host_that_is_no_name_to_tls_is_asked_without_one() {
    let server = secure(OK);
    // The resolver takes it for an address of this host's, TLS for no name at all.
    let place = Place { host: "0x7f000001".into(), ..server.place() };
    let named = Place { host: "under_score".into(), ..server.place() };
    let secure = HttpGet { tls: true, ..handler("/") };
    assert_eq!(ask(&request(Ask::Http(Get::new(&secure, place, Purpose::Probe)))).1, Outcome::Success);
    let outcome = ask(&request(Ask::Http(Get::new(&secure, named, Purpose::Probe)))).1;
    assert!(failure(&outcome).contains("dial tcp: lookup under_score: "), "{outcome:?}");
}

#[test]
fn s6_http2_without_tls() {
    let (tell, told) = mpsc::channel();
    let server = Server::start(move |stream, number| {
        let tell = tell.clone();
        block_on(stream, async |stream| {
            let answer = async |request: ::http::Request<RecvStream>, mut respond: SendResponse<Bytes>| {
                tell.send((request.method().clone(), request.uri().to_string())).unwrap();
                let status = [200, 404, 302, 204][number];
                let mut response = Response::builder().status(status);
                if status == 302 {
                    response = response.header("location", "/next");
                }
                let mut body = respond.send_response(response.body(()).unwrap(), false).unwrap();
                body.send_data(Bytes::from_static(b"why"), true).unwrap();
            };
            serve_http2(stream, answer).await;
        });
    });
    let heard = || told.recv_timeout(PATIENCE).unwrap();
    let uri = |path: &str| (::http::Method::GET, format!("http://{}{path}", server.address));
    assert_eq!(ask(&h2c(&server)), (vec![Said::Halfway], Outcome::Success));
    assert_eq!(heard(), uri("/x?y"));
    let outcome = ask(&h2c(&server)).1;
    assert_eq!(outcome, Outcome::Failure("HTTP probe failed with statuscode: 404".into()));
    assert_eq!(heard(), uri("/x?y"));
    assert_eq!(ask(&h2c(&server)).1, Outcome::Success);
    assert_eq!([heard(), heard()], [uri("/x?y"), uri("/next")]);
}

#[test]
fn s6_who_speaks_no_http2_fails() {
    for answer in [OK, "", "garbage"] {
        let server = clear(answer);
        let outcome = ask(&h2c(&server)).1;
        let words = format!("Get \"http://{}/x?y\": http2: ", server.address);
        assert!(failure(&outcome).starts_with(&words), "{answer}: {outcome:?}");
    }
    let server = clear(OK);
    let headers = vec![("Host".into(), "a b".into())];
    let get = Get::new(&HttpGet { http2: true, headers, ..handler("/") }, server.place(), Purpose::Probe);
    let outcome = ask(&request(Ask::Http(get))).1;
    assert!(failure(&outcome).ends_with("http2: invalid Host header"), "{outcome:?}");
}

/// A server of HTTP/2 that answers the first request with `answer`.
fn http2(mut answer: impl FnMut(SendResponse<Bytes>) + Send + 'static) -> Server {
    Server::start(move |stream, _| {
        block_on(stream, async |stream| serve_http2(stream, async |_, respond| answer(respond)).await);
    })
}

#[test]
fn hostile_http2_is_ended() {
    let mut open = Vec::new();
    let endless = http2(move |mut respond| {
        let mut body = respond.send_response(Response::new(()), false).unwrap();
        body.send_data(vec![b'x'; 1 << 20].into(), false).unwrap();
        // Dropped, it would be reset.
        open.push(body);
    });
    assert_eq!(ask(&h2c(&endless)).1, Outcome::Success, "as much is read as is kept");
    let large = http2(|mut respond| {
        let mut response = Response::builder();
        for number in 0..40 {
            response = response.header(format!("x-{number}"), "y".repeat(2048));
        }
        let _ = respond.send_response(response.body(()).unwrap(), true);
    });
    assert!(failure(&ask(&h2c(&large)).1).contains("http2: "));
    let reset = http2(|mut respond| {
        let mut body = respond.send_response(Response::new(()), false).unwrap();
        body.send_reset(h2::Reason::INTERNAL_ERROR);
    });
    let (_, outcome) = ask(&h2c(&reset));
    let (Outcome::Error(what) | Outcome::Failure(what)) = &outcome else { panic!("{outcome:?}") };
    assert!(what.contains("http2: "), "{what}");
}

/// A frame of HTTP/2 (RFC 9113 §4.1).
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

#[test]
fn what_a_server_says_at_its_end_is_bounded() {
    let settings = frame(4, 0, 0, &[]);
    // `:status: 200` of HPACK's static table, without an end of the stream.
    let head = frame(1, 4, 1, &[0x88]);
    let goaway = frame(7, 0, 0, &[&[0, 0, 0, 0, 0, 0, 0, 1][..], &[1; 16_000]].concat());
    for (name, bytes) in [
        ("before the head", [&settings[..], &goaway].concat()),
        ("after it", [settings.clone(), head, goaway.clone()].concat()),
    ] {
        let server = clear(bytes);
        let (_, outcome) = ask(&h2c(&server));
        let (Outcome::Error(what) | Outcome::Failure(what)) = &outcome else { panic!("{name}: {outcome:?}") };
        assert!(what.contains("http2: ") && what.len() <= MAX_OUTPUT, "{name}: {}", what.len());
        let said = serde_json::to_string(&Said::Done(outcome.clone())).unwrap();
        assert!(said.len() < MAX_SAID, "{name}: {}", said.len());
    }
}

#[test]
fn floods_of_frames_are_ended_or_without_effect() {
    let settings = frame(4, 0, 0, &[]);
    // Each would go on for ever: header fields without an end, frames of a kind that nobody knows, pings.
    let start = frame(1, 0, 1, &[0x88]);
    let rows = [
        ("continuations", [&settings[..], &start].concat(), frame(9, 0, 1, &[0x40, 1, b'a', 1, b'b'].repeat(1000))),
        ("frames too large", settings.clone(), frame(0, 0, 1, &vec![0; 20_000])),
        ("heads", settings, frame(1, 4, 1, &[0x88])),
    ];
    for (name, first, then) in rows {
        let server = Server::start(move |mut stream, _| {
            let mut result = stream.write_all(&first);
            while result.is_ok() {
                result = stream.write_all(&then);
            }
        });
        let (_, outcome) = ask(&h2c(&server));
        assert!(matches!(outcome, Outcome::Error(_) | Outcome::Failure(_)), "{name}: {outcome:?}");
    }
}

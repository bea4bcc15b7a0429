//! gRPC's health check, against servers that speak it, and against such as do not.

use super::perform::{acceptor, ask, block_on, frame, serve_http2};
use super::*;
use ::http::{HeaderMap, Response};
use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use std::io::Write;
use std::sync::mpsc;

/// What a server answers.
#[derive(Clone, Default)]
struct Answer {
    status: u16,
    fields: Vec<(&'static str, &'static str)>,
    /// `None` for an answer of nothing but a head.
    body: Option<Vec<u8>>,
    trailers: Option<Vec<(&'static str, &'static str)>>,
}

/// An answer of gRPC with one message.
fn message(bytes: &[u8]) -> Answer {
    let length = (bytes.len() as u32).to_be_bytes();
    Answer { body: Some([&[0], &length[..], bytes].concat()), trailers: Some(vec![("grpc-status", "0")]), ..grpc() }
}

fn grpc() -> Answer {
    Answer { status: 200, fields: vec![("content-type", "application/grpc")], ..Answer::default() }
}

/// An answer of gRPC without a message: a head with these fields too.
fn only(fields: &[(&'static str, &'static str)]) -> Answer {
    let mut answer = grpc();
    answer.fields.extend(fields);
    answer
}

impl Answer {
    fn send(&self, respond: &mut SendResponse<Bytes>) {
        let mut response = Response::builder().status(self.status);
        for (name, value) in &self.fields {
            response = response.header(*name, *value);
        }
        let mut stream = respond.send_response(response.body(()).unwrap(), self.body.is_none()).unwrap();
        let Some(body) = &self.body else { return };
        stream.send_data(body.clone().into(), self.trailers.is_none()).unwrap();
        if let Some(trailers) = &self.trailers {
            let fields = trailers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            stream.send_trailers(fields.collect::<HeaderMap>()).unwrap();
        }
    }
}

fn answering(answer: Answer) -> Server {
    Server::start(move |stream, _| {
        block_on(stream, async |stream| serve_http2(stream, async |_, mut respond| answer.send(&mut respond)).await);
    })
}

fn check(server: &Server) -> Request {
    request(Ask::Grpc { place: server.place(), service: String::new(), tls: false })
}

fn told(answer: Answer) -> Outcome {
    let server = answering(answer);
    let (said, outcome) = ask(&check(&server));
    assert_eq!(said, [Said::Halfway]);
    outcome
}

#[test]
fn s6_only_serving_is_healthy() {
    let unhealthy = |state: &str| Outcome::Failure(format!("service unhealthy (responded with \"{state}\")"));
    let rows: [(&str, &[u8], Outcome); 7] = [
        ("SERVING", &[8, 1], Outcome::Success),
        ("and a field of tomorrow's", &[0x12, 1, b'x', 8, 1], Outcome::Success),
        ("NOT_SERVING", &[8, 2], unhealthy("NOT_SERVING")),
        ("UNKNOWN", &[8, 0], unhealthy("UNKNOWN")),
        ("an empty message", &[], unhealthy("UNKNOWN")),
        ("SERVICE_UNKNOWN", &[8, 3], unhealthy("SERVICE_UNKNOWN")),
        ("another one", &[8, 77], unhealthy("77")),
    ];
    for (name, bytes, outcome) in rows {
        assert_eq!(told(message(bytes)), outcome, "{name}");
    }
    let mut with_kind = message(&[8, 1]);
    with_kind.fields = vec![("content-type", "application/grpc+proto")];
    assert_eq!(told(with_kind), Outcome::Success);
}

#[test]
fn s6_what_is_asked() {
    let (tell, heard) = mpsc::channel();
    let server = Server::start(move |stream, _| {
        let tell = tell.clone();
        block_on(stream, async |stream| {
            let answer = async |request: ::http::Request<RecvStream>, mut respond: SendResponse<Bytes>| {
                let (head, mut body) = request.into_parts();
                message(&[8, 1]).send(&mut respond);
                // The message came with the head, or is read with the connection's next turn.
                let tell = tell.clone();
                tokio::spawn(async move { tell.send((head, body.data().await.unwrap().unwrap())) });
            };
            serve_http2(stream, answer).await;
        });
    });
    let mut check = check(&server);
    let service = "a.b.C".to_owned();
    check.ask = Ask::Grpc { place: server.place(), service, tls: false };
    assert_eq!(ask(&check).1, Outcome::Success);
    let (head, body) = heard.recv_timeout(PATIENCE).unwrap();
    assert_eq!(head.method, ::http::Method::POST);
    assert_eq!(head.uri.to_string(), format!("http://{}/grpc.health.v1.Health/Check", server.address));
    let expected = [
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("user-agent", "kube-probe/1.37"),
        ("grpc-timeout", "3S"),
    ];
    assert_eq!(head.headers.len(), expected.len(), "{:?}", head.headers);
    for (name, value) in expected {
        assert_eq!(head.headers[name], value);
    }
    assert_eq!(body[..], *b"\0\0\0\0\x07\x0a\x05a.b.C");
}

#[test]
fn s6_failures_in_the_words_of_grpc() {
    let failed = |words: &str| format!("error: health rpc probe failed: rpc error: code = {words}");
    let without = "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): ";
    let body = |body: &[u8]| Answer { body: Some(body.into()), trailers: Some(vec![("grpc-status", "0")]), ..grpc() };
    let web = |status: u16, fields: &[(&'static str, &'static str)]| Answer {
        status,
        fields: fields.to_vec(),
        body: Some(b"<html>".to_vec()),
        trailers: None,
    };
    let html = [("content-type", "text/html")];
    let cannot = "Internal desc = grpc: failed to unmarshal the received message: proto: cannot parse";
    let none = "Internal desc = cardinality violation: received no response message from non-server-streaming RPC";
    let compressed = "Internal desc = grpc: compressed flag set with identity or empty encoding";
    let rows: Vec<(&str, Answer, String)> = vec![
        ("no such service", only(&[("grpc-status", "12"), ("grpc-message", "no%20such")]), format!("{without}no such")),
        (
            "unknown service",
            only(&[("grpc-status", "5"), ("grpc-message", "unknown")]),
            failed("NotFound desc = unknown"),
        ),
        ("a code of tomorrow's", only(&[("grpc-status", "99")]), failed("Code(99) desc = ")),
        ("no code", only(&[("grpc-status", "x")]), failed("Internal desc = malformed grpc-status \"x\"")),
        ("too late", only(&[("grpc-status", "4")]), "timeout: health rpc did not complete within 3s".into()),
        ("well, but no message", only(&[("grpc-status", "0")]), failed(none)),
        ("well, but an empty body", body(&[]), failed(none)),
        (
            "a bad end",
            Answer { trailers: Some(vec![("grpc-status", "14"), ("grpc-message", "later")]), ..message(&[8, 1]) },
            failed("Unavailable desc = later"),
        ),
        (
            "no trailers",
            Answer { trailers: None, ..message(&[8, 1]) },
            failed("Internal desc = server closed the stream without sending trailers"),
        ),
        (
            "trailers of nothing",
            Answer { trailers: Some(vec![("x", "y")]), ..message(&[8, 1]) },
            failed("Internal desc = server closed the stream without sending trailers"),
        ),
        ("half a prefix", body(&[0, 0, 0]), failed("Internal desc = unexpected EOF")),
        ("half a message", body(&[0, 0, 0, 0, 2, 8]), failed("Internal desc = unexpected EOF")),
        ("a message without an end", body(&[0, 255, 255, 255, 255, 8, 1]), failed("Internal desc = unexpected EOF")),
        ("compressed", body(&[1, 0, 0, 0, 2, 8, 1]), failed(compressed)),
        ("no protobuf", message(&[0xff]), failed(cannot)),
        (
            "a huge message",
            message(&vec![0; 100_000]),
            failed("ResourceExhausted desc = grpc: received message larger than max (10240 vs. 10240)"),
        ),
        (
            "a web server",
            web(200, &html),
            failed(
                "Unknown desc = unexpected HTTP status code received from server: 200 (OK); transport: received unexpected content-type \"text/html\"",
            ),
        ),
        (
            "another kind of its own",
            web(200, &[("content-type", "application/grpcx")]),
            failed(
                "Unknown desc = unexpected HTTP status code received from server: 200 (OK); transport: received unexpected content-type \"application/grpcx\"",
            ),
        ),
        (
            "a proxy",
            web(503, &[]),
            failed(
                "Unavailable desc = unexpected HTTP status code received from server: 503 (Service Unavailable); malformed header: missing HTTP content-type",
            ),
        ),
        (
            "not there",
            web(404, &html),
            format!(
                "{without}unexpected HTTP status code received from server: 404 (Not Found); transport: received unexpected content-type \"text/html\""
            ),
        ),
    ];
    for (name, answer, words) in rows {
        assert_eq!(told(answer), Outcome::Failure(words), "{name}");
    }
}

#[test]
fn s6_who_speaks_no_http2_or_closes_is_unavailable() {
    let settings = frame(4, 0, 0, &[]);
    let goaway = frame(7, 0, 0, &[&[0, 0, 0, 0, 0, 0, 0, 2][..], &[b'x'; 16_000]].concat());
    let reset = frame(3, 0, 1, &[0, 0, 0, 7]);
    let rows: [(&str, Vec<u8>); 6] = [
        ("HTTP/1.1", b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n".to_vec()),
        ("garbage", vec![b'x'; 20_000]),
        ("closed at once", Vec::new()),
        ("closed after its settings", settings.clone()),
        ("going away", [&settings[..], &goaway].concat()),
        ("a stream that is refused", [&settings[..], &reset].concat()),
    ];
    let request_end = frame(0, 1, 1, &[0; 5]);
    for (name, bytes) in rows {
        let request_end = request_end.clone();
        let server = Server::start(move |mut stream, _| {
            // Until the request with its empty message is there: an answer to a stream that is not open is another fault.
            let (mut heard, mut byte) = (Vec::new(), [0]);
            while !heard.ends_with(&request_end) && stream.read(&mut byte).is_ok_and(|count| count > 0) {
                heard.push(byte[0]);
            }
            let _ = stream.write_all(&bytes);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            read_to_end(&mut stream);
        });
        let outcome = ask(&check(&server)).1;
        let what = failure(&outcome);
        let words = "error: health rpc probe failed: rpc error: code = Unavailable desc = connection error: desc = ";
        assert!(what.starts_with(words) && what.len() <= MAX_OUTPUT, "{name}: {what}");
    }
}

#[test]
fn s6_grpc_with_tls() {
    let server = Server::start(|stream, number| {
        if number == 0 {
            // No TLS yet: it is tried again, as by a kubelet.
            return;
        }
        block_on(stream, async |stream| {
            let Ok(stream) = acceptor(&["h2"]).accept(stream).await else { return };
            serve_http2(stream, async |request, mut respond| {
                assert_eq!(request.uri().scheme_str(), Some("https"));
                message(&[8, 1]).send(&mut respond);
            })
            .await;
        });
    });
    let check = request(Ask::Grpc { place: server.place(), service: String::new(), tls: true });
    assert_eq!(ask(&check), (vec![Said::Halfway], Outcome::Success));
}

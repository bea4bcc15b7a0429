use super::*;
use crate::cri::api::nri::{Empty, RegisterPluginRequest};
use futures_util::FutureExt;

const LIMIT: Duration = Duration::from_millis(200);

/// A connection whose plugin's end is given bytes by hand.
fn connection() -> (Connection, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let answers: Answers = Arc::new(|method, payload| {
        async move {
            match method.as_str() {
                "Echo" => Ok(payload),
                "Wait" => std::future::pending().await,
                _ => Err(Status::new(code::UNIMPLEMENTED, method)),
            }
        }
        .boxed()
    });
    (Connection::start(ours, Services { plugin: "s", runtime: "service" }, answers), theirs)
}

async fn read(socket: &mut UnixStream) -> (u32, Message) {
    let mut messages = Messages::default();
    loop {
        let mut header = [0; frame::FRAME_HEADER];
        socket.read_exact(&mut header).await.unwrap();
        let (connection, length) = frame::frame_header(header).unwrap();
        let mut piece = vec![0; length];
        socket.read_exact(&mut piece).await.unwrap();
        messages.push(&piece);
        if let Some(message) = messages.next().unwrap() {
            return (connection, message);
        }
    }
}

async fn ask(socket: &mut UnixStream, (stream, flags): (u32, u8), service: &str, method: &str) {
    let (service, method) = (service.to_owned(), method.to_owned());
    let request = Request { service, method, payload: vec![7], ..Request::default() };
    let message = Message { stream, kind: Kind::Request, flags, body: request.encode_to_vec() };
    socket.write_all(&frame::frames(RUNTIME_SERVICE, &message).unwrap()).await.unwrap();
}

async fn reply(socket: &mut UnixStream, stream: u32, response: Response) {
    let message = Message { stream, kind: Kind::Response, flags: 0, body: response.encode_to_vec() };
    socket.write_all(&frame::frames(PLUGIN_SERVICE, &message).unwrap()).await.unwrap();
}

#[tokio::test(flavor = "current_thread")]
async fn a_call_gets_its_own_answer_whatever_the_order() {
    let (connection, mut socket) = connection();
    let question = |name: &str| RegisterPluginRequest { plugin_name: name.into(), ..Default::default() };
    let (a, b) = (question("a"), question("b"));
    let plugin = async {
        let (first, second) = (read(&mut socket).await, read(&mut socket).await);
        assert_eq!((first.0, first.1.kind, first.1.flags), (PLUGIN_SERVICE, Kind::Request, frame::REMOTE_CLOSED));
        for (_, message) in [second, first] {
            let request = Request::decode(message.body.as_slice()).unwrap();
            assert_eq!((request.service.as_str(), request.timeout_nano), ("s", 200_000_000));
            reply(&mut socket, message.stream, Response { status: None, payload: request.payload }).await;
        }
    };
    let (one, two, ()) = tokio::join!(
        connection.call::<_, RegisterPluginRequest>("m", &a, LIMIT),
        connection.call::<_, RegisterPluginRequest>("m", &b, LIMIT),
        plugin
    );
    assert_eq!((one.unwrap(), two.unwrap()), (a, b));
}

#[tokio::test(flavor = "current_thread")]
async fn a_refusal_a_late_answer_and_no_answer_are_told_apart() {
    let (connection, mut socket) = connection();
    let call = || connection.call::<_, Empty>("m", &Empty {}, LIMIT);
    let refusing = async {
        let (_, message) = read(&mut socket).await;
        let status = Some(Status::new(2, "no"));
        reply(&mut socket, message.stream, Response { status, payload: Vec::new() }).await;
    };
    let (result, ()) = tokio::join!(call(), refusing);
    assert!(matches!(result, Err(CallError::Refused(status)) if status.code == 2 && status.message == "no"));
    assert!(matches!(call().await, Err(CallError::TimedOut(LIMIT))));
    let (_, late) = read(&mut socket).await;
    reply(&mut socket, late.stream, Response::default()).await;
    // The late answer harms nothing.
    let answering = async {
        let (_, message) = read(&mut socket).await;
        reply(&mut socket, message.stream, Response::default()).await;
    };
    let (result, ()) = tokio::join!(call(), answering);
    result.unwrap();
    let garbage = async {
        let (_, message) = read(&mut socket).await;
        reply(&mut socket, message.stream, Response { status: None, payload: vec![0xff] }).await;
    };
    let (result, ()) = tokio::join!(call(), garbage);
    assert!(matches!(result, Err(CallError::Nonsense(_))));
    let begin = std::time::Instant::now();
    let (result, ()) = tokio::join!(connection.call::<_, Empty>("m", &Empty {}, Duration::from_secs(60)), async {
        drop(socket);
    });
    assert!(matches!(result, Err(CallError::Closed(_))) && begin.elapsed() < Duration::from_secs(10));
    connection.closed().await;
    assert!(connection.is_closed());
    assert!(matches!(connection.call::<_, Empty>("m", &Empty {}, LIMIT).await, Err(CallError::Closed(_))));
}

#[tokio::test(flavor = "current_thread")]
async fn one_that_reads_nothing_is_waited_for_no_longer_than_the_limit() {
    let (connection, _socket) = connection();
    let long = RegisterPluginRequest { plugin_name: "x".repeat(3 << 20), ..Default::default() };
    for _ in 0..8 {
        let result = connection.call::<_, Empty>("m", &long, Duration::from_millis(20)).await;
        assert!(matches!(result, Err(CallError::TimedOut(_))));
    }
    let longer = RegisterPluginRequest { plugin_name: "x".repeat(5 << 20), ..Default::default() };
    assert!(matches!(connection.call::<_, Empty>("m", &longer, LIMIT).await, Err(CallError::TooLong(_))));
}

#[tokio::test(flavor = "current_thread")]
async fn the_plugins_questions_are_answered_and_bounded() {
    let (_connection, mut socket) = connection();
    let answer = async |socket: &mut UnixStream, stream: u32, service: &str, method: &str| {
        ask(socket, (stream, frame::REMOTE_CLOSED), service, method).await;
        let (connection, message) = read(socket).await;
        assert_eq!((connection, message.stream, message.kind), (RUNTIME_SERVICE, stream, Kind::Response));
        Response::decode(message.body.as_slice()).unwrap()
    };
    assert_eq!(answer(&mut socket, 1, "service", "Echo").await, Response { status: None, payload: vec![7] });
    for (stream, service, method) in [(3, "service", "Other"), (5, "other", "Echo")] {
        assert_eq!(answer(&mut socket, stream, service, method).await.status.unwrap().code, code::UNIMPLEMENTED);
    }
    for stream in [7, 9, 11, 13] {
        ask(&mut socket, (stream, frame::REMOTE_CLOSED), "service", "Wait").await;
    }
    assert_eq!(answer(&mut socket, 15, "service", "Echo").await.status.unwrap().code, code::RESOURCE_EXHAUSTED);
}

#[tokio::test(flavor = "current_thread")]
async fn what_breaks_the_protocol_closes_the_connection() {
    for (stream, flags, told) in [(2, 1, "not odd"), (1, frame::REMOTE_OPEN, "as a stream")] {
        let (connection, mut socket) = connection();
        ask(&mut socket, (stream, flags), "service", "Echo").await;
        connection.closed().await;
        assert!(connection.why_closed().contains(told), "{}", connection.why_closed());
    }
    let (connection, mut socket) = connection();
    for _ in 0..2 {
        ask(&mut socket, (1, frame::REMOTE_CLOSED), "service", "Echo").await;
    }
    connection.closed().await;
    assert!(connection.why_closed().contains("used again"), "{}", connection.why_closed());
}

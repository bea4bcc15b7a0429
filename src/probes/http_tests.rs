//! Go's net/http, asked with the same headers, paths and answers, gave what these tables expect.

use super::*;
use crate::probes::MAX_OUTPUT;

fn handler(path: &str, headers: &[(&str, &str)]) -> HttpGet {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    HttpGet { tls: false, http2: false, host: None, port: 8080, path: path.to_owned(), headers }
}

fn to(host: &str) -> Place {
    Place { host: host.to_owned(), port: 8080 }
}

fn get(path: &str, headers: &[(&str, &str)]) -> Get {
    Get::new(&handler(path, headers), to("10.0.0.1"), Purpose::Probe)
}

fn hook(path: &str) -> Get {
    Get::new(&handler(path, &[]), to("10.0.0.1"), Purpose::Hook)
}

fn said(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Success => "success".to_owned(),
        Outcome::Warning(what) => format!("warning: {what}"),
        Outcome::Failure(what) => format!("failure: {what}"),
        Outcome::Error(what) => format!("error: {what}"),
    }
}

/// What an answer comes to that comes in pieces of `size` bytes and then, if `is_closed`, ends.
fn read(get: &Get, answer: &[u8], size: usize, is_closed: bool) -> String {
    let mut reading = Answer::default();
    for piece in answer.chunks(size) {
        match reading.feed(get, piece) {
            Step::More => {}
            Step::Again(next) => return format!("again: {}", next.url()),
            Step::Done(outcome) => return said(&outcome),
        }
    }
    if is_closed { said(&reading.end(get)) } else { format!("more, halfway: {}", reading.is_halfway()) }
}

/// Whole or byte by byte, an answer means the same.
#[track_caller]
fn closed(name: &str, get: &Get, answer: &[u8], expected: &str) {
    for size in [usize::MAX, 1, 7] {
        assert_eq!(read(get, answer, size, true), expected, "{name}, {size} bytes at once");
    }
}

/// A failure in Go's words, of the request that `get` makes.
fn broken(what: &str) -> String {
    format!("failure: Get \"http://10.0.0.1:8080/\": net/http: HTTP/1.x transport connection broken: {what}")
}

const OK: &str = "HTTP/1.1 200 OK\r\n";

#[test]
fn s6_a_request_has_the_bytes_of_a_kubelets() {
    let head = "GET / HTTP/1.1\r\nHost: 10.0.0.1:8080\r\nUser-Agent: kube-probe/1.37\r\n";
    // Instead of `Accept: */*` and `Connection: close`.
    type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);
    let rows: &[Row<'_>] = &[
        ("none", &[], "Accept: */*\r\nConnection: close\r\n"),
        (
            "names are canonical, fields sorted, values in the manifest's order",
            &[("zeta", "3"), ("x-one", "2"), ("X-ONE", "1"), ("a-b", "c")],
            "A-B: c\r\nAccept: */*\r\nX-One: 2\r\nX-One: 1\r\nZeta: 3\r\nConnection: close\r\n",
        ),
        ("another Accept", &[("accept", "text/html")], "Accept: text/html\r\nConnection: close\r\n"),
        ("an empty Accept is none", &[("Accept", "")], "Connection: close\r\n"),
        ("the first one is empty", &[("accept", ""), ("accept", "b")], "Connection: close\r\n"),
        (
            "the second one is empty",
            &[("accept", "a"), ("accept", "")],
            "Accept: a\r\nAccept: \r\nConnection: close\r\n",
        ),
        (
            "what is about a body",
            &[("Content-Length", "5"), ("Transfer-Encoding", "chunked"), ("Trailer", "x"), ("X", "y")],
            "Accept: */*\r\nX: y\r\nConnection: close\r\n",
        ),
        ("it closes by itself", &[("Connection", "x, Close")], "Accept: */*\r\nConnection: x, Close\r\n"),
        (
            "it wants to go on",
            &[("Connection", "keep-alive")],
            "Accept: */*\r\nConnection: keep-alive\r\nConnection: close\r\n",
        ),
        ("values are trimmed", &[("X", " \t a\tb \t ")], "Accept: */*\r\nX: a\tb\r\nConnection: close\r\n"),
        ("an empty value", &[("X", "")], "Accept: */*\r\nX: \r\nConnection: close\r\n"),
        ("any text", &[("x_y.z", "ä")], "Accept: */*\r\nX_y.z: ä\r\nConnection: close\r\n"),
    ];
    for (name, headers, fields) in rows {
        let bytes = get("/", headers).bytes();
        assert_eq!(String::from_utf8(bytes).unwrap(), format!("{head}{fields}\r\n"), "{name}");
        assert!(get("/", headers).check().is_ok(), "{name}");
    }
}

#[test]
fn s6_who_asks_is_in_the_user_agent() {
    let agents = |get: &Get| -> Vec<String> {
        let text = String::from_utf8(get.bytes()).unwrap();
        text.lines().filter_map(|line| line.strip_prefix("User-Agent: ")).map(str::to_owned).collect()
    };
    assert_eq!(agents(&get("/", &[])), ["kube-probe/1.37"]);
    assert_eq!(agents(&hook("/")), ["kube-lifecycle/1.37"]);
    assert_eq!(agents(&get("/", &[("user-agent", "a"), ("User-Agent", "b")])), ["a"]);
    assert_eq!(agents(&get("/", &[("User-Agent", "")])), [""; 0]);
}

#[test]
fn s6_the_host_header_is_the_manifests() {
    let rows = [
        ("a name", "pod.example", "pod.example"),
        ("with a port", "pod.example:99", "pod.example:99"),
        ("empty is none", "", "10.0.0.1:8080"),
        ("a blank", "a b", ""),
        ("a path", "a/b", ""),
        ("markup", "a\"<>{}|", ""),
        ("not in ASCII", "bücher.example:80", "xn--bcher-kva.example:80"),
        ("neither a name nor in ASCII", "bü cher", ""),
        ("a zone", "[fe80::1%eth0]:80", "[fe80::1]:80"),
    ];
    for (name, host, expected) in rows {
        let text = String::from_utf8(get("/", &[("host", host), ("Host", "second")]).bytes()).unwrap();
        let hosts: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("Host: ")).collect();
        assert_eq!(hosts, [expected], "{name}");
    }
    let address = Get::new(&handler("/", &[]), to("fd00::1"), Purpose::Probe);
    assert_eq!((address.host(), address.url()), (Some("[fd00::1]:8080".into()), "http://[fd00::1]:8080/".into()));
}

#[test]
fn s6_a_path_becomes_a_target() {
    let rows = [
        ("/", "/"),
        ("", "/"),
        ("a/b:c", "/a/b:c"),
        ("*", "/*"),
        ("?x=1", "/?x=1"),
        ("/a?", "/a?"),
        ("/a??b", "/a??b"),
        ("/a#frag", "/a"),
        ("/a?x#frag?y", "/a?x"),
        ("/a b", "/a%20b"),
        ("/ä", "/%C3%A4"),
        ("/a%20b c", "/a%20b%20c"),
        ("/%2f", "/%2f"),
        ("/a/../b/./c", "/a/../b/./c"),
        ("/a;b=c,d!$&'()*+@:[]~", "/a;b=c,d!$&'()*+@:[]~"),
        ("/a\"<>\\^`{|}", "/a%22%3C%3E%5C%5E%60%7B%7C%7D"),
        // Go parses the path, and takes what it parses as a host for one.
        ("//host/p", "/p"),
        ("//host", "/"),
        ("//host?x", "/?x"),
        ("///x", "///x"),
        // What is no URL is a path as a whole.
        ("/%41%zz", "/%2541%25zz"),
        ("/%zz?x#y", "/%25zz%3Fx%23y"),
        ("/a%", "/a%25"),
        ("/a%20b%zz%", "/a%2520b%25zz%25"),
        ("healthz?a=b c", "/healthz?a=b%20c"),
        ("/a\nb", "/a%0Ab"),
        ("/a\r\nX: y", "/a%0D%0AX:%20y"),
        ("/a\x7f", "/a%7F"),
        ("/?a=\nb", "/%3Fa=%0Ab"),
        // Go sends these as they are; a blank would end the target.
        ("/a?x=1&y=a b", "/a?x=1&y=a%20b"),
        ("/a?ä", "/a?%C3%A4"),
    ];
    for (path, expected) in rows {
        assert_eq!(get(path, &[]).target, expected, "{path:?}");
    }
}

#[test]
fn nothing_of_a_manifest_ends_a_line_of_the_request() {
    let rows = [
        ("a line in a value", ("X", "a\r\nY: z"), "field value for \"X\""),
        ("a line end", ("X", "a\n"), "field value for \"X\""),
        ("a zero", ("X", "a\0"), "field value for \"X\""),
        ("delete", ("X", "a\x7f"), "field value for \"X\""),
        ("a line in the host", ("Host", "a\r\nX: y"), "field value for \"Host\""),
        ("a line in what is left out", ("Content-Length", "1\r\n\r\n"), "field value for \"Content-Length\""),
        ("a blank in a name", ("X y", "1"), "field name \"X y\""),
        ("a colon in a name", ("X:", "1"), "field name \"X:\""),
        ("a line in a name", ("X: y\r\nZ", "1"), "field name \"X: y\\r\\nZ\""),
        ("no name", ("", "1"), "field name \"\""),
    ];
    for (name, header, what) in rows {
        let outcome = get("/", &[header]).check().unwrap_err();
        let expected = format!("failure: Get \"http://10.0.0.1:8080/\": net/http: invalid header {what}");
        assert_eq!(said(&outcome), expected, "{name}");
    }
}

#[test]
fn s6_the_status_decides() {
    let outcome = |status: u16| -> String {
        match status {
            200..=299 => "success".into(),
            300..=399 => "warning: Probe terminated redirects, Response body: why".into(),
            _ => format!("failure: HTTP probe failed with statuscode: {status}"),
        }
    };
    for status in [0, 99, 101, 200, 299, 300, 305, 399, 400, 404, 500, 503, 599, 600, 999] {
        let answer = format!("HTTP/1.1 {status:03} Why\r\nContent-Length: 3\r\n\r\nwhy");
        closed("a probe", &get("/", &[]), answer.as_bytes(), &outcome(status));
        let of_hook = match status {
            200..=399 => "success".into(),
            _ => format!("failure: HTTP hook failed with statuscode: {status}"),
        };
        closed("a hook", &hook("/"), answer.as_bytes(), &of_hook);
    }
    // Neither has a body, whatever they say.
    for (status, expected) in [(204, "success"), (304, "warning: Probe terminated redirects, Response body: ")] {
        let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 5\r\n\r\n");
        assert_eq!(read(&get("/", &[]), answer.as_bytes(), usize::MAX, false), expected);
    }
    // A hook does not wait for the body, however it is framed.
    assert_eq!(read(&hook("/"), b"HTTP/1.1 200 X\r\nContent-Length: 5\r\n\r\n", usize::MAX, false), "success");
}

#[test]
fn s6_heads_are_read_as_go_does() {
    let words = |what: &str| broken(what);
    let rows: &[(&str, &str, String)] = &[
        ("no reason", "HTTP/1.1 200\r\n\r\n", "success".into()),
        ("an empty reason", "HTTP/1.1 200 \r\n\r\n", "success".into()),
        ("any reason", "HTTP/1.1 200 a\t\x01ä\r\n\r\n", "success".into()),
        ("bare line feeds", "HTTP/1.1 200 OK\nContent-Length: 2\n\nok", "success".into()),
        ("two blanks", "HTTP/1.1  200 OK\r\n\r\n", "success".into()),
        ("an old version", "HTTP/1.0 200 OK\r\n\r\nok", "success".into()),
        ("any version", "HTTP/2.0 200 OK\r\n\r\nok", "success".into()),
        ("a folded field", "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", "success".into()),
        ("a blank before the colon", "HTTP/1.1 200 OK\r\nA : b\r\n\r\n", "success".into()),
        ("no number in the version", "HTTP/11 200 OK\r\n", words("malformed HTTP version \"HTTP/11\"")),
        ("another protocol", "http/1.1 200 OK\r\n", words("malformed HTTP version \"http/1.1\"")),
        ("a short status", "HTTP/1.1 20 OK\r\n", words("malformed HTTP status code \"20\"")),
        ("a long status", "HTTP/1.1 2000 OK\r\n", words("malformed HTTP status code \"2000\"")),
        ("a word as status", "HTTP/1.1 abc OK\r\n", words("malformed HTTP status code \"abc\"")),
        ("a signed status", "HTTP/1.1 -20 OK\r\n", words("malformed HTTP status code \"-20\"")),
        ("only a version", "HTTP/1.1\r\n\r\n", words("malformed HTTP response \"HTTP/1.1\"")),
        ("half of the protocol", "HTTP/", words("malformed HTTP response \"HTTP/\"")),
        ("half of the status line", "HTTP/1.1 200", words("unexpected EOF")),
        ("half of the head", "HTTP/1.1 200 OK\r\nA: b\r\n", words("unexpected EOF")),
        ("nothing", "", "failure: Get \"http://10.0.0.1:8080/\": EOF".into()),
        ("an empty line", "\r\n", words("malformed HTTP response \"\"")),
        ("another server", "SSH-2.0-OpenSSH_9\r\n", words("malformed HTTP response \"SSH-2.0-OpenSSH_9\"")),
        ("a word", "garbage", words("malformed HTTP response \"garbage\"")),
        (
            "quotes",
            "a\"b\\'c\t\0é\u{202e}\u{1f600}\n",
            words("malformed HTTP response \"a\\\"b\\\\'c\\t\\x00é\\u202e\u{1f600}\""),
        ),
    ];
    for (name, answer, expected) in rows {
        closed(name, &get("/", &[]), answer.as_bytes(), expected);
    }
    let alert = b"\x15\x03\x01\x00\x02\x02\xff";
    closed("TLS", &get("/", &[]), alert, &words("malformed HTTP response \"\\x15\\x03\\x01\\x00\\x02\\x02\\xff\""));
    for (name, field) in [
        ("no colon", "bad\r\n"),
        ("a zero", "A: b\0\r\n"),
        ("a return", "A: b\rc\r\n"),
        ("no name", ": b\r\n"),
        ("a blank first", " A: b\r\n"),
    ] {
        let outcome = read(&get("/", &[]), format!("{OK}{field}\r\n").as_bytes(), usize::MAX, true);
        assert!(outcome.starts_with(&words("malformed MIME header")), "{name}: {outcome}");
    }
}

#[test]
fn what_is_no_http_is_seen_with_its_first_line() {
    for answer in ["garbage\n", "HTTP/1.1 20 OK\r\n", &"x".repeat(MAX_LINE + 1)] {
        let outcome = read(&get("/", &[]), answer.as_bytes(), 1, false);
        assert!(outcome.starts_with("failure: Get"), "{answer}: {outcome}");
    }
    assert_eq!(read(&get("/", &[]), b"HTTP/1.1 200 OK\r\nA: b\r\n", 1, false), "more, halfway: false");
    assert_eq!(read(&get("/", &[]), b"HTTP/1.1 200 OK\r\n\r\nab", 1, false), "more, halfway: true");
}

#[test]
fn s6_informational_answers_are_passed_over() {
    let early = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n";
    closed("two", &get("/", &[]), format!("{early}{OK}\r\n").as_bytes(), "success");
    closed("nothing after them", &get("/", &[]), early.as_bytes(), &broken("unexpected EOF"));
    closed(
        "half after them",
        &get("/", &[]),
        format!("{early}HTTP/1.1 2").as_bytes(),
        &broken("malformed HTTP status code \"2\""),
    );
    let flood = early.repeat(MAX_HEAD / early.len() + 1);
    let outcome = broken(&format!("net/http: server response headers exceeded {MAX_HEAD} bytes; aborted"));
    closed("without an end", &get("/", &[]), flood.as_bytes(), &outcome);
}

#[test]
fn heads_are_bounded() {
    let too_long = broken(&format!("net/http: server response headers exceeded {MAX_HEAD} bytes; aborted"));
    let rows = [
        ("one endless field", format!("{OK}A: {}", "x".repeat(MAX_HEAD))),
        ("endless fields", format!("{OK}{}", "A: b\r\n".repeat(MAX_HEAD / 6 + 1))),
        ("a complete head", format!("{OK}A: {}\r\n\r\n", "x".repeat(MAX_HEAD))),
        ("an endless reason", format!("HTTP/1.1 200 {}", "x".repeat(MAX_HEAD))),
    ];
    for (name, answer) in rows {
        for size in [4096, usize::MAX] {
            assert_eq!(read(&get("/", &[]), answer.as_bytes(), size, false), too_long, "{name}");
        }
    }
    let fields = |count: usize| format!("{OK}{}Content-Length: 0\r\n\r\n", "A: b\r\n".repeat(count - 1));
    assert_eq!(read(&get("/", &[]), fields(MAX_HEADERS).as_bytes(), 4096, false), "success");
    let outcome = read(&get("/", &[]), fields(MAX_HEADERS + 1).as_bytes(), 4096, false);
    assert_eq!(outcome, broken("more than 1024 header lines"));
    let long = read(&get("/", &[]), format!("{}\n", "x".repeat(MAX_LINE)).as_bytes(), usize::MAX, false);
    assert_eq!(long, broken(&format!("malformed HTTP response \"{}\"", "x".repeat(256))));
}

#[test]
fn s6_bodies_are_framed_as_go_does() {
    let bad = |value: &str| broken(&format!("bad Content-Length \"{value}\""));
    let rows: &[(&str, &str, &str, String)] = &[
        ("length", "Content-Length: 2\r\n", "ok", "success".into()),
        ("longer than its length", "Content-Length: 1\r\n", "okay", "success".into()),
        ("shorter", "Content-Length: 3\r\n", "ok", "error: unexpected EOF".into()),
        ("twice the same", "Content-Length: 1\r\nContent-Length: 1\r\n", "a", "success".into()),
        (
            "twice",
            "Content-Length: 1\r\nContent-Length: 2\r\n",
            "a",
            broken("http: message cannot contain multiple Content-Length headers; got [\"1\" \"2\"]"),
        ),
        ("a list", "Content-Length: 1, 1\r\n", "a", bad("1, 1")),
        ("negative", "Content-Length: -1\r\n", "", bad("-1")),
        ("signed", "Content-Length: +1\r\n", "a", bad("+1")),
        ("hexadecimal", "Content-Length: 0x1\r\n", "a", bad("0x1")),
        ("2^63", "Content-Length: 9223372036854775808\r\n", "", bad("9223372036854775808")),
        ("10^20", "Content-Length: 100000000000000000000\r\n", "", bad("100000000000000000000")),
        ("empty", "Content-Length:\r\n", "", broken("invalid empty Content-Length \"\"")),
        ("chunked", "Transfer-Encoding: Chunked\r\n", "2\r\nok\r\n0\r\n\r\n", "success".into()),
        ("chunked and a length", "Transfer-Encoding: chunked\r\nContent-Length: 9\r\n", "0\r\n\r\n", "success".into()),
        ("chunked and a bad length", "Transfer-Encoding: chunked\r\nContent-Length: x\r\n", "0\r\n\r\n", bad("x")),
        ("another encoding", "Transfer-Encoding: gzip\r\n", "", broken("unsupported transfer encoding: \"gzip\"")),
        (
            "two encodings",
            "Transfer-Encoding: gzip, chunked\r\n",
            "0\r\n\r\n",
            broken("unsupported transfer encoding: \"gzip, chunked\""),
        ),
        (
            "chunked twice",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "0\r\n\r\n",
            broken("too many transfer encodings: [\"chunked\" \"chunked\"]"),
        ),
        ("half a chunk", "Transfer-Encoding: chunked\r\n", "3\r\nab", "error: unexpected EOF".into()),
        ("no chunk", "Transfer-Encoding: chunked\r\n", "xyz\r\n", "error: invalid byte in chunk length".into()),
        ("no end", "Transfer-Encoding: chunked\r\n", "0\r\n", "error: http: unexpected EOF reading trailer".into()),
        ("until it is closed", "", "okay", "success".into()),
    ];
    for (name, fields, body, expected) in rows {
        closed(name, &get("/", &[]), format!("{OK}{fields}\r\n{body}").as_bytes(), expected);
    }
    // Without chunks before 1.1, and judged even where there is no body.
    let old = "HTTP/1.0 399 X\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    closed("old", &get("/", &[]), old.as_bytes(), "warning: Probe terminated redirects, Response body: 0\r\n\r\n");
    closed("none", &get("/", &[]), b"HTTP/1.1 204 X\r\nContent-Length: x\r\n\r\n", &bad("x"));
    // A body that breaks off says nothing, whatever the status.
    closed("500", &get("/", &[]), b"HTTP/1.1 500 X\r\nContent-Length: 3\r\n\r\nab", "error: unexpected EOF");
}

#[test]
fn s6_no_more_of_a_body_is_waited_for_than_is_kept() {
    for fields in ["Content-Length: 1000000\r\n", ""] {
        let endless = format!("{OK}{fields}\r\n{}", "x".repeat(MAX_OUTPUT));
        assert_eq!(read(&get("/", &[]), endless.as_bytes(), 4096, false), "success");
    }
    let told = read(&get("/", &[]), format!("HTTP/1.1 300 X\r\n\r\n{}", "x".repeat(1 << 20)).as_bytes(), 4096, false);
    assert_eq!(told.len(), MAX_OUTPUT + "warning: ".len());
}

/// The answer of a redirect to `location`, with a body.
fn found(location: &str) -> String {
    format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 4\r\n\r\nbody")
}

/// What a redirect comes to: the next request's URL or the outcome.
fn redirected(get: &Get, location: &str) -> String {
    read(get, found(location).as_bytes(), usize::MAX, true)
}

/// The request after a redirect.
fn next(get: &Get, location: &str) -> Get {
    match Answer::default().feed(get, found(location).as_bytes()) {
        Step::Again(next) => *next,
        other => panic!("{location}: {other:?}"),
    }
}

const WARNING: &str = "warning: Probe terminated redirects, Response body: body";

#[test]
fn s6_redirects_are_followed_on_the_same_host() {
    let rows = [
        ("/next", "again: http://10.0.0.1:8080/next"),
        ("next", "again: http://10.0.0.1:8080/dir/next"),
        ("../up", "again: http://10.0.0.1:8080/up"),
        ("./", "again: http://10.0.0.1:8080/dir/"),
        ("?q", "again: http://10.0.0.1:8080/dir/start?q"),
        ("#f", "again: http://10.0.0.1:8080/dir/start?a=b"),
        ("/x#f", "again: http://10.0.0.1:8080/x"),
        (" /x ", "again: http://10.0.0.1:8080/x"),
        ("/a b", "again: http://10.0.0.1:8080/a%20b"),
        ("/ä", "again: http://10.0.0.1:8080/%C3%A4"),
        ("http://10.0.0.1:8080/a/../b", "again: http://10.0.0.1:8080/b"),
        ("HTTP://10.0.0.1:8080/X", "again: http://10.0.0.1:8080/X"),
        ("http://10.0.0.1:8080?x=1", "again: http://10.0.0.1:8080/?x=1"),
        ("http://10.0.0.1:9090/", "again: http://10.0.0.1:9090/"),
        ("http://10.0.0.1/", "again: http://10.0.0.1/"),
        ("//10.0.0.1:9090/x", "again: http://10.0.0.1:9090/x"),
        ("https://10.0.0.1/", "again: https://10.0.0.1/"),
        ("http://user:password@10.0.0.1:8080/x", "again: http://10.0.0.1:8080/x"),
        ("http://10.0.0.2:8080/", WARNING),
        ("http://other.example/", WARNING),
        ("//other.example/", WARNING),
        ("http://10.0.0.1.other.example/", WARNING),
        ("http://10.0.0.1@other.example/", WARNING),
        ("http://[::1]/", WARNING),
        ("file:///etc/passwd", WARNING),
        ("unix:///run/x", WARNING),
        ("mailto:x", WARNING),
        ("data:x,y", WARNING),
        ("", WARNING),
        ("ftp://10.0.0.1/x", "failure: Get \"ftp://10.0.0.1/x\": unsupported protocol scheme \"ftp\""),
    ];
    let start = get("/dir/start?a=b", &[]);
    for (location, expected) in rows {
        assert_eq!(redirected(&start, location), expected, "{location}");
        let hook = redirected(&hook("/dir/start?a=b"), location);
        assert_eq!(hook, if expected == WARNING { "success" } else { expected }, "{location}");
    }
    for location in ["http://[::1/", "http://10.0.0.1:x/", "http://10.0.0.1:99999/"] {
        let words = format!("failure: Get \"{}\": failed to parse Location header \"{location}\"", start.url());
        assert!(redirected(&start, location).starts_with(&words), "{location}");
    }
}

#[test]
fn s6_only_some_answers_redirect() {
    for (status, follows) in [
        (300, false),
        (301, true),
        (302, true),
        (303, true),
        (304, false),
        (305, false),
        (307, true),
        (308, true),
        (200, false),
        (404, false),
    ] {
        let answer = format!("HTTP/1.1 {status} X\r\nLocation: /next\r\nContent-Length: 0\r\n\r\n");
        let outcome = read(&get("/", &[]), answer.as_bytes(), usize::MAX, false);
        assert_eq!(outcome.starts_with("again: "), follows, "{status}: {outcome}");
    }
    let two = b"HTTP/1.1 302 X\r\nLocation: /one\r\nLocation: /two\r\n\r\n";
    assert_eq!(read(&get("/", &[]), two, usize::MAX, false), "again: http://10.0.0.1:8080/one");
    let malformed = b"HTTP/1.1 302 X\r\nLocation: /one\r\nContent-Length: x\r\n\r\n";
    assert_eq!(read(&get("/", &[]), malformed, usize::MAX, false), broken("bad Content-Length \"x\""));
}

#[test]
fn s6_the_tenth_request_is_the_last() {
    for start in [get("/0", &[]), hook("/0")] {
        let mut last = start;
        for hop in 1..MAX_REQUESTS {
            last = next(&last, &format!("/{hop}"));
        }
        assert_eq!(redirected(&last, "/again"), "failure: Get \"/again\": stopped after 10 redirects");
        assert!(redirected(&last, "http://other.example/").starts_with(if last.is_hook() {
            "success"
        } else {
            "warning"
        }));
        assert!(read(&last, format!("{OK}\r\n").as_bytes(), usize::MAX, true).starts_with("success"));
    }
}

#[test]
fn s6_headers_after_a_redirect() {
    let text = |get: &Get| String::from_utf8(get.bytes()).unwrap();
    let start = get("/0?x", &[("Host", "pod.example"), ("Authorization", "z"), ("X", "y")]);
    // (location, Host): the manifest's is for a location without a host of its own, or with no scheme.
    let rows = [
        ("/1", "pod.example"),
        ("//10.0.0.1:8080/1", "pod.example"),
        ("http://10.0.0.1:8080/1", "10.0.0.1:8080"),
        ("http://10.0.0.1:9090/1", "10.0.0.1:9090"),
        ("http://10.0.0.1/1", "10.0.0.1"),
    ];
    for (location, host) in rows {
        let head = format!(
            "GET /1 HTTP/1.1\r\nHost: {host}\r\nUser-Agent: kube-probe/1.37\r\nAccept: */*\r\nAuthorization: z\r\nX: y\r\n\
             Referer: http://10.0.0.1:8080/0?x\r\nConnection: close\r\n\r\n"
        );
        assert_eq!(text(&next(&start, location)), head, "{location}");
    }
    let second = next(&next(&start, "/1"), "/2");
    assert!(
        text(&second).contains("Host: pod.example\r\n")
            && text(&second).contains("Referer: http://10.0.0.1:8080/1\r\n")
    );
    let own = next(&get("/0", &[("Referer", "mine")]), "/1");
    assert_eq!(text(&own).matches("Referer: ").count(), 1);
    assert!(text(&own).contains("Referer: mine\r\n"));
}

#[test]
fn s6_redirects_between_http_and_https() {
    let start = get("/0", &[]);
    let secure = next(&start, "https://10.0.0.1:8443/1");
    assert_eq!((secure.tls, secure.place.port, secure.plain_address()), (true, 8443, None));
    assert_eq!(secure.referer.as_deref(), Some("http://10.0.0.1:8080/0"));
    assert_eq!(next(&start, "https://10.0.0.1/1").place.port, 443);
    // Where a user came from over TLS does not go over the wire in clear text.
    let plain = next(&secure, "http://10.0.0.1:8080/2");
    assert_eq!((plain.tls, plain.referer.as_deref()), (false, None));
    assert_eq!(plain.plain_address(), Some("10.0.0.1:8080".parse().unwrap()));
    assert_eq!(next(&start, "//10.0.0.1/1").place.port, 80);
    // HTTP/2 without TLS is known of this server only as long as it is without TLS.
    let http2 = Get { http2: true, ..get("/0", &[]) };
    assert!(next(&http2, "/1").http2);
    assert!(!next(&http2, "https://10.0.0.1/1").http2);
}

#[test]
fn s6_a_location_cannot_choose_where_to_connect_nor_split_a_request() {
    let start = Get::new(&handler("/", &[]), to("Pod.Example"), Purpose::Probe);
    for location in ["http://pod.example:1/", "//POD.example:1/", "http://x:y@pod%2Eexample:1/"] {
        let next = next(&start, location);
        assert_eq!((next.place.host.as_str(), next.place.port), ("Pod.Example", 1), "{location}");
    }
    for location in ["/a\tb", "/a\\b", "/%0d%0aX:y", "?\"<>", "/\u{85}\u{2028}"] {
        let bytes = next(&start, location).bytes();
        let head = String::from_utf8(bytes).unwrap();
        assert_eq!(head.lines().count(), 7, "{head}");
        assert_eq!(head.lines().next().unwrap().split(' ').count(), 3, "{head}");
    }
}

#[test]
fn a_fallback_to_clear_text_does_not_authorize() {
    let headers = [("authorization", "Bearer x"), ("X", "y")];
    let get = Get::new(&HttpGet { tls: true, ..handler("/", &headers) }, to("10.0.0.1"), Purpose::Hook);
    let plain = get.without_tls();
    let text = String::from_utf8(plain.bytes()).unwrap();
    assert_eq!((plain.tls, plain.url()), (false, "http://10.0.0.1:8080/".into()));
    assert!(text.contains("X: y\r\n") && !text.contains("Bearer"), "{text}");
}

#[test]
fn a_failures_words_are_bounded() {
    let long = get(&format!("/{}", "ä".repeat(MAX_OUTPUT)), &[]);
    let Outcome::Failure(what) = long.failure("EOF") else { panic!("no failure") };
    assert_eq!(what.len(), MAX_OUTPUT);
    let next = next(&get("/", &[]), &format!("/{}", "x".repeat(40 << 10)));
    assert!(redirected(&next, &"y".repeat(40 << 10)).starts_with("again: "));
    let Outcome::Failure(what) = next.failure("EOF") else { panic!("no failure") };
    assert_eq!(what.len(), MAX_OUTPUT);
}

#[test]
fn s7_a_hooks_answer_is_its_status_code() {
    let outcome = |status, location| match hook("/").answered(status, location) {
        Next::Done(outcome) => Some(outcome),
        _ => None,
    };
    for status in [200, 204, 299, 300, 304, 399] {
        assert_eq!(outcome(status, None), Some(Outcome::Success), "{status}");
    }
    for status in [199, 400, 404, 500, 503, 599] {
        let what = format!("HTTP hook failed with statuscode: {status}");
        assert_eq!(outcome(status, None), Some(Outcome::Failure(what)), "{status}");
    }
    assert_eq!(outcome(302, Some(b"http://elsewhere.example/")), Some(Outcome::Success), "it is not followed");
    assert_eq!(outcome(302, Some(b"/there")), None, "it is followed");
    // A probe's body is part of its outcome.
    assert!(matches!(get("/", &[]).answered(404, None), Next::Read));
}

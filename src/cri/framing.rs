//! gRPC's messages in a body of HTTP/2 (Length-Prefixed-Message of PROTOCOL-HTTP2.md): whether it is compressed (1 byte), its length
//! (4 bytes, big-endian), and itself. tonic does all of this; here is what is answered without it.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, header};
use http_body_util::{BodyExt, Full};
use prost::Message;
use std::future::ready;
use tonic::body::Body;

const PREFIX: usize = 5;

/// A body that is one message.
pub(super) fn body_of(message: &impl Message) -> Bytes {
    let message = message.encode_to_vec();
    // No message has more than 4 GiB: its containers are in memory.
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0], &length.to_be_bytes()[..], &message].concat().into()
}

/// The message of a body that is one, and not compressed.
pub(super) fn only_message(body: &[u8]) -> Option<&[u8]> {
    let (prefix, message) = body.split_first_chunk::<PREFIX>()?;
    let [0, length @ ..] = *prefix else { return None };
    (u32::from_be_bytes(length) as usize == message.len()).then_some(message)
}

/// The response with such a body, whose status is OK.
pub(super) fn response(body: Bytes) -> Response<Body> {
    let trailers = HeaderMap::from_iter([(tonic::Status::GRPC_STATUS, HeaderValue::from_static("0"))]);
    let body = Full::new(body).with_trailers(ready(Some(Ok(trailers))));
    let mut response = Response::new(Body::new(body));
    response.headers_mut().insert(header::CONTENT_TYPE, tonic::metadata::GRPC_CONTENT_TYPE);
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::api;

    #[test]
    fn a_message_is_found_in_its_body() {
        let message = api::ListContainersResponse { containers: vec![Bytes::from_static(b"one"), Bytes::new()] };
        let body = body_of(&message);
        assert_eq!(only_message(&body), Some(&*message.encode_to_vec()));
        let empty = body_of(&api::ListContainersRequest { filter: None });
        assert_eq!((&*empty, only_message(&empty)), (&[0; 5][..], Some(&[][..])));
    }

    #[test]
    fn what_is_not_one_plain_message_is_left_to_others() {
        let cases: [&[u8]; 6] =
            [b"", b"\0\0\0\0", b"\x01\0\0\0\x01a", b"\0\0\0\0\x02a", b"\0\0\0\0\x01ab", b"\0\0\0\0\0\0\0\0\0\0"];
        for body in cases {
            assert_eq!(only_message(body), None, "{body:?}");
        }
    }
}

//! Errors as gRPC statuses.

use crate::error::{Kind, kind_of};
use crate::image::{ImageFailure, ImageFailureKind};
use tonic::{Code, Status};

/// The longest message of a status in bytes: it travels in a header, which clients bound (grpc-go: 16 MiB of headers, but
/// kubelets log all of it).
const MAX_MESSAGE: usize = 4096;

/// The status of an error: the code of its kind, and its whole text.
pub(super) fn of(error: &anyhow::Error) -> Status {
    let mut message = format!("{error:#}");
    if is_unavailable(error) {
        // The word by which a kubelet knows it (k8s.io/cri-api/pkg/errors).
        message.insert_str(0, "RegistryUnavailable: ");
    }
    if message.len() > MAX_MESSAGE {
        let end = (0..=MAX_MESSAGE).rev().find(|&at| message.is_char_boundary(at)).unwrap_or(0);
        message.truncate(end);
        message.push('…');
    }
    Status::new(code(error), message)
}

fn is_unavailable(error: &anyhow::Error) -> bool {
    ImageFailure::of(error).is_some_and(|failure| failure.kind == ImageFailureKind::RegistryUnavailable)
}

fn code(error: &anyhow::Error) -> Code {
    if is_unavailable(error) {
        return Code::Unavailable;
    }
    match kind_of(error) {
        Some(Kind::Invalid) => Code::InvalidArgument,
        Some(Kind::NotFound) => Code::NotFound,
        Some(Kind::AlreadyExists) => Code::AlreadyExists,
        Some(Kind::NotReady) => Code::FailedPrecondition,
        Some(Kind::TimedOut) => Code::DeadlineExceeded,
        Some(Kind::Unsupported) => Code::Unimplemented,
        Some(Kind::Exhausted) => Code::ResourceExhausted,
        Some(Kind::Forbidden) => Code::PermissionDenied,
        Some(Kind::Unauthenticated) => Code::Unauthenticated,
        Some(Kind::Interrupted) => Code::Cancelled,
        // Not NotFound: to a kubelet that would mean the container.
        Some(Kind::CommandNotFound | Kind::CommandNotExecutable) => Code::Unknown,
        None => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::failure;

    #[test]
    fn each_kind_has_its_code() {
        for (kind, code) in [
            (Kind::Invalid, Code::InvalidArgument),
            (Kind::NotFound, Code::NotFound),
            (Kind::AlreadyExists, Code::AlreadyExists),
            (Kind::NotReady, Code::FailedPrecondition),
            (Kind::TimedOut, Code::DeadlineExceeded),
            (Kind::Unsupported, Code::Unimplemented),
            (Kind::Exhausted, Code::ResourceExhausted),
            (Kind::Forbidden, Code::PermissionDenied),
            (Kind::Unauthenticated, Code::Unauthenticated),
            (Kind::Interrupted, Code::Cancelled),
            (Kind::CommandNotFound, Code::Unknown),
            (Kind::CommandNotExecutable, Code::Unknown),
        ] {
            let status = of(&failure(kind, "inner").context("outer"));
            assert_eq!((status.code(), status.message()), (code, "outer: inner"), "{kind:?}");
        }
        assert_eq!(of(&anyhow::anyhow!("anything")).code(), Code::Internal);
        let down = ImageFailure::plain(ImageFailureKind::RegistryUnavailable, "no answer");
        assert_eq!(of(&down).message(), "RegistryUnavailable: no answer");
        assert_eq!(of(&down).code(), Code::Unavailable);
    }

    #[test]
    fn a_message_is_bounded_at_a_character() {
        let status = of(&anyhow::anyhow!("x{}", "ä".repeat(MAX_MESSAGE)));
        assert_eq!(status.message().len(), MAX_MESSAGE - 1 + "…".len());
    }
}

//! Errors as gRPC has them.

use crate::error::{Kind, kind_of};
use tonic::{Code, Status};

/// The code of an error's kind, and all of its text.
pub(super) fn of(error: &anyhow::Error) -> Status {
    let code = match kind_of(error) {
        Some(Kind::Invalid) => Code::InvalidArgument,
        Some(Kind::NotFound) => Code::NotFound,
        Some(Kind::AlreadyExists) => Code::AlreadyExists,
        Some(Kind::NotReady) => Code::FailedPrecondition,
        Some(Kind::TimedOut) => Code::DeadlineExceeded,
        Some(Kind::Forbidden) => Code::PermissionDenied,
        Some(Kind::Interrupted) => Code::Aborted,
        // What containerd answers: a kubelet takes the text.
        Some(Kind::CommandNotFound | Kind::CommandNotExecutable) | None => Code::Unknown,
    };
    Status::new(code, format!("{error:#}"))
}

//! A container's image, asked for again before a start by a process of podshim's own: the supervisor itself talks to no registry.

use super::pod::Supervisor;
use super::poll::{Source, Token};
use crate::control;
use crate::lifecycle::{Event, ImageFailure};
use crate::plan::config::ImageSpec;
use crate::probes;
use crate::sys::Called;
use anyhow::Result;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::time::Instant;

/// A child process that asks the registry for a container's image.
pub(super) struct Pull {
    child: std::process::Child,
    token: Token,
    image: String,
    answer: Vec<u8>,
    restart_count: u32,
    began: Instant,
}

impl Pull {
    /// Ends it; its end of file is its answer.
    pub(super) fn cancel(&mut self) {
        // It has ended already if this fails.
        let _ = self.child.kill();
    }
}

impl Supervisor {
    pub(super) fn begin_pull(&mut self, index: usize, restart_count: u32) -> Result<()> {
        let dirs = &self.pod.record.dirs;
        let image = &self.pod.record.plan.containers[index].image;
        let mut command = std::process::Command::new("/proc/self/exe");
        let logins = &self.pod.record.plan.logins;
        // Neither arguments nor variables: others may see those.
        let stdin = match logins.is_empty() {
            true => std::process::Stdio::null(),
            false => control::document("podshim", logins)?.into(),
        };
        let spawned = command
            .arg0("podshim")
            .arg("--root")
            .arg(&dirs.root)
            .arg("--state")
            .arg(&dirs.state)
            .args(["ensure-image", "--pull", "always", image])
            .args(Some("--logins").filter(|_| !logins.is_empty()))
            .stdin(stdin)
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .called("execve", "podshim ensure-image");
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) => {
                let failed =
                    Event::ImageFailed { container: index, failure: ImageFailure::Pull, message: error.to_string() };
                self.queue.push_back(failed);
                return Ok(());
            }
        };
        let pulling = format!("Pulling image {image:?}");
        if let Some(stdout) = child.stdout.as_mut() {
            let token = self.poll.watch(&*stdout, Source::Pull(index)).inspect_err(|_| {
                // Nobody hears its answer. The error to be told is the first one.
                let _ = child.kill();
                let _ = child.wait();
            })?;
            let began = Instant::now();
            let (image, answer) = (image.clone(), Vec::new());
            self.slots[index].pull = Some(Pull { child, token, image, answer, restart_count, began });
        }
        self.tell(index, "Pulling", pulling);
        Ok(())
    }

    /// The pulling child says something, or has ended.
    pub(super) fn pulled(&mut self, index: usize) -> Result<()> {
        let Some(pull) = &mut self.slots[index].pull else { return Ok(()) };
        let Some(stdout) = pull.child.stdout.as_mut() else { return Ok(()) };
        let mut buffer = [0u8; 4096];
        let count = stdout.read(&mut buffer).called("read", "ensure-image")?;
        if count > 0 {
            pull.answer.extend_from_slice(&buffer[..count]);
            return Ok(());
        }
        self.poll.forget(pull.token, stdout.as_fd());
        let Some(mut pull) = self.slots[index].pull.take() else { return Ok(()) };
        // Its standard output is closed: it is about to end, if it has not yet.
        pull.child.wait().called("waitpid", "ensure-image")?;
        // Not if the start was given up, or is about to be: the record has another image by now, which must stay there.
        let wanted = &self.pod.record.plan.containers[index].image;
        let is_wanted = !self.slots[index].start_cancelled && pull.image == *wanted;
        match serde_json::from_slice::<Answer>(&pull.answer) {
            Ok(Answer::Image(image)) if is_wanted => {
                // The record keeps what runs from being pruned.
                if let Err(error) = self.record_image(index, *image) {
                    self.warn("FailedToWriteRecord", format!("{error:#}"));
                }
                let image = &pull.image;
                let took = probes::go_duration(pull.began.elapsed());
                let message = format!("Successfully pulled image {image:?} in {took} ({took} including waiting)");
                self.tell(index, "Pulled", message);
                self.create(index, pull.restart_count)
            }
            Ok(Answer::Failed { reason, message }) => {
                let failure = match reason.as_str() {
                    "ErrImageNeverPull" => ImageFailure::NeverPull,
                    "InvalidImageName" => ImageFailure::InvalidName,
                    "RegistryUnavailable" => ImageFailure::RegistryUnavailable,
                    "ImageInspectError" => ImageFailure::Inspect,
                    _ => ImageFailure::Pull,
                };
                self.queue.push_back(Event::ImageFailed { container: index, failure, message });
                Ok(())
            }
            Ok(Answer::Image(_)) | Err(_) => {
                let message = "the pull was ended".to_owned();
                self.queue.push_back(Event::ImageFailed { container: index, failure: ImageFailure::Pull, message });
                Ok(())
            }
        }
    }
}

/// What `podshim ensure-image` prints.
#[derive(serde::Serialize, serde::Deserialize)]
pub enum Answer {
    /// The image.
    Image(Box<ImageSpec>),
    /// Why there is none.
    Failed {
        /// The kubelet's reason.
        reason: String,
        /// The error.
        message: String,
    },
}

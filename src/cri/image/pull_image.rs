//! `PullImage`

use super::named;
use crate::cri::api::{AuthConfig, PullImageRequest, PullImageResponse};
use crate::cri::daemon::Daemon;
use crate::cri::status;
use crate::error::{Kind, failure};
use crate::image::{self, Quiet, Reference};
use crate::plan::config::Login;
use anyhow::{Context, Result, anyhow};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::watch;
use tonic::Status;

/// The pulls that run. Lost with the process: whoever asked for one asks again.
#[derive(Default)]
pub(in crate::cri) struct Pulls(Mutex<Vec<Pull>>);

/// A pull that runs, for all who asked for the same image with the same logins.
struct Pull {
    reference: Reference,
    logins: Vec<Login>,
    interest: Weak<Interest>,
    outcome: watch::Receiver<Option<Outcome>>,
}

/// The image's ID, or why there is none.
type Outcome = Result<String, Status>;

/// Held by each who waits for a pull: without any it stops.
struct Interest(Arc<AtomicBool>);

impl Drop for Interest {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Fetches the image from its registry, whatever is here, and answers its ID. The sandbox it is for changes nothing: it is
/// fetched by this process, with the host's network. A client that hangs up ends it, unless another waits for the same.
pub(in crate::cri) async fn run(daemon: &Arc<Daemon>, request: PullImageRequest) -> Result<PullImageResponse, Status> {
    let (reference, logins) = wanted(daemon, request).map_err(|error| status::of(&error))?;
    let (mut outcome, _interest) = join(daemon, reference, logins);
    let done = tokio::select! {
        done = outcome.wait_for(Option::is_some) => done.map(|outcome| outcome.clone()),
        // Its clients ask the next daemon again; what is fetched by then is thrown away.
        () = daemon.stop() => return Err(Status::unavailable("podshim is being stopped")),
    };
    let gone = || Err(status::of(&anyhow!("the pull ended without an outcome")));
    done.ok().flatten().unwrap_or_else(gone).map(|image_ref| PullImageResponse { image_ref })
}

fn wanted(daemon: &Daemon, request: PullImageRequest) -> Result<(Reference, Vec<Login>)> {
    let spec = named(&daemon.config, request.image)?;
    let reference = image::parse_reference(&spec.image)?;
    let logins = match request.auth {
        Some(auth) => login(&reference, auth)?.into_iter().collect(),
        None => Vec::new(),
    };
    Ok((reference, logins))
}

/// The pull of this image with these logins that runs already, or a new one.
fn join(
    daemon: &Arc<Daemon>,
    reference: Reference,
    logins: Vec<Login>,
) -> (watch::Receiver<Option<Outcome>>, Arc<Interest>) {
    let mut pulls = daemon.pulls.0.lock().unwrap_or_else(PoisonError::into_inner);
    // Those that are over, and those that nobody waits for: they are about to stop.
    pulls.retain(|pull| pull.interest.strong_count() > 0 && pull.outcome.borrow().is_none());
    let same = |pull: &&Pull| pull.reference == reference && pull.logins == logins;
    if let Some(pull) = pulls.iter().find(same)
        && let Some(interest) = pull.interest.upgrade()
    {
        return (pull.outcome.clone(), interest);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let interest = Arc::new(Interest(stop.clone()));
    let (sender, outcome) = watch::channel(None);
    pulls.push(Pull {
        reference: reference.clone(),
        logins: logins.clone(),
        interest: Arc::downgrade(&interest),
        outcome: outcome.clone(),
    });
    let daemon = daemon.clone();
    tokio::task::spawn_blocking(move || {
        let done = pull(&daemon, (&reference, &logins), stop);
        sender.send_replace(Some(done.map_err(|error| status::of(&error))));
    });
    (outcome, interest)
}

fn pull(daemon: &Daemon, (reference, logins): (&Reference, &[Login]), stop: Arc<AtomicBool>) -> Result<String> {
    let store = daemon.images(stop)?.with_logins(logins);
    Ok(store.pull(reference, &mut Quiet)?.id)
}

/// A kubelet's login for the registry of an image, in containerd's order of precedence; none if it says nothing. Its text is in
/// no error.
fn login(reference: &Reference, auth: AuthConfig) -> Result<Option<Login>> {
    let server = match auth.server_address.is_empty() {
        true => reference.registry().to_owned(),
        false => auth.server_address,
    };
    let with = |username: &str, password: &str| Login {
        server: server.clone(),
        username: username.to_owned(),
        password: password.to_owned(),
        identity_token: None,
        registry_token: None,
    };
    if !auth.username.is_empty() {
        return Ok(Some(with(&auth.username, &auth.password)));
    }
    if !auth.identity_token.is_empty() {
        return Ok(Some(Login { identity_token: Some(auth.identity_token), ..with("", "") }));
    }
    if !auth.auth.is_empty() {
        let (username, password) = decode(&auth.auth).map_err(|error| failure(Kind::Invalid, format!("{error:#}")))?;
        return Ok(Some(with(&username, &password)));
    }
    if !auth.registry_token.is_empty() {
        return Ok(Some(Login { registry_token: Some(auth.registry_token), ..with("", "") }));
    }
    Ok(None)
}

/// `user:password` in base64, as in Docker's config.json.
fn decode(auth: &str) -> Result<(String, String)> {
    // The cause is not repeated: it would show a byte of the secret.
    let bytes = STANDARD.decode(auth.trim()).map_err(|_| anyhow!("auth.auth is not base64"))?;
    let text = String::from_utf8(bytes).map_err(|_| anyhow!("auth.auth is not text"))?;
    let (username, password) = text.trim_end_matches('\0').split_once(':').context("auth.auth has no colon")?;
    Ok((username.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_of_a_kubelet() {
        let reference: Reference = "registry.example/team/app".parse().unwrap();
        let auth = |fields: [&str; 6]| {
            let [username, password, auth, server_address, identity_token, registry_token] = fields.map(str::to_owned);
            AuthConfig { username, password, auth, server_address, identity_token, registry_token }
        };
        for (fields, expected) in [
            (["", "", "", "", "", ""], None),
            (["", "", "", "registry.example", "", ""], None),
            (["u", "p", "", "", "t", ""], Some(("registry.example", "u", "p", None, None))),
            (
                ["u", "", "", "https://other.example/v1/", "", ""],
                Some(("https://other.example/v1/", "u", "", None, None)),
            ),
            (["", "", "dTpwOnE=", "", "", ""], Some(("registry.example", "u", "p:q", None, None))),
            (["", "", "dTpw", "", "t", ""], Some(("registry.example", "", "", Some("t"), None))),
            (["", "", "", "", "", "b"], Some(("registry.example", "", "", None, Some("b")))),
        ] {
            let found = login(&reference, auth(fields)).unwrap();
            let expected = expected.map(|(server, username, password, identity, registry)| Login {
                server: server.to_owned(),
                username: username.to_owned(),
                password: password.to_owned(),
                identity_token: identity.map(str::to_owned),
                registry_token: registry.map(str::to_owned),
            });
            assert!(found == expected, "{fields:?}");
        }
        for (secret, part) in [("sEcReT!", "base64"), ("c0VjUmVU", "colon"), ("/////w==", "text")] {
            let error = login(&reference, auth(["", "", secret, "", "", ""])).map(drop).unwrap_err();
            let text = format!("{error:#}");
            assert!(text.contains(part) && !text.contains(secret) && !text.contains("sEcReT"), "{text}");
        }
    }
}

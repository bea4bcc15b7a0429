//! What a URL stands for, kept until it is asked for: once, and for a minute. The token in it is all that a client needs to run
//! commands in a container, so that it is in no log and cannot be guessed.

use super::Request;
use crate::error::{Kind, failure};
use anyhow::{Result, anyhow};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rustls::crypto::ring::default_provider;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The most URLs that nobody has asked for: the reference server's.
const MAX_WAITING: usize = 1000;
/// Bytes of getrandom(2) in a token.
const RANDOM: usize = 32;

/// Requests by token.
#[derive(Debug)]
pub(super) struct Tokens {
    lifetime: Duration,
    waiting: HashMap<String, (Instant, Request)>,
}

impl Tokens {
    pub(super) fn new(lifetime: Duration) -> Tokens {
        Tokens { lifetime, waiting: HashMap::new() }
    }

    /// A new token for a request.
    pub(super) fn insert(&mut self, request: Request, now: Instant) -> Result<String> {
        self.waiting.retain(|_, (since, _)| now.duration_since(*since) <= self.lifetime);
        if self.waiting.len() >= MAX_WAITING {
            return Err(failure(Kind::Exhausted, "maximum number of in-flight requests exceeded"));
        }
        let mut random = [0; RANDOM];
        let filled = default_provider().secure_random.fill(&mut random);
        filled.map_err(|error| anyhow!("getrandom for a token: {error:?}"))?;
        let token = BASE64_URL_SAFE_NO_PAD.encode(random);
        self.waiting.insert(token.clone(), (now, request));
        Ok(token)
    }

    /// What a token stands for; it is worth nothing afterwards.
    pub(super) fn take(&mut self, token: &str, now: Instant) -> Option<Request> {
        let (since, request) = self.waiting.remove(token)?;
        (now.duration_since(since) <= self.lifetime).then_some(request)
    }
}

#[cfg(test)]
mod tests {
    use super::super::PortForward;
    use super::*;

    fn request(sandbox: usize) -> Request {
        Request::PortForward(PortForward { sandbox_id: sandbox.to_string(), ports: vec![] })
    }

    #[test]
    fn a_token_is_good_once_and_for_its_time() {
        let minute = Duration::from_secs(60);
        let (mut tokens, now) = (Tokens::new(minute), Instant::now());
        let token = tokens.insert(request(1), now).unwrap();
        assert!(token.len() * 6 >= 128 && token.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_".contains(&c)));
        assert_eq!(tokens.take("", now), None);
        assert_eq!(tokens.take(&token, now + minute), Some(request(1)));
        assert_eq!(tokens.take(&token, now), None, "twice");
        let token = tokens.insert(request(2), now).unwrap();
        assert_eq!(tokens.take(&token, now + minute + Duration::from_nanos(1)), None, "too late");
    }

    #[test]
    fn there_are_not_too_many() {
        let (mut tokens, now) = (Tokens::new(Duration::from_secs(60)), Instant::now());
        let mut all: Vec<String> = (0..MAX_WAITING).map(|n| tokens.insert(request(n), now).unwrap()).collect();
        tokens.insert(request(0), now).unwrap_err();
        assert!(tokens.take(&all[7], now).is_some());
        tokens.insert(request(0), now).unwrap();
        let later = now + Duration::from_secs(61);
        all.push(tokens.insert(request(0), later).unwrap());
        assert_eq!(tokens.waiting.len(), 1, "the others have expired");
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), MAX_WAITING + 1);
    }
}

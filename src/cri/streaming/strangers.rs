//! Connections that have shown no token: not too many at once. When there are, the one that has been silent for longest gives its
//! place to the newcomer: a client sends its request as soon as it is connected. One whose request has come keeps its place until
//! it is answered.

use futures_util::future::{AbortHandle, AbortRegistration};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// All of them.
pub(super) struct Strangers {
    places: Arc<Semaphore>,
    silent: Mutex<Silent>,
}

/// Those whose request has not come, oldest first.
#[derive(Default)]
struct Silent {
    next: u64,
    by_age: BTreeMap<u64, AbortHandle>,
}

/// One of them; when it is dropped, its place is free.
pub(super) struct Stranger {
    all: Arc<Strangers>,
    number: u64,
    _place: OwnedSemaphorePermit,
}

impl Strangers {
    /// As many as `places` at once.
    pub(super) fn new(places: usize) -> Arc<Strangers> {
        Arc::new(Strangers { places: Arc::new(Semaphore::new(places)), silent: Mutex::default() })
    }

    /// A place for a newcomer, which waits only where the requests of all others have come. What serves the newcomer is to be
    /// abortable by what comes with the place.
    pub(super) async fn admit(self: &Arc<Self>) -> (Stranger, AbortRegistration) {
        let places = Arc::clone(&self.places);
        let place = match Arc::clone(&places).try_acquire_owned() {
            Ok(place) => place,
            Err(_) => {
                self.abort_the_oldest();
                places.acquire_owned().await.expect("it is never closed")
            }
        };
        let (handle, registration) = AbortHandle::new_pair();
        let mut silent = self.silent();
        let number = silent.next;
        silent.next += 1;
        silent.by_age.insert(number, handle);
        drop(silent);
        (Stranger { all: Arc::clone(self), number, _place: place }, registration)
    }

    fn abort_the_oldest(&self) {
        if let Some((_, oldest)) = self.silent().by_age.pop_first() {
            oldest.abort();
        }
    }

    fn silent(&self) -> std::sync::MutexGuard<'_, Silent> {
        self.silent.lock().expect("no panic while strangers are counted")
    }
}

impl Stranger {
    /// Its request has come: it is not aborted any more. `false` if that has happened already.
    pub(super) fn asks(&self) -> bool {
        self.all.silent().by_age.remove(&self.number).is_some()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.all.silent().by_age.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use futures_util::future::{Abortable, Pending, pending};

    /// What serves one: for ever, unless it is aborted.
    struct Served {
        stranger: Option<Stranger>,
        work: Abortable<Pending<()>>,
    }

    impl Served {
        fn of((stranger, registration): (Stranger, AbortRegistration)) -> Served {
            Served { stranger: Some(stranger), work: Abortable::new(pending(), registration) }
        }

        /// As its task does: what is aborted gives its place up.
        fn is_aborted(&mut self) -> bool {
            let is_aborted = (&mut self.work).now_or_never().is_some();
            if is_aborted {
                self.stranger = None;
            }
            is_aborted
        }

        fn asks(&self) -> bool {
            self.stranger.as_ref().unwrap().asks()
        }
    }

    #[test]
    fn the_oldest_that_is_silent_gives_its_place_to_a_newcomer() {
        let strangers = Strangers::new(3);
        let admitted = || Served::of(strangers.admit().now_or_never().expect("there is a place"));
        let mut all = [admitted(), admitted(), admitted()];
        assert!(all[0].asks(), "its request has come");
        for given in [1, 2] {
            let mut waits = Box::pin(strangers.admit());
            assert!((&mut waits).now_or_never().is_none(), "the place is not free before the connection is closed");
            let aborted: Vec<usize> = (0..3).filter(|at| all[*at].is_aborted()).collect();
            assert_eq!(aborted, [given]);
            all[given] = Served::of(waits.now_or_never().expect("the place of the oldest"));
            assert!(all[given].asks());
        }
        let mut waits = Box::pin(strangers.admit());
        assert!((&mut waits).now_or_never().is_none());
        assert!(!all.iter_mut().any(Served::is_aborted), "all are answered");
        all[2].stranger = None;
        waits.now_or_never().expect("the place of one that has been answered");
    }

    #[test]
    fn a_request_that_comes_too_late_is_told_so() {
        let strangers = Strangers::new(1);
        let mut late = Served::of(strangers.admit().now_or_never().unwrap());
        let mut waits = Box::pin(strangers.admit());
        assert!((&mut waits).now_or_never().is_none());
        assert!(!late.asks());
        assert!(late.is_aborted());
        let other = Served::of(waits.now_or_never().unwrap());
        assert!(other.asks() && !other.asks(), "one request");
        drop(other);
        assert!(strangers.silent().by_age.is_empty());
    }
}

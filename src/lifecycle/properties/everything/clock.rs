//! The same pod on a host whose wall clock is set again and again, forwards and back: that changes what a status shows, and nothing
//! that is done or when.

use super::*;

pub(super) struct Twin {
    pod: PodState,
    settings: u64,
}

impl Twin {
    pub(super) fn new(spec: PodSpec) -> Twin {
        Twin { pod: PodState::new(spec, Now { boot: Duration::ZERO, wall: Duration::ZERO }), settings: 0 }
    }

    /// At any time of twenty years.
    fn now(&mut self, boot: Duration) -> Now {
        self.settings += 1;
        Now {
            boot,
            wall: Duration::from_secs(self.settings.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (20 * 365 * 24 * 3600)),
        }
    }

    /// What happens to the pod happens here.
    pub(super) fn step(&mut self, event: Event, boot: Duration) -> Vec<Action> {
        let now = self.now(boot);
        self.pod.step(event, now)
    }

    /// Its supervisor dies as well, and another one finds the same.
    pub(super) fn resume(&mut self, found: &[Found], boot: Duration) -> Vec<Action> {
        let now = self.now(boot);
        let kept = self.pod.clone();
        let (pod, actions) = kept.resume(self.pod.spec().clone(), found, now);
        self.pod = pod;
        actions
    }

    pub(super) fn next_deadline(&self) -> Option<Duration> {
        self.pod.next_deadline()
    }
}

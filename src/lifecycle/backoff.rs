//! The kubelet's back-off (client-go `flowcontrol.Backoff` without jitter), on the boot clock.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The pause after the first step.
const INITIAL: Duration = Duration::from_secs(10);
/// No pause is longer.
const MAX: Duration = Duration::from_secs(300);
/// An event later than this after the last step finds the back-off forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// A pause that doubles with every step: none, 10, 20, 40, 80, 160, 300, 300 … seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BackOff {
    entry: Option<Entry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    pause: Duration,
    stepped: Duration,
}

impl BackOff {
    /// How long after `event` the next try must wait; zero before the first step and after ten quiet minutes.
    pub(super) fn pause_after(&self, event: Duration) -> Duration {
        self.live_at(event).map_or(Duration::ZERO, |entry| entry.pause)
    }

    /// Takes the step at `now`, for the try that answers `event`. Whether the past is forgotten is measured from the last step
    /// to the event, not to now: the pause itself does not count as quiet time.
    pub(super) fn step(&mut self, event: Duration, now: Duration) {
        let pause = self.live_at(event).map_or(INITIAL, |entry| (entry.pause * 2).min(MAX));
        self.entry = Some(Entry { pause, stepped: now });
    }

    fn live_at(&self, event: Duration) -> Option<Entry> {
        self.entry.filter(|entry| event.saturating_sub(entry.stepped) <= FORGOTTEN_AFTER)
    }
}

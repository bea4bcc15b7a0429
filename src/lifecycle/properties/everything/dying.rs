//! The supervisor dies at any moment, and another one goes on with what was kept.

use super::*;

impl World {
    pub(super) fn die(&mut self, choices: &mut impl Choices) {
        let now = Now { boot: Duration::from_secs(self.now), wall: Duration::from_secs(self.now) };
        let kept = serde_json::to_string(&self.pod).unwrap();
        let kept: PodState = serde_json::from_str(&kept).unwrap();
        let counts = self.pod.status();
        let spec = kept.spec().clone();
        let mut ends = Vec::new();
        let mut starts = Vec::new();
        let mut found = Vec::new();
        for index in 0..self.known.len() {
            let known = &self.known[index];
            assert_eq!(kept.present_instance(index).is_some(), known.starting || known.running);
            let is_starting = known.starting;
            let fate = if known.starting || known.running { choices.below(4) } else { 0 };
            found.push(match fate {
                0 => Found::Nothing,
                1 => Found::Running,
                _ => Found::Ended,
            });
            match (is_starting, fate) {
                (true, 1) => starts.push(index),
                // Of what ran, there is nothing any more: it has ended.
                (false, 0) if known.running => ends.push((index, Event::Vanished { container: index })),
                (_, 2) => {
                    let exit = Exit { code: 1, signal: None, oom_killed: false, message: String::new() };
                    ends.push((index, Event::Exited { container: index, exit }));
                }
                (_, 3) => ends.push((index, Event::Vanished { container: index })),
                _ => {}
            }
        }
        // What was performed is performed by nobody any more.
        self.tasks.clear();
        let (was_creating, was_destroying) = (self.creating, self.destroying);
        (self.creating, self.destroying) = (false, false);
        if was_creating {
            self.sandbox = false;
        }
        let is_told = |(known, found): (&Known, &Found)| {
            known.running && *found == Found::Running && (known.signalled || known.killed)
        };
        let told: Vec<bool> = self.known.iter().zip(&found).map(is_told).collect();
        for (known, found) in self.known.iter_mut().zip(&found) {
            match found {
                Found::Nothing | Found::Held => known.starting = false,
                // Asked again.
                Found::Running if known.running => (known.signalled, known.killed) = (false, false),
                Found::Running | Found::Ended => {}
            }
        }
        let (pod, actions) = kept.resume(spec, &found, now);
        self.pod = pod;
        assert_eq!(self.twin.resume(&found, now.boot), actions);
        for (container, is_told) in told.into_iter().enumerate() {
            let again = [Action::Signal { container }, Action::Kill { container }];
            assert!(
                !is_told || again.iter().any(|action| actions.contains(action)),
                "{container} is told again to end"
            );
        }
        assert!(!was_creating || actions.contains(&Action::CreateSandbox), "the sandbox is asked for again");
        assert!(!was_destroying || self.finished || actions.contains(&Action::DestroySandbox));
        for action in actions {
            match action {
                // Also of a pod that ends: its sandbox was asked for before.
                Action::CreateSandbox => self.creating = true,
                Action::Finished => self.finished = true,
                other => self.take(other),
            }
        }
        for index in starts {
            self.known[index].instances += 1;
            self.step(Event::Created { container: index, container_id: "c".into(), image_id: "i".into() });
            let known = &mut self.known[index];
            (known.starting, known.running) = (false, true);
            (known.signalled, known.killed, known.ends) = (false, false, false);
            self.step(Event::Started { container: index });
        }
        for (index, event) in ends {
            let known = &mut self.known[index];
            known.instances += u32::from(known.starting);
            (known.starting, known.running) = (false, false);
            self.tasks.retain(|(of, _), _| *of != index);
            self.step(event);
        }
        if !self.finished {
            self.step(Event::Tick);
        }
        let after = self.pod.status();
        let all = |status: &PodStatus| {
            let lists = [&status.init_container_statuses, &status.container_statuses];
            lists.into_iter().flatten().map(|c| c.restart_count).collect::<Vec<_>>()
        };
        let never_less = all(&counts).iter().zip(all(&after)).all(|(before, after)| after >= *before);
        assert!(never_less, "a restart count was lost: {:?} {:?}", all(&counts), all(&after));
    }
}

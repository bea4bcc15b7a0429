//! Pods of any kind, by numbers that are drawn.

use super::super::super::*;

/// Numbers for choices: from proptest, which shrinks them, or from a generator that is fast.
pub(super) trait Choices {
    /// Below `bound`.
    fn below(&mut self, bound: u64) -> u64;

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// xorshift64*
pub(super) struct Fast(pub(super) u64);

impl Choices for Fast {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) % bound
    }
}

/// What proptest drew; zeros when it is used up.
pub(super) struct Drawn<'a>(pub(super) std::slice::Iter<'a, u32>);

impl Choices for Drawn<'_> {
    fn below(&mut self, bound: u64) -> u64 {
        u64::from(self.0.next().copied().unwrap_or(0)) % bound
    }
}

fn seconds(choices: &mut impl Choices, below: u64) -> Duration {
    Duration::from_secs(choices.below(below))
}

fn probe(choices: &mut impl Choices) -> Option<ProbeTiming> {
    if !choices.one_in(3) {
        return None;
    }
    Some(ProbeTiming {
        initial_delay: seconds(choices, 5),
        period: Duration::from_secs(1 + choices.below(4)),
        timeout: Duration::from_secs(1 + choices.below(4)),
        success_threshold: 1,
        failure_threshold: 1 + choices.below(3) as u32,
        grace: if choices.one_in(2) { Some(Duration::from_secs(1 + choices.below(40))) } else { None },
    })
}

fn hook(choices: &mut impl Choices) -> Option<Hook> {
    match choices.below(6) {
        0 => Some(Hook::Perform),
        1 => Some(Hook::Sleep(seconds(choices, 12))),
        _ => None,
    }
}

fn container(choices: &mut impl Choices, index: usize, kind: ContainerKind) -> ContainerSpec {
    let mut spec = ContainerSpec::new(&format!("c{index}"), kind, "img");
    if kind != ContainerKind::Sidecar && choices.one_in(3) {
        let policies: &[RestartPolicy] = match kind {
            // `Always` would make it a sidecar.
            ContainerKind::Init => &[RestartPolicy::OnFailure, RestartPolicy::Never],
            _ => &[RestartPolicy::Always, RestartPolicy::OnFailure, RestartPolicy::Never],
        };
        spec.restart.policy = Some(choices.pick(policies));
        for _ in 0..choices.below(3) {
            spec.restart.rules.push(RestartRule {
                action: choices.pick(&[RestartAction::Restart, RestartAction::RestartAllContainers]),
                operator: choices.pick(&[ExitCodeOperator::In, ExitCodeOperator::NotIn]),
                codes: vec![choices.below(3) as i32],
            });
        }
    }
    if kind != ContainerKind::Init {
        spec.probes = Probes { startup: probe(choices), liveness: probe(choices), readiness: probe(choices) };
        (spec.post_start, spec.pre_stop) = (hook(choices), hook(choices));
    }
    spec
}

pub(super) fn pod(choices: &mut impl Choices) -> PodSpec {
    let mut containers = Vec::new();
    for _ in 0..choices.below(4) {
        let kind = choices.pick(&[ContainerKind::Init, ContainerKind::Sidecar]);
        containers.push(container(choices, containers.len(), kind));
    }
    for _ in 0..=choices.below(3) {
        containers.push(container(choices, containers.len(), ContainerKind::App));
    }
    PodSpec {
        name: "p".into(),
        namespace: "ns".into(),
        uid: "u".into(),
        restart_policy: choices.pick(&[RestartPolicy::Always, RestartPolicy::OnFailure, RestartPolicy::Never]),
        grace: seconds(choices, 40),
        active_deadline: choices.one_in(8).then(|| Duration::from_secs(1 + choices.below(500))),
        readiness_gates: if choices.one_in(4) { vec!["gate".into()] } else { vec![] },
        containers,
    }
}

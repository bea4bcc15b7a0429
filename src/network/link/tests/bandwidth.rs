//! Limits of bandwidth, measured.

use super::*;
use crate::plan::network::Bandwidth;
use std::time::Instant;

/// 5 MB per second, 250 kB of them at once.
const RATE: u64 = 40_000_000;
/// Takes at least 0.35 s.
const AMOUNT: usize = 2_000_000;

/// How long it takes until all has come, from the calling thread's namespace to a listener anywhere.
fn transfer(listener: &TcpListener) -> Duration {
    let mut there = TcpStream::connect_timeout(&listener.local_addr().unwrap(), SOON).unwrap();
    let (mut here, _) = listener.accept().unwrap();
    here.set_read_timeout(Some(SOON)).unwrap();
    there.set_write_timeout(Some(SOON)).unwrap();
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(move || there.write_all(&vec![0; AMOUNT]).unwrap());
        here.read_exact(&mut vec![0; AMOUNT]).unwrap();
    });
    start.elapsed()
}

#[test]
fn both_directions_are_limited_each_by_its_own() {
    on_a_host(|host| {
        let bridge = name("podshim0");
        ensure(host, &bridge);
        let slow = Duration::from_millis(300)..Duration::from_millis(1500);
        for (number, bandwidth) in [
            (3, Bandwidth { ingress: Some(RATE), egress: None }),
            (4, Bandwidth { ingress: None, egress: Some(RATE) }),
            (5, Bandwidth { ingress: Some(RATE), egress: Some(RATE) }),
        ] {
            let pod = Pod::attached(host, &bridge, number);
            let ifb = ifb_name(&number.to_string());
            host.limit(&Limit { link: &pod.link, ifb: &ifb, bandwidth, mtu: 1500 }).unwrap();
            assert_eq!(host.link(&ifb).unwrap().is_some(), bandwidth.egress.is_some());
            let (in_pod, on_host) = (pod.inside(|| listen(pod.v4)), listen(ip(V4_GATEWAY)));
            let (to_pod, from_pod) = (transfer(&in_pod), pod.inside(|| transfer(&on_host)));
            for (limit, took, which) in [(bandwidth.ingress, to_pod, "to"), (bandwidth.egress, from_pod, "from")] {
                assert_eq!(limit.is_some(), slow.contains(&took), "{bandwidth:?}: {took:?} {which} the pod");
            }
            host.remove_link(&ifb).unwrap();
            host.remove_link(&pod.link).unwrap();
        }
        assert_eq!(names(host), ["lo", "podshim0"]);
    });
}

#[test]
fn a_limit_that_fails_leaves_no_link() {
    on_a_host(|host| {
        let bridge = name("podshim0");
        ensure(host, &bridge);
        let pod = Pod::attached(host, &bridge, 3);
        let ifb = ifb_name("3");
        let bandwidth = Bandwidth { ingress: None, egress: Some(RATE) };
        let limit = Limit { link: &pod.link, ifb: &ifb, bandwidth, mtu: 1500 };
        host.limit(&limit).unwrap();
        host.remove_link(&ifb).unwrap();
        // The link has its ingress queue from before.
        let error = format!("{:#}", host.limit(&limit).unwrap_err());
        assert!(
            error.starts_with("limiting what comes from the pod to 40000000 bits per second: RTM_NEWQDISC"),
            "{error}"
        );
        assert!(host.link(&ifb).unwrap().is_none());
    });
}

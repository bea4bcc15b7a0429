//! The monitor of a link.

use super::*;
use netlink_packet_route::link::{InfoKind, LinkAttribute};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Whether the link is gone, waiting for that as long as messages come.
fn wait_gone(monitor: &mut LinkMonitor) -> bool {
    while !monitor.is_gone().unwrap() {
        let mut fds = [PollFd::new(monitor.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::try_from(SOON).unwrap()).unwrap() == 0 {
            return false;
        }
    }
    true
}

#[test]
fn a_link_that_goes() {
    on_a_host(|host| {
        let bridge = name("podshim0");
        let index = ensure(host, &bridge).index;
        let pod = Pod::attached(host, &bridge, 3);
        let port = host.index(&pod.link).unwrap();
        let (mut of_bridge, mut of_port) = (LinkMonitor::open(index).unwrap(), LinkMonitor::open(port).unwrap());
        assert!(!of_bridge.is_gone().unwrap() && !of_port.is_gone().unwrap());
        // A port no more, but a link still.
        host.set_link(&pod.link, port, socket::LinkChange::of(vec![LinkAttribute::Controller(0)])).unwrap();
        assert!(!of_port.is_gone().unwrap());
        host.remove_link(&bridge).unwrap();
        assert!(wait_gone(&mut of_bridge));
        assert!(of_bridge.is_gone().unwrap(), "once and for all");
        assert!(!of_port.is_gone().unwrap());
        assert!(LinkMonitor::open(index).unwrap().is_gone().unwrap(), "gone before anybody watched");
    });
}

#[test]
fn what_was_lost_is_asked_for() {
    on_a_host(|host| {
        let bridge = name("podshim0");
        let index = ensure(host, &bridge).index;
        let mut monitor = LinkMonitor::open(index).unwrap();
        // More messages than a socket holds (212992 bytes by default), the end among those that are lost.
        for number in 0..400 {
            super::bridge::make_link(host, &name(&format!("link{number}")), InfoKind::Ifb);
        }
        host.remove_link(&bridge).unwrap();
        assert!(wait_gone(&mut monitor));
    });
}

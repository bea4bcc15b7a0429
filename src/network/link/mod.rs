//! Links of the kernel's network, by rtnetlink(7): the bridge, the pods' veth pairs with their addresses and routes, limits of
//! bandwidth, and what the host's routes say about a subnet. Synchronous; messages are of the crate `netlink-packet-route`.
//!
//! Everything is asked of a [`Socket`], which belongs to one network namespace: [`Socket::open`] is of the caller's own ("the
//! host"). Nothing here knows of pods' records, Services or firewalls, or decides which subnet, address or name is used.
//!
//! - [`Socket::ensure_bridge`], [`Socket::attach_veth`], [`Socket::reattach`], [`Socket::limit`]: what a pod's network is made of
//! - [`Socket::links`], [`Socket::link`], [`Socket::remove_link`]
//! - [`Socket::uplink_mtu`], [`Socket::overlaps`]: what the host has already
//! - [`Socket::link_addresses`], [`Socket::main_routes`]: what a namespace has, for people to see
//! - [`Socket::traffic`]: what went over the links of a namespace
//! - [`LinkMonitor`]: when a link goes

mod bandwidth;
mod bridge;
mod listing;
mod monitor;
mod name;
mod routes;
mod socket;
mod sysctl;
#[cfg(test)]
mod tests;
mod traffic;
mod veth;

pub use bandwidth::Limit;
pub use bridge::{Bridge, EnsuredBridge, Port};
pub use listing::{LinkAddress, ListedRoute};
pub use monitor::LinkMonitor;
pub use name::{LinkName, Mac, ifb_name, veth_name};
pub use routes::{Overlap, Taken};
pub use socket::{Link, Socket};
pub use sysctl::Change;
pub use traffic::{Carried, Traffic};
pub use veth::Attachment;

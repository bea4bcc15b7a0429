//! Limits of bandwidth by tc(8), as CNI's bandwidth plugin makes them: what goes to the pod waits in a token bucket (tc-tbf(8)) at
//! the host's end of its link; what comes from it is sent round by a link of kind ifb, which has another.

use super::socket::{Call, LinkChange};
use super::veth::quiet;
use super::{LinkName, Socket};
use crate::plan::network::Bandwidth;
use crate::sys::SysResult;
use anyhow::{Context, Result};
use netlink_packet_core::DefaultNla;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_route::tc::{
    TcAction, TcActionAttribute, TcActionMirror, TcActionMirrorOption, TcActionOption, TcActionType, TcAttribute,
    TcFilterU32, TcFilterU32Option, TcHandle, TcMessage, TcMirror, TcMirrorActionType, TcOption, TcU32Key,
    TcU32Selector, TcU32SelectorFlags,
};

/// How long a packet waits at most before it is dropped, beyond what the burst takes: CNI's number.
const LATENCY_MS: u64 = 25;

/// How much may be sent at once after a pause, as time at the full rate.
const BURST_MS: u64 = 50;

/// A burst holds at least one segment of TCP as large as they get, if that is not more than a second's worth.
const LARGEST_SEGMENT: u64 = 64 << 10;

/// What to limit.
#[derive(Debug, Clone, Copy)]
pub struct Limit<'a> {
    /// The host's end of the pod's link.
    pub link: &'a LinkName,
    /// The link to make if what comes from the pod is limited. It has to be removed with the pod, by this name.
    pub ifb: &'a LinkName,
    /// The limits.
    pub bandwidth: Bandwidth,
    /// The link's maximum transmission unit in bytes.
    pub mtu: u32,
}

/// A token bucket's sizes in bytes (per second).
#[derive(Debug, PartialEq, Eq)]
struct Bucket {
    rate: u64,
    burst: u32,
    limit: u32,
}

impl Bucket {
    fn of(bits: u64, mtu: u32) -> Bucket {
        let rate = (bits / 8).max(1);
        // A packet larger than the burst would never pass. Ethernet's header counts.
        let packet = u64::from(mtu) + 14;
        let burst = (rate.saturating_mul(BURST_MS) / 1000).max(LARGEST_SEGMENT.min(rate)).max(2 * packet);
        let limit = burst.saturating_add(rate.saturating_mul(LATENCY_MS) / 1000);
        let narrow = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
        Bucket { rate, burst: narrow(burst), limit: narrow(limit) }
    }

    /// TCA_TBF_* of linux/pkt_sched.h.
    fn attributes(&self) -> Vec<TcOption> {
        const TCA_TBF_PARMS: u16 = 1;
        const TCA_TBF_RATE64: u16 = 4;
        const TCA_TBF_BURST: u16 = 6;
        let narrow = u32::try_from(self.rate).unwrap_or(u32::MAX);
        let option = |kind, value: Vec<u8>| TcOption::Other(DefaultNla::new(kind, value));
        // struct tc_tbf_qopt: rate and peakrate (struct tc_ratespec), limit, buffer and mtu. `buffer` is the burst in ticks, which
        // TCA_TBF_BURST says in bytes.
        let mut parameters = rate_specification(narrow).to_vec();
        parameters.extend([0; 12]);
        parameters.extend(self.limit.to_ne_bytes());
        parameters.extend([0; 8]);
        let mut options =
            vec![option(TCA_TBF_PARMS, parameters), option(TCA_TBF_BURST, self.burst.to_ne_bytes().to_vec())];
        if u64::from(narrow) != self.rate {
            options.push(option(TCA_TBF_RATE64, self.rate.to_ne_bytes().to_vec()));
        }
        options
    }
}

/// struct tc_ratespec of linux/pkt_sched.h: cell_log, linklayer, overhead (2 bytes), cell_align (2), mpu (2), rate (4). With a link
/// layer the kernel wants no table of times per packet size.
fn rate_specification(rate: u32) -> [u8; 12] {
    const TC_LINKLAYER_ETHERNET: u8 = 1;
    let mut bytes = [0; 12];
    bytes[1] = TC_LINKLAYER_ETHERNET;
    bytes[8..].copy_from_slice(&rate.to_ne_bytes());
    bytes
}

impl Socket {
    /// Limits what goes through a pod's link. If it fails the `ifb` link is gone again; what was done to the pod's link goes with it.
    pub fn limit(&mut self, limit: &Limit<'_>) -> Result<()> {
        let Limit { link, ifb, .. } = *limit;
        let index = self.index(link)?;
        if let Some(bits) = limit.bandwidth.ingress {
            let what = || format!("limiting what goes to the pod to {bits} bits per second");
            self.token_bucket(link, index, Bucket::of(bits, limit.mtu)).with_context(what)?;
        }
        let Some(bits) = limit.bandwidth.egress else { return Ok(()) };
        let what = || format!("limiting what comes from the pod to {bits} bits per second");
        self.make_ifb(limit).with_context(what)?;
        let Err(error) = self.limit_egress(limit, index, bits).with_context(what) else { return Ok(()) };
        match self.remove_link(ifb) {
            Ok(()) => Err(error),
            Err(undo) => Err(error.context(format!("{undo}, when undoing what had been done before this:"))),
        }
    }

    fn make_ifb(&mut self, limit: &Limit<'_>) -> SysResult<()> {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(limit.ifb.to_string()),
            LinkAttribute::Mtu(limit.mtu),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Ifb)]),
        ];
        self.request(Call::NEW_LINK, &message, limit.ifb)
    }

    fn limit_egress(&mut self, limit: &Limit<'_>, index: u32, bits: u64) -> SysResult<()> {
        let Limit { link, ifb, mtu, .. } = *limit;
        let through = self.index(ifb)?;
        self.set(&quiet(ifb))?;
        self.token_bucket(ifb, through, Bucket::of(bits, mtu))?;
        self.set_link(ifb, through, LinkChange::up())?;
        let mut ingress = queue(index, TcHandle { major: u16::MAX, minor: 0 }, TcHandle::INGRESS);
        ingress.attributes = vec![TcAttribute::Kind("ingress".into())];
        let target = format_args!("{link} ingress");
        self.request(Call::NEW_QUEUE, &ingress, target)?;
        let filter = redirect_all(index, through);
        let target = format_args!("{link} to {ifb}");
        self.request(Call::NEW_FILTER, &filter, target)
    }

    fn token_bucket(&mut self, link: &LinkName, index: u32, bucket: Bucket) -> SysResult<()> {
        let mut message = queue(index, TcHandle { major: 1, minor: 0 }, TcHandle::ROOT);
        message.attributes = vec![TcAttribute::Kind("tbf".into()), TcAttribute::Options(bucket.attributes())];
        self.request(Call::NEW_QUEUE, &message, format_args!("{link} tbf"))
    }
}

fn queue(index: u32, handle: TcHandle, parent: TcHandle) -> TcMessage {
    let mut message = TcMessage::with_index(index.cast_signed());
    message.header.handle = handle;
    message.header.parent = parent;
    message
}

/// Whatever comes in at one link (tc-u32(8), a key that asks for nothing) leaves by another (tc-mirred(8)); an ifb puts it back to
/// where it came in.
fn redirect_all(from: u32, to: u32) -> TcMessage {
    let mut message = queue(from, TcHandle::UNSPEC, TcHandle { major: u16::MAX, minor: 0 });
    // tcm_info is the priority (1) and the protocol: all, in network byte order.
    message.header.info = 1 << 16 | u32::from((libc::ETH_P_ALL as u16).to_be());
    let mut selector = TcU32Selector::default();
    selector.flags = TcU32SelectorFlags::Terminal;
    selector.nkeys = 1;
    selector.keys = vec![TcU32Key::default()];
    let mut mirror = TcMirror::default();
    mirror.generic.action = TcActionType::Stolen;
    mirror.eaction = TcMirrorActionType::EgressRedir;
    mirror.ifindex = to;
    let mut action = TcAction::default();
    action.attributes = vec![
        TcActionAttribute::Kind(TcActionMirror::KIND.into()),
        TcActionAttribute::Options(vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(mirror))]),
    ];
    message.attributes = vec![
        TcAttribute::Kind(TcFilterU32::KIND.into()),
        TcAttribute::Options(vec![
            TcOption::U32(TcFilterU32Option::Selector(selector)),
            TcOption::U32(TcFilterU32Option::Action(vec![action])),
        ]),
    ];
    message
}

#[cfg(test)]
mod buckets {
    use super::*;

    #[test]
    fn sizes() {
        let rows = [
            ("1 Mbit/s: one large segment", 1_000_000, 1500, Bucket { rate: 125_000, burst: 65_536, limit: 68_661 }),
            ("100 Mbit/s: 50 ms", 100_000_000, 1500, Bucket { rate: 12_500_000, burst: 625_000, limit: 937_500 }),
            ("the least, 1 kbit/s: two packets", 1000, 1500, Bucket { rate: 125, burst: 3028, limit: 3031 }),
            ("less than a byte per second", 1, 1500, Bucket { rate: 1, burst: 3028, limit: 3028 }),
            (
                "the most, 1 Pbit/s",
                1_000_000_000_000_000,
                1500,
                Bucket { rate: 125_000_000_000_000, burst: u32::MAX, limit: u32::MAX },
            ),
        ];
        for (name, bits, mtu, expected) in rows {
            assert_eq!(Bucket::of(bits, mtu), expected, "{name}");
        }
        assert_eq!(Bucket::of(u64::MAX, 65_535).limit, u32::MAX);
    }
}

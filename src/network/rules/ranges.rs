//! Addresses as ranges: what blocks without exceptions, and several of them together, come to.

use crate::plan::network::{Family, Subnet};
use std::net::IpAddr;

/// Addresses of one family: ranges, both ends included, sorted, with gaps between them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ranges(Vec<(u128, u128)>);

impl Ranges {
    /// Those of a block without those of the exceptions. `0.0.0.0/0` of IPv4 are all of its addresses.
    pub(super) fn block(block: Subnet, exceptions: &[Subnet]) -> Ranges {
        let mut rest = vec![ends(block)];
        for (from, to) in exceptions.iter().filter(|e| e.family() == block.family()).map(|e| ends(*e)) {
            let without = |(first, last): (u128, u128)| {
                let below = (first < from).then(|| (first, last.min(from.saturating_sub(1))));
                let above = (last > to).then(|| (first.max(to.saturating_add(1)), last));
                [below, above].into_iter().flatten()
            };
            rest = rest.into_iter().flat_map(without).collect();
        }
        Ranges(rest)
    }

    /// Adds an address.
    pub(super) fn add(&mut self, address: IpAddr) {
        self.0.push((number(address), number(address)));
    }

    /// Adds others.
    pub(super) fn extend(&mut self, others: Ranges) {
        self.0.extend(others.0);
    }

    /// All of them, of this family, none twice.
    pub(super) fn merged(mut self, family: Family) -> Vec<(IpAddr, IpAddr)> {
        self.0.sort_unstable();
        let mut merged: Vec<(u128, u128)> = Vec::new();
        for (first, last) in self.0 {
            match merged.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        merged.into_iter().map(|(first, last)| (address(first, family), address(last, family))).collect()
    }
}

fn ends(subnet: Subnet) -> (u128, u128) {
    let first = number(subnet.address());
    let host_bits = u32::from(subnet.family().bits() - subnet.prefix());
    (first, first | u128::MAX.checked_shr(128 - host_bits).unwrap_or(0))
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

fn address(number: u128, family: Family) -> IpAddr {
    match family {
        // They came of addresses of this family.
        Family::V4 => IpAddr::V4((number as u32).into()),
        Family::V6 => IpAddr::V6(number.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(block: &str, exceptions: &[&str]) -> Ranges {
        let exceptions: Vec<Subnet> = exceptions.iter().map(|text| text.parse().unwrap()).collect();
        Ranges::block(block.parse().unwrap(), &exceptions)
    }

    fn shown(ranges: Ranges, family: Family) -> String {
        ranges.merged(family).iter().map(|(a, b)| format!("{a}-{b}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn blocks_and_their_exceptions() {
        let cases = [
            ("10.0.0.0/8", &[][..], "10.0.0.0-10.255.255.255"),
            ("10.0.0.0/8", &["10.0.0.0/8"], ""),
            ("10.0.0.0/8", &["10.0.0.0/9"], "10.128.0.0-10.255.255.255"),
            ("10.0.0.0/8", &["10.255.0.0/16"], "10.0.0.0-10.254.255.255"),
            ("10.0.0.0/30", &["10.0.0.1/32", "10.0.0.2/32"], "10.0.0.0-10.0.0.0 10.0.0.3-10.0.0.3"),
            ("10.0.0.0/24", &["10.0.0.0/25", "10.0.0.64/26"], "10.0.0.128-10.0.0.255"),
            ("10.0.0.0/24", &["11.0.0.0/24"], "10.0.0.0-10.0.0.255"),
            ("0.0.0.0/0", &["10.0.0.0/8"], "0.0.0.0-9.255.255.255 11.0.0.0-255.255.255.255"),
            ("0.0.0.0/0", &["0.0.0.0/1", "128.0.0.0/1"], ""),
        ];
        for (block, exceptions, expected) in cases {
            assert_eq!(shown(of(block, exceptions), Family::V4), expected, "{block} except {exceptions:?}");
        }
        assert_eq!(shown(of("::/0", &["8000::/1"]), Family::V6), "::-7fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
        assert_eq!(shown(of("::/0", &[]), Family::V6), "::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
    }

    #[test]
    fn several_together() {
        let mut all = of("10.0.0.0/24", &["10.0.0.8/32"]);
        all.extend(of("10.0.1.0/24", &[]));
        all.extend(of("10.0.0.0/25", &["10.0.0.8/31"]));
        all.add("10.0.0.8".parse().unwrap());
        all.add("9.0.0.1".parse().unwrap());
        assert_eq!(shown(all, Family::V4), "9.0.0.1-9.0.0.1 10.0.0.0-10.0.1.255");
    }
}

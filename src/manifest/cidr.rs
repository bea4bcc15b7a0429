//! Addresses and blocks of addresses in documents: what the API server takes for fields of old, which is more than their
//! canonical form.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A block of addresses, `address/prefix`. The bits behind the prefix are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cidr {
    address: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// The block that a text names, and whether it had bits behind its prefix, which do not count.
    pub(super) fn parse(text: &str) -> Result<(Cidr, bool), String> {
        const RULE: &str = "must be a block of addresses, like 192.168.1.0/24 or 2001:db8::/64";
        let (address, prefix) = text.split_once('/').ok_or(RULE)?;
        let plain = |prefix: &&str| {
            prefix.bytes().all(|b| b.is_ascii_digit()) && (prefix.len() == 1 || !prefix.starts_with('0'))
        };
        let prefix: u8 = Some(prefix).filter(plain).and_then(|prefix| prefix.parse().ok()).ok_or(RULE)?;
        let written = address.parse::<IpAddr>().map_err(|_| RULE)?;
        if is_mapped(written) {
            return Err(MAPPED.to_owned());
        }
        let bits = if written.is_ipv4() { 32 } else { 128 };
        if prefix > bits {
            return Err(format!("must have a prefix of at most {bits} bits"));
        }
        let address = masked(written, prefix);
        Ok((Cidr { address, prefix }, address != written))
    }

    /// Whether another block is in this one and smaller.
    pub(super) fn strictly_contains(self, other: Cidr) -> bool {
        self.address.is_ipv4() == other.address.is_ipv4()
            && self.prefix < other.prefix
            && masked(other.address, self.prefix) == self.address
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

const MAPPED: &str = "must not be an IPv4 address in the form of an IPv6 address";

fn is_mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            Ipv4Addr::from(u32::from(v4) & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            Ipv6Addr::from(u128::from(v6) & mask).into()
        }
    }
}

/// An address.
pub(super) fn address(text: &str) -> Result<IpAddr, String> {
    let address = text.parse::<IpAddr>().map_err(|_| "must be an IP address".to_owned())?;
    if is_mapped(address) { Err(MAPPED.to_owned()) } else { Ok(address) }
}

/// An address that others than the host itself can reach (ValidateEndpointIP in pkg/apis/core/validation).
pub(super) fn reachable(text: &str) -> Result<(), String> {
    let address = address(text)?;
    let (link_local, link_multicast) = match address {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] & 0xff0f == 0xff02),
    };
    let what = match address {
        _ if address.is_unspecified() => "unspecified",
        _ if address.is_loopback() => "a loopback address",
        _ if link_local => "a link-local address",
        _ if link_multicast => "a link-local multicast address",
        _ => return Ok(()),
    };
    Err(format!("must not be {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(text: &str) -> Cidr {
        Cidr::parse(text).unwrap_or_else(|e| panic!("{text}: {e}")).0
    }

    #[test]
    fn blocks_of_addresses() {
        for (text, shown, has_bits) in [
            ("10.0.0.0/8", "10.0.0.0/8", false),
            ("10.1.2.3/8", "10.0.0.0/8", true),
            ("10.1.2.3/32", "10.1.2.3/32", false),
            ("1.2.3.4/0", "0.0.0.0/0", true),
            ("2001:DB8::/64", "2001:db8::/64", false),
            ("2001:db8::1/64", "2001:db8::/64", true),
            ("::/0", "::/0", false),
        ] {
            let (found, behind) = Cidr::parse(text).unwrap();
            assert_eq!((found.to_string().as_str(), behind), (shown, has_bits), "{text}");
        }
        for wrong in [
            "",
            "10.0.0.0",
            "10.0.0.0/",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/+8",
            "10.0.0.0/08",
            "010.0.0.0/8",
            "a/8",
            "::ffff:10.0.0.0/104",
            "10.0.0.0/8/8",
        ] {
            assert!(Cidr::parse(wrong).is_err(), "{wrong}");
        }
        assert!(block("10.0.0.0/8").strictly_contains(block("10.9.0.0/16")));
        for (outer, inner) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.0.0.0/16", "10.0.0.0/8"),
            ("10.0.0.0/8", "11.0.0.0/16"),
            ("0.0.0.0/0", "::/1"),
        ] {
            assert!(!block(outer).strictly_contains(block(inner)), "{outer} {inner}");
        }
    }

    #[test]
    fn addresses_that_others_reach() {
        for text in ["192.0.2.1", "2001:db8::1", "225.0.0.1"] {
            assert_eq!(reachable(text), Ok(()), "{text}");
        }
        for text in [
            "0.0.0.0",
            "::",
            "127.0.0.2",
            "::1",
            "169.254.1.1",
            "fe80::1",
            "224.0.0.5",
            "ff12::1",
            "::ffff:1.2.3.4",
            "host",
        ] {
            assert!(reachable(text).is_err(), "{text}");
        }
    }
}

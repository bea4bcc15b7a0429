//! Names and hardware addresses of links.

use crate::plan::network::POD_INTERFACE;
use sha2::{Digest, Sha256};
use std::fmt;
use std::str::FromStr;

/// A link's name that is also one component of a path below `/proc/sys/net`: 1 to 15 bytes (`IFNAMSIZ` of linux/if.h, less the
/// NUL) of `a-z A-Z 0-9 . _ -`; not `.` or `..`, and neither `all` nor `default`, which are no links there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkName(String);

impl LinkName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `lo`
    pub(super) fn loopback() -> LinkName {
        LinkName("lo".into())
    }

    /// `eth0`
    pub(super) fn pod_interface() -> LinkName {
        LinkName(POD_INTERFACE.into())
    }
}

impl FromStr for LinkName {
    type Err = String;

    fn from_str(name: &str) -> Result<LinkName, String> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        match name {
            "" => Err("a link's name may not be empty".into()),
            _ if name.len() > 15 => Err(format!("{name:?} is no link's name: it may have 15 bytes at most")),
            "." | ".." | "all" | "default" => Err(format!("{name:?} is no link's name")),
            _ if name.bytes().all(allowed) => Ok(LinkName(name.to_owned())),
            _ => Err(format!("{name:?} is no link's name: it may have letters, digits, '.', '_' and '-' only")),
        }
    }
}

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// A locally administered unicast address (IEEE 802) that is always the same for the same text. A bridge's is of its name, a
    /// pod's of its first address: who made a note of it at an earlier one's time is still right.
    pub fn of(text: &impl fmt::Display) -> Mac {
        let digest = Sha256::digest(text.to_string());
        Mac([digest[0] & 0xfc | 0x02, digest[1], digest[2], digest[3], digest[4], digest[5]])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// The host's end of a pod's veth pair, by the pod's uid. Its beginning is what udev and NetworkManager know to leave alone.
pub fn veth_name(uid: &str) -> LinkName {
    of_uid("veth", uid)
}

/// The link through which what a pod sends is slowed down.
pub fn ifb_name(uid: &str) -> LinkName {
    of_uid("ifbp", uid)
}

/// 44 bits of a digest: a uid may be any text.
fn of_uid(prefix: &str, uid: &str) -> LinkName {
    let hex: String = Sha256::digest(uid).iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    LinkName(format!("{prefix}{}", &hex[..11]))
}

#[cfg(test)]
mod names {
    use super::*;

    #[test]
    fn link_names() {
        for good in ["podshim0", "a", "br-1_2.3", "fifteen-bytes-1"] {
            assert_eq!(good.parse::<LinkName>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "all", "default", "a/b", "../all", "a b", "a\n", "ü", "sixteen-bytes-12", "a:0"] {
            assert!(bad.parse::<LinkName>().is_err(), "{bad:?}");
        }
        for uid in ["", "0c5a…/../", "7b4cf0f6-7b4c-4b3e-9df5-8f3a2f0f9b11"] {
            for name in [veth_name(uid), ifb_name(uid)] {
                assert_eq!(name.as_str().parse::<LinkName>(), Ok(name.clone()));
                assert_eq!(name.as_str().len(), 15);
            }
        }
        assert_ne!(veth_name("a"), veth_name("b"));
        assert_eq!(veth_name("a"), veth_name("a"));
    }

    #[test]
    fn hardware_addresses_are_unicast_and_locally_administered() {
        for text in 0..64 {
            assert_eq!(Mac::of(&text).0[0] & 3, 2, "{}", Mac::of(&text));
        }
        assert_ne!(Mac::of(&"10.86.0.3"), Mac::of(&"10.86.0.4"));
        assert_eq!(Mac([2, 0, 10, 255, 0, 1]).to_string(), "02:00:0a:ff:00:01");
    }
}

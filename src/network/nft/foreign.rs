//! Other people's firewalls. A packet goes through the chains of all tables on a hook, and one that drops it is enough: that we
//! accept it does not help. So what we need must be allowed where it is forbidden.

use super::encode::{comment_data, expression};
use super::message::{Attributes, Writer};
use super::transport::{Batch, Found, Object, Socket};
use super::{TableFamily, again};
use crate::sys::SysResult;
use std::fmt;

/// The table of `iptables-nft` that filters.
const TABLE: &str = "filter";
const FORWARD: &str = "FORWARD";
/// Where docker's users put rules ahead of docker's own; docker creates it, and leaves what is in it alone.
const DOCKER_USER: &str = "DOCKER-USER";
const FAMILIES: [TableFamily; 2] = [TableFamily::Ip, TableFamily::Ip6];

/// Something that may keep pods from reaching others, which its owner has to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hindrance {
    /// firewalld rejects what is forwarded from or to a link that is in no zone, and overwrites whatever else is put into its
    /// table (which from firewalld 2.1 on is its own so that nobody else can).
    Firewalld {
        /// The bridge that is in no zone.
        bridge: String,
    },
}

impl fmt::Display for Hindrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hindrance::Firewalld { bridge } => write!(
                f,
                "firewalld is active and {bridge} is in none of its zones: it may reject what pods send and receive. This lets \
                 it pass: firewall-cmd --zone=trusted --add-interface={bridge} && firewall-cmd --permanent --zone=trusted \
                 --add-interface={bridge}"
            ),
        }
    }
}

/// The two rules for a bridge.
#[derive(Clone, Copy)]
enum Permit {
    /// What pods send.
    From,
    /// What answers them, and what is sent to their published ports.
    To,
}

impl Permit {
    const ALL: [Permit; 2] = [Permit::From, Permit::To];

    /// What marks the rule, so that it is found again.
    fn comment(self, bridge: &str) -> String {
        match self {
            Permit::From => format!("podshim: from {bridge}"),
            Permit::To => format!("podshim: to {bridge}"),
        }
    }
}

/// Has the tables of `iptables-nft` let packets from and to a bridge through, if they drop what is forwarded unless a rule
/// accepts it, as docker and ufw have them do. What is let through to the bridge are answers, and connections that were given
/// another destination (the ports of Services and of hosts): not what others send to pods unasked. Rules that are there are not
/// made again.
///
/// # Errors
/// What the kernel says of a rule.
pub fn permit_forwarding(bridge: &str) -> SysResult<Option<Hindrance>> {
    again(|socket| {
        let mut batch = Batch::new(socket.generation()?);
        for family in FAMILIES {
            let Some(chain) = entrance(&socket.chains(family, TABLE)?) else { continue };
            let present = marked(socket, family)?;
            for permit in Permit::ALL {
                let comment = permit.comment(bridge);
                if present.iter().any(|rule| rule.comment == comment) {
                    continue;
                }
                let object = Object::rule("NFT_MSG_NEWRULE", family, TABLE, chain);
                batch.push_first(object, |w| write(w, chain, permit, bridge));
            }
        }
        socket.commit(batch)?;
        firewalld(socket, bridge)
    })
}

/// Takes those rules away. What is not there is no error.
pub fn forbid_forwarding(bridge: &str) -> SysResult<()> {
    again(|socket| {
        let mut batch = Batch::new(socket.generation()?);
        for family in FAMILIES {
            for rule in marked(socket, family)? {
                if Permit::ALL.iter().any(|permit| permit.comment(bridge) == rule.comment) {
                    let object = Object::rule("NFT_MSG_DELRULE", family, TABLE, &rule.chain);
                    batch.push(object, |w| {
                        w.text(1, TABLE);
                        w.text(2, &rule.chain);
                        w.bytes(3, &rule.handle);
                    });
                }
            }
        }
        socket.commit(batch)
    })
}

/// The chain that a rule for forwarding belongs in, if there is need of one.
fn entrance(chains: &[Found]) -> Option<&'static str> {
    let drops = |chain: &Found| {
        chain.name == FORWARD
            && chain.hook == Some(super::Hook::Forward.number())
            && chain.policy == Some(libc::NF_DROP as u32)
    };
    chains
        .iter()
        .any(drops)
        .then(|| if chains.iter().any(|chain| chain.name == DOCKER_USER) { DOCKER_USER } else { FORWARD })
}

/// A rule with a comment.
struct Marked {
    chain: String,
    /// Its handle, as the kernel has it.
    handle: Vec<u8>,
    comment: String,
}

/// The rules of the table that have a comment.
fn marked(socket: &Socket, family: TableFamily) -> SysResult<Vec<Marked>> {
    let mut found = Vec::new();
    socket.list("NFT_MSG_GETRULE", family, |message| {
        let attributes = message.attributes();
        if attributes.text(1) == Some(TABLE)
            && let (Some(chain), Some(handle), Some(data)) = (attributes.text(2), attributes.get(3), attributes.get(7))
            && let Some(comment) = comment(data)
        {
            found.push(Marked { chain: chain.to_owned(), handle: handle.to_owned(), comment });
        }
    })?;
    Ok(found)
}

/// The comment among a rule's user data: type 0 of libnftnl's list of (type, length, value).
fn comment(data: &[u8]) -> Option<String> {
    let mut rest = data;
    while let [kind, length, behind @ ..] = rest {
        let value = behind.get(..usize::from(*length))?;
        if *kind == 0 {
            return String::from_utf8(value.strip_suffix(b"\0").unwrap_or(value).to_vec()).ok();
        }
        rest = &behind[value.len()..];
    }
    None
}

/// A rule in the form that iptables-nft itself writes: in a table with any other, `iptables -L` gives up ("table is
/// incompatible"), and docker with it.
fn write(w: &mut Writer, chain: &str, permit: Permit, bridge: &str) {
    // NFT_REG_1
    const REGISTER: u32 = 1;
    w.text(1, TABLE);
    w.text(2, chain);
    w.nested(4, |w| {
        expression(w, "meta", |w| {
            w.number(1, REGISTER);
            // NFT_META_IIFNAME, NFT_META_OIFNAME
            w.number(2, if matches!(permit, Permit::From) { 6 } else { 7 });
        });
        expression(w, "cmp", |w| {
            w.number(1, REGISTER);
            w.number(2, 0);
            let name = [bridge.as_bytes(), &[0]].concat();
            w.nested(3, |w| w.bytes(1, &name));
        });
        if let Permit::To = permit {
            expression(w, "match", |w| {
                w.text(1, "conntrack");
                w.number(2, 3);
                w.bytes(3, &conntrack());
            });
        }
        // Packets and bytes.
        expression(w, "counter", |w| {
            w.long(1, 0);
            w.long(2, 0);
        });
        expression(w, "immediate", |w| {
            w.number(1, 0);
            w.nested(2, |w| w.nested(2, |w| w.number(1, libc::NF_ACCEPT as u32)));
        });
    });
    w.bytes(7, &comment_data(&permit.comment(bridge)));
}

/// `-m conntrack --ctstate ESTABLISHED,RELATED,DNAT`: struct xt_conntrack_mtinfo3 of `linux/netfilter/xt_conntrack.h`, of 164
/// bytes and aligned to 8.
fn conntrack() -> [u8; 168] {
    // XT_CONNTRACK_STATE; XT_CONNTRACK_STATE_BIT(IP_CT_ESTABLISHED), of IP_CT_RELATED, XT_CONNTRACK_STATE_DNAT
    const STATE: u16 = 1;
    const STATES: u16 = 1 << 1 | 1 << 2 | 1 << 7;
    // Eight addresses, two times of expiry, a protocol and four ports are not compared.
    const FLAGS_AT: usize = 8 * 16 + 2 * 4 + 5 * 2;
    let mut info = [0; 168];
    info[FLAGS_AT..FLAGS_AT + 2].copy_from_slice(&STATE.to_ne_bytes());
    info[FLAGS_AT + 4..FLAGS_AT + 6].copy_from_slice(&STATES.to_ne_bytes());
    info
}

/// Whether firewalld's rules are there, none of which names the bridge: it is in no zone.
fn firewalld(socket: &Socket, bridge: &str) -> SysResult<Option<Hindrance>> {
    const FIREWALLD: &str = "firewalld";
    if !socket.tables(TableFamily::Inet)?.contains(FIREWALLD) {
        return Ok(None);
    }
    let mut named = false;
    socket.list("NFT_MSG_GETRULE", TableFamily::Inet, |message| {
        let attributes = message.attributes();
        if attributes.text(1) == Some(FIREWALLD)
            && let Some(expressions) = attributes.nested(4)
        {
            named |= expressions.all(1).any(|expression| compares(expression, bridge));
        }
    })?;
    Ok((!named).then(|| Hindrance::Firewalld { bridge: bridge.to_owned() }))
}

/// Whether an expression compares with a link's name.
fn compares(expression: Attributes<'_>, link: &str) -> bool {
    let value = || expression.nested(2)?.nested(3)?.get(1);
    expression.text(1) == Some("cmp")
        && value().is_some_and(|value| value.split(|byte| *byte == 0).next() == Some(link.as_bytes()))
}

//! Tables, chains, sets and rules as plain values. They print as `nft list ruleset` would, nearly.

use super::value::{Field, Kind, Value};
use crate::plan::network::{Family, Subnet};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

/// Everything that is applied at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// The tables. Each is replaced as a whole.
    pub tables: Vec<Table>,
}

/// The family of a table: which packets it sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableFamily {
    /// IPv4 and IPv6.
    Inet,
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// Frames on bridges.
    Bridge,
}

impl TableFamily {
    /// `NFPROTO_*`
    pub(super) fn number(self) -> u8 {
        let number = match self {
            TableFamily::Inet => libc::NFPROTO_INET,
            TableFamily::Ip => libc::NFPROTO_IPV4,
            TableFamily::Ip6 => libc::NFPROTO_IPV6,
            TableFamily::Bridge => libc::NFPROTO_BRIDGE,
        };
        number as u8
    }
}

impl fmt::Display for TableFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TableFamily::Inet => "inet",
            TableFamily::Ip => "ip",
            TableFamily::Ip6 => "ip6",
            TableFamily::Bridge => "bridge",
        })
    }
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Which packets it sees.
    pub family: TableFamily,
    /// Its name.
    pub name: String,
    /// Its sets and maps.
    pub sets: Vec<Set>,
    /// Its chains.
    pub chains: Vec<Chain>,
}

/// A chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// Where packets enter it; `None` of one that is only jumped to.
    pub base: Option<Base>,
    /// Its rules, in this order.
    pub rules: Vec<Rule>,
}

/// What makes a chain a base chain. The policy is always to accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    /// filter or nat.
    pub kind: ChainKind,
    /// The hook.
    pub hook: Hook,
    /// The order among all chains on the hook: lower is earlier.
    pub priority: i32,
}

/// The type of a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainKind {
    /// `type filter`
    Filter,
    /// `type nat`: sees the first packet of a connection only.
    Nat,
}

/// A hook of netfilter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// What arrives, before it is routed.
    Prerouting,
    /// What is for the host itself.
    Input,
    /// What is routed through the host.
    Forward,
    /// What the host itself sends.
    Output,
    /// What leaves.
    Postrouting,
}

impl Hook {
    /// `NF_INET_*`, which `NF_BR_*` agree with.
    pub(super) fn number(self) -> u32 {
        match self {
            Hook::Prerouting => 0,
            Hook::Input => 1,
            Hook::Forward => 2,
            Hook::Output => 3,
            Hook::Postrouting => 4,
        }
    }
}

/// A rule: its statements apply in turn, until one does not match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    /// What it does.
    pub statements: Vec<Statement>,
    /// For whoever lists it; at most 128 bytes.
    pub comment: Option<String>,
}

impl From<Vec<Statement>> for Rule {
    fn from(statements: Vec<Statement>) -> Rule {
        Rule { statements, comment: None }
    }
}

/// One statement of a rule. What a field needs to be there (`ip saddr` a packet of IPv4) is added where it is encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    /// The field has this value.
    Is(Field, Value),
    /// It has not.
    IsNot(Field, Value),
    /// The address is in this subnet.
    Within(Field, Subnet),
    /// It is not.
    NotWithin(Field, Subnet),
    /// The field is between these, both included.
    Between(Field, Value, Value),
    /// Any of these bits is set.
    AnyBit(Field, Value),
    /// The fields, as one key, are in this set.
    In(Vec<Field>, String),
    /// They are not.
    NotIn(Vec<Field>, String),
    /// What the verdict map has for the key; nothing if it has nothing.
    Verdicts(Key, String),
    /// What a map has for the field is in this set: map, set.
    Leads(Field, String, String),
    /// Has a map of kind [`Content::Learned`] lead from the field to what another map has for the key, for a while from now. If
    /// it leads somewhere already, it goes on to lead there.
    Learn(Field, String, Key, String),
    /// Likewise, wherever it led before.
    Relearn(Field, String, Key, String),
    /// Sets bits of the packet's mark.
    Mark(u32),
    /// Gives the connection another destination: the address and port that the map has for the key.
    Dnat(Family, Key, String),
    /// Gives the connection the address of the link it leaves by as its source.
    Masquerade,
    /// Refuses with a TCP reset.
    Reset,
    /// Refuses with ICMP port unreachable, of the packet's family.
    Unreachable,
    /// Ends here, or goes on elsewhere.
    Verdict(Verdict),
}

/// What is looked up in a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// These fields.
    Fields(Vec<Field>),
    /// `numgen inc mod N`: 0 to N-1 in turn.
    Turn(u32),
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The hook's chain is done; others of the same hook go on.
    Accept,
    /// It is gone.
    Drop,
    /// Goes on in this chain, and comes back.
    Jump(String),
    /// Goes on in this chain.
    Goto(String),
}

/// A set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Its name.
    pub name: String,
    /// The types that make up a key.
    pub key: Vec<Kind>,
    /// What is in it.
    pub content: Content,
}

/// What is in a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Keys.
    Keys(Vec<Vec<Value>>),
    /// Ranges of addresses, both ends included, sorted, with gaps between them.
    Ranges(Vec<(IpAddr, IpAddr)>),
    /// Keys and values.
    Map(Vec<Kind>, Vec<(Vec<Value>, Vec<Value>)>),
    /// Keys and verdicts.
    Verdicts(Vec<(Vec<Value>, Verdict)>),
    /// A map with nothing at first: rules add to it, and what is not learned again for this long goes. It is kept, with what is
    /// in it, when its table is replaced by one that has a set of the same name; so the name must say its types and the timeout.
    Learned(Vec<Kind>, Duration),
}

impl fmt::Display for Ruleset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tables.iter().try_for_each(|table| write!(f, "{table}"))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table {} {} {{", self.family, self.name)?;
        for set in &self.sets {
            write!(f, "{set}")?;
        }
        for chain in &self.chains {
            write!(f, "{chain}")?;
        }
        writeln!(f, "}}")
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\tchain {} {{", self.name)?;
        if let Some(base) = self.base {
            let kind = if base.kind == ChainKind::Nat { "nat" } else { "filter" };
            let hook = format!("{:?}", base.hook).to_lowercase();
            writeln!(f, "\t\ttype {kind} hook {hook} priority {}; policy accept;", base.priority)?;
        }
        for rule in &self.rules {
            writeln!(f, "\t\t{rule}")?;
        }
        writeln!(f, "\t}}")
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&joined(&self.statements, " "))?;
        self.comment.iter().try_for_each(|comment| write!(f, " comment \"{comment}\""))
    }
}

fn joined<T: fmt::Display>(parts: &[T], between: &str) -> String {
    parts.iter().map(T::to_string).collect::<Vec<_>>().join(between)
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Fields(fields) => f.write_str(&joined(fields, " . ")),
            Key::Turn(modulus) => write!(f, "numgen inc mod {modulus}"),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Accept => f.write_str("accept"),
            Verdict::Drop => f.write_str("drop"),
            Verdict::Jump(chain) => write!(f, "jump {chain}"),
            Verdict::Goto(chain) => write!(f, "goto {chain}"),
        }
    }
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Statement::AnyBit(Field::Mark, bits) => write!(f, "meta mark & {bits} != 0"),
            Statement::Is(field, value) | Statement::AnyBit(field, value) => write!(f, "{field} {value}"),
            Statement::IsNot(field, value) => write!(f, "{field} != {value}"),
            Statement::Within(field, subnet) => write!(f, "{field} {subnet}"),
            Statement::NotWithin(field, subnet) => write!(f, "{field} != {subnet}"),
            Statement::Between(field, from, to) => write!(f, "{field} {from}-{to}"),
            Statement::In(fields, set) => write!(f, "{} @{set}", joined(fields, " . ")),
            Statement::NotIn(fields, set) => write!(f, "{} != @{set}", joined(fields, " . ")),
            Statement::Verdicts(key, map) => write!(f, "{key} vmap @{map}"),
            Statement::Leads(field, map, set) => write!(f, "{field} map @{map} @{set}"),
            Statement::Learn(field, map, key, from) => write!(f, "update @{map} {{ {field} : {key} map @{from} }}"),
            Statement::Relearn(field, map, key, from) => {
                write!(f, "delete @{map} {{ {field} }} update @{map} {{ {field} : {key} map @{from} }}")
            }
            Statement::Mark(bits) => write!(f, "meta mark set meta mark | {bits:#x}"),
            Statement::Dnat(Family::V4, key, map) => write!(f, "dnat ip to {key} map @{map}"),
            Statement::Dnat(Family::V6, key, map) => write!(f, "dnat ip6 to {key} map @{map}"),
            Statement::Masquerade => f.write_str("masquerade fully-random"),
            Statement::Reset => f.write_str("reject with tcp reset"),
            Statement::Unreachable => f.write_str("reject"),
            Statement::Verdict(verdict) => write!(f, "{verdict}"),
        }
    }
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = joined(&self.key, " . ");
        let (word, kind, flags) = match &self.content {
            Content::Keys(_) => ("set", key, String::new()),
            Content::Ranges(_) => ("set", key, "\t\tflags interval\n".to_owned()),
            Content::Map(to, _) => ("map", format!("{key} : {}", joined(to, " . ")), String::new()),
            Content::Verdicts(_) => ("map", format!("{key} : verdict"), String::new()),
            Content::Learned(to, timeout) => {
                let kind = format!("{key} : {}", joined(to, " . "));
                let size = format!("\t\tsize {}\n\t\tflags dynamic,timeout\n", super::encode::LEARNED_SIZE);
                ("map", kind, format!("{size}\t\ttimeout {}s\n", timeout.as_secs()))
            }
        };
        writeln!(f, "\t{word} {} {{\n\t\ttype {kind}", self.name)?;
        f.write_str(&flags)?;
        let elements: Vec<String> = match &self.content {
            Content::Keys(keys) => keys.iter().map(|key| joined(key, " . ")).collect(),
            Content::Ranges(ranges) => ranges.iter().map(|(from, to)| format!("{from}-{to}")).collect(),
            Content::Map(_, elements) => {
                elements.iter().map(|(key, to)| format!("{} : {}", joined(key, " . "), joined(to, " . "))).collect()
            }
            Content::Verdicts(elements) => {
                elements.iter().map(|(key, to)| format!("{} : {to}", joined(key, " . "))).collect()
            }
            Content::Learned(..) => Vec::new(),
        };
        if !elements.is_empty() {
            writeln!(f, "\t\telements = {{ {} }}", elements.join(", "))?;
        }
        writeln!(f, "\t}}")
    }
}

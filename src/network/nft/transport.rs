//! Requests to nf_tables: batches, and lists of what there is.

use super::TableFamily;
use super::message::{Head, Message, Writer};
use super::table::Table;
use crate::sys::netfilter::{self, Wait};
use crate::sys::{SysError, SysResult};
use nix::errno::Errno;
use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};

/// `NFNL_SUBSYS_NFTABLES`
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

/// The messages of nf_tables, by number.
const MESSAGES: [&str; 17] = [
    "NFT_MSG_NEWTABLE",
    "NFT_MSG_GETTABLE",
    "NFT_MSG_DELTABLE",
    "NFT_MSG_NEWCHAIN",
    "NFT_MSG_GETCHAIN",
    "NFT_MSG_DELCHAIN",
    "NFT_MSG_NEWRULE",
    "NFT_MSG_GETRULE",
    "NFT_MSG_DELRULE",
    "NFT_MSG_NEWSET",
    "NFT_MSG_GETSET",
    "NFT_MSG_DELSET",
    "NFT_MSG_NEWSETELEM",
    "NFT_MSG_GETSETELEM",
    "NFT_MSG_DELSETELEM",
    "NFT_MSG_NEWGEN",
    "NFT_MSG_GETGEN",
];

fn message_type(call: &str) -> u16 {
    let number = MESSAGES.iter().position(|name| *name == call).expect("a message of nf_tables");
    SUBSYSTEM << 8 | number as u16
}

/// What a message of a batch is about, for errors.
pub(super) struct Object {
    call: &'static str,
    family: TableFamily,
    target: String,
}

impl Object {
    /// A table.
    pub(super) fn table(call: &'static str, family: TableFamily, name: &str) -> Object {
        Object { call, family, target: format!("{family} {name}") }
    }

    /// A rule in a chain of somebody else's table.
    pub(super) fn rule(call: &'static str, family: TableFamily, table: &str, chain: &str) -> Object {
        Object { call, family, target: format!("{family} {table}/{chain}") }
    }

    /// Something in a table.
    pub(super) fn within(call: &'static str, table: &Table, name: &str) -> Object {
        Object { call, family: table.family, target: format!("{} {}/{name}", table.family, table.name) }
    }
}

/// Changes that the kernel makes at once.
pub(super) struct Batch {
    writer: Writer,
    /// The message with number `n` is about the `n-1`th: the bounds have number 0.
    objects: Vec<Object>,
    generation: u32,
    ids: u32,
}

impl Batch {
    /// An empty one, which is refused (`ERESTART`) once the rules are not of this generation any more.
    pub(super) fn new(generation: u32) -> Batch {
        let mut writer = Writer::default();
        // NFNL_BATCH_GENID
        writer.message(bound(BATCH_BEGIN), |w| w.number(1, generation));
        Batch { writer, objects: Vec::new(), generation, ids: 0 }
    }

    /// A number that no other set has.
    pub(super) fn next_id(&mut self) -> u32 {
        self.ids += 1;
        self.ids
    }

    /// Adds a message. A thing that is to be new must not be there; a rule comes behind those that are there.
    pub(super) fn push(&mut self, object: Object, body: impl FnOnce(&mut Writer)) {
        let new = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        let flags = match object.call {
            // One that is only emptied is there already.
            "NFT_MSG_NEWTABLE" => libc::NLM_F_CREATE,
            "NFT_MSG_NEWRULE" => libc::NLM_F_CREATE | libc::NLM_F_APPEND,
            call if call.starts_with("NFT_MSG_NEW") => new,
            _ => 0,
        };
        self.push_with(object, flags, body);
    }

    /// Adds a rule ahead of those that are there.
    pub(super) fn push_first(&mut self, object: Object, body: impl FnOnce(&mut Writer)) {
        self.push_with(object, libc::NLM_F_CREATE, body);
    }

    fn push_with(&mut self, object: Object, flags: i32, body: impl FnOnce(&mut Writer)) {
        self.objects.push(object);
        let object = &self.objects[self.objects.len() - 1];
        let head = Head {
            kind: message_type(object.call),
            flags: (libc::NLM_F_REQUEST | flags) as u16,
            sequence: u32::try_from(self.objects.len()).unwrap_or(u32::MAX),
            family: object.family.number(),
            resource: 0,
        };
        self.writer.message(head, body);
    }

    /// Whether it changes anything.
    pub(super) fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// The error of a message.
    fn error(&self, sequence: u32, errno: i32) -> SysError {
        let at = sequence.checked_sub(1).and_then(|n| self.objects.get(n as usize));
        let (call, target) = match at {
            Some(object) => (object.call, object.target.clone()),
            None => ("NFNL_MSG_BATCH_BEGIN", format!("nftables, generation {}", self.generation)),
        };
        SysError { call: call.to_owned(), target, errno }
    }
}

fn bound(kind: u16) -> Head {
    Head { kind, flags: libc::NLM_F_REQUEST as u16, sequence: 0, family: 0, resource: SUBSYSTEM }
}

/// A chain that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// Its name.
    pub name: String,
    /// The hook of a base chain.
    pub hook: Option<u32>,
    /// The policy of a base chain, `NF_DROP` or `NF_ACCEPT`.
    pub policy: Option<u32>,
}

/// A request for answers.
#[derive(Clone, Copy)]
pub(super) struct Question<'a> {
    call: &'a str,
    family: u8,
    flags: i32,
}

impl Question<'_> {
    /// For everything of a kind that a family has.
    pub(super) fn list(call: &str, family: TableFamily) -> Question<'_> {
        Question { call, family: family.number(), flags: libc::NLM_F_DUMP }
    }
}

/// A connection to nf_tables of one network namespace.
pub(super) struct Socket(OwnedFd);

impl Socket {
    /// To that of the calling thread.
    pub(super) fn open() -> SysResult<Socket> {
        netfilter::open().map(Socket)
    }

    /// Makes the changes of a batch; all of them or none.
    pub(super) fn commit(&self, mut batch: Batch) -> SysResult<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let last = batch.objects.len() as u32;
        let mut writer = std::mem::take(&mut batch.writer);
        // The kernel says nothing of what goes well unless it is asked to, and this is asked to be the last it tells.
        writer.acknowledge_last();
        writer.message(bound(BATCH_END), |_| ());
        netfilter::send(self.0.as_fd(), &writer.into_bytes())?;
        let mut done = false;
        let mut failed = None;
        while let Some(datagram) = netfilter::receive(self.0.as_fd(), Wait::No)? {
            for message in Message::all(&datagram)? {
                match message.errno() {
                    _ if message.kind != libc::NLMSG_ERROR as u16 => {}
                    0 => done |= message.sequence == last,
                    // What follows the first is of no use: it may fail only because of that.
                    errno => failed = failed.or_else(|| Some(batch.error(message.sequence, errno))),
                }
            }
        }
        match failed {
            Some(error) => Err(error),
            None if done => Ok(()),
            None => Err(batch.error(0, libc::EBADMSG)),
        }
    }

    /// The number of the rules' present generation.
    pub(super) fn generation(&self) -> SysResult<u32> {
        let mut found = None;
        // Only a list ends by itself.
        let question = Question { call: "NFT_MSG_GETGEN", family: 0, flags: libc::NLM_F_ACK };
        self.ask(question, |_| (), |message| found = found.or(message.attributes().number(1)))?;
        found.ok_or_else(|| SysError::new("NFT_MSG_GETGEN", "nftables", Errno::EBADMSG))
    }

    /// The names of all tables of a family.
    pub(super) fn tables(&self, family: TableFamily) -> SysResult<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        self.list("NFT_MSG_GETTABLE", family, |message| {
            names.extend(message.attributes().text(1).map(str::to_owned));
        })?;
        Ok(names)
    }

    /// The names of a table's sets.
    pub(super) fn sets(&self, family: TableFamily, table: &str) -> SysResult<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        self.list("NFT_MSG_GETSET", family, |message| {
            let attributes = message.attributes();
            if attributes.text(1) == Some(table) {
                names.extend(attributes.text(2).map(str::to_owned));
            }
        })?;
        Ok(names)
    }

    /// A table's chains.
    pub(super) fn chains(&self, family: TableFamily, table: &str) -> SysResult<Vec<Found>> {
        let mut chains = Vec::new();
        self.list("NFT_MSG_GETCHAIN", family, |message| {
            let attributes = message.attributes();
            if let (Some(found), Some(name)) = (attributes.text(1), attributes.text(3))
                && found == table
            {
                let hook = attributes.nested(4).and_then(|hook| hook.number(1));
                chains.push(Found { name: name.to_owned(), hook, policy: attributes.number(5) });
            }
        })?;
        Ok(chains)
    }

    /// Everything of a kind that a family has.
    pub(super) fn list(&self, call: &str, family: TableFamily, each: impl FnMut(Message<'_>)) -> SysResult<()> {
        self.ask(Question::list(call, family), |_| (), each)
    }

    /// Asks, and hands over each answer. `EINTR`: what was being listed has changed meanwhile.
    pub(super) fn ask(
        &self,
        question: Question<'_>,
        request: impl FnOnce(&mut Writer),
        mut each: impl FnMut(Message<'_>),
    ) -> SysResult<()> {
        const SEQUENCE: u32 = 1;
        let mut writer = Writer::default();
        let Question { call, family, flags } = question;
        let flags = (libc::NLM_F_REQUEST | flags) as u16;
        let head = Head { kind: message_type(call), flags, sequence: SEQUENCE, family, resource: 0 };
        writer.message(head, request);
        netfilter::send(self.0.as_fd(), &writer.into_bytes())?;
        let mut interrupted = false;
        while let Some(datagram) = netfilter::receive(self.0.as_fd(), Wait::ForOne)? {
            for message in Message::all(&datagram)?.into_iter().filter(|message| message.sequence == SEQUENCE) {
                interrupted |= i32::from(message.flags) & libc::NLM_F_DUMP_INTR != 0;
                let kind = i32::from(message.kind);
                let errno = message.errno();
                if errno != 0 {
                    return Err(SysError { call: call.to_owned(), target: "nftables".to_owned(), errno });
                }
                if kind != libc::NLMSG_DONE && kind != libc::NLMSG_ERROR {
                    each(message);
                } else if interrupted {
                    return Err(SysError::new(call, "nftables", Errno::EINTR));
                } else {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

//! nftables by nfnetlink: tables as plain values, put in place at once.
//!
//! [`apply`] replaces whole tables in one batch, which the kernel takes as a whole or not at all; there is no moment with
//! neither the old rules nor the new. An error names the object it is about. Nothing here knows what the rules are for.

mod encode;
mod foreign;
mod message;
mod table;
#[cfg(test)]
mod tests;
mod transport;
mod value;

pub use foreign::{Hindrance, forbid_forwarding, permit_forwarding};
pub use table::{
    Base, Chain, ChainKind, Content, Hook, Key, Rule, Ruleset, Set, Statement, Table, TableFamily, Verdict,
};
pub use value::{ARP, ESTABLISHED, Field, ICMP, ICMPV6, INVALID, Kind, LOCAL, RELATED, Value, ether_type};

use crate::sys::{SysError, SysResult};
use std::collections::BTreeSet;
use std::time::Duration;
use transport::{Batch, Object, Socket};

/// How often a change is tried: others change their own tables meanwhile, and the kernel tells us to look again.
const TRIES: usize = 50;

/// Puts the tables in place, each instead of the one of its name. Sets of kind [`Content::Learned`] that are in the new table
/// too stay as they are.
///
/// # Errors
/// What the kernel says, with the message that it says it of: `NFT_MSG_NEWRULE inet podshim_br0/forward: … (ENOENT)`. Nothing is
/// changed then.
pub fn apply(ruleset: &Ruleset) -> SysResult<()> {
    again(|socket| {
        let mut batch = Batch::new(socket.generation()?);
        for table in &ruleset.tables {
            let kept = clear(socket, &mut batch, table)?;
            add(&mut batch, table, &kept);
        }
        socket.commit(batch)
    })
}

/// Removes tables with all that is in them, at once: the kernel takes some milliseconds for each batch that removes something
/// (synchronize_rcu). One that is gone already is removed.
pub fn remove(tables: &[(TableFamily, String)]) -> SysResult<()> {
    again(|socket| {
        // None of them can go meanwhile: then these are not the rules of this generation any more.
        let mut batch = Batch::new(socket.generation()?);
        for (family, name) in tables {
            if socket.tables(*family)?.contains(name) {
                batch.push(Object::table("NFT_MSG_DELTABLE", *family, name), |w| w.text(1, name));
            }
        }
        socket.commit(batch)
    })
}

/// Tries until nobody interferes.
fn again<T>(attempt: impl Fn(&Socket) -> SysResult<T>) -> SysResult<T> {
    let mut tries = 0;
    loop {
        tries += 1;
        // A socket of its own: what is left unread of one attempt is no answer to the next.
        match Socket::open().and_then(|socket| attempt(&socket)) {
            // ERESTART: the rules are of another generation than we looked at. EINTR: they changed while they were listed.
            // ENOENT: what we saw is gone, as after `nft flush ruleset`.
            Err(error) if tries < TRIES && is_passing(&error) => std::thread::sleep(Duration::from_millis(2)),
            other => return other,
        }
    }
}

fn is_passing(error: &SysError) -> bool {
    matches!(error.errno, libc::ERESTART | libc::EINTR | libc::EBUSY | libc::EAGAIN)
        || error.errno == libc::ENOENT && error.call.contains("_DEL")
}

/// Writes what removes everything in a table but the learned sets that it is to have again, and returns those.
fn clear(socket: &Socket, batch: &mut Batch, table: &Table) -> SysResult<BTreeSet<String>> {
    let (family, name) = (table.family, table.name.as_str());
    if !socket.tables(family)?.contains(name) {
        return Ok(BTreeSet::new());
    }
    let learned = |set: &&Set| matches!(set.content, Content::Learned(..));
    let wanted: BTreeSet<&str> = table.sets.iter().filter(learned).map(|set| set.name.as_str()).collect();
    let (kept, gone): (BTreeSet<String>, BTreeSet<String>) =
        socket.sets(family, name)?.into_iter().partition(|set| wanted.contains(set.as_str()));
    if kept.is_empty() {
        batch.push(Object::table("NFT_MSG_DELTABLE", family, name), |w| w.text(1, name));
        return Ok(kept);
    }
    // Rules refer to sets and chains, and maps to chains.
    batch.push(Object::table("NFT_MSG_DELRULE", family, name), |w| w.text(1, name));
    for set in gone {
        batch.push(Object::within("NFT_MSG_DELSET", table, &set), |w| {
            w.text(1, name);
            w.text(2, &set);
        });
    }
    for chain in socket.chains(family, name)? {
        batch.push(Object::within("NFT_MSG_DELCHAIN", table, &chain.name), |w| {
            w.text(1, name);
            w.text(3, &chain.name);
        });
    }
    Ok(kept)
}

/// Writes what makes a table. Maps name chains, and rules name both.
fn add(batch: &mut Batch, table: &Table, kept: &BTreeSet<String>) {
    let name = table.name.as_str();
    batch.push(Object::table("NFT_MSG_NEWTABLE", table.family, name), |w| w.text(1, name));
    for chain in &table.chains {
        batch.push(Object::within("NFT_MSG_NEWCHAIN", table, &chain.name), |w| encode::chain(w, name, chain));
    }
    for set in table.sets.iter().filter(|set| !kept.contains(&set.name)) {
        let id = batch.next_id();
        batch.push(Object::within("NFT_MSG_NEWSET", table, &set.name), |w| encode::set(w, name, set, id));
        for part in encode::elements(set) {
            let object = Object::within("NFT_MSG_NEWSETELEM", table, &set.name);
            batch.push(object, |w| encode::part(w, name, &set.name, &part));
        }
    }
    for chain in &table.chains {
        for rule in &chain.rules {
            let object = Object::within("NFT_MSG_NEWRULE", table, &chain.name);
            batch.push(object, |w| encode::rule(w, table, &chain.name, rule));
        }
    }
}

//! Who looked a patient up here: a lookup across sites is a disclosure (DESIGN section 6), so it is written down, durably,
//! before it is answered, and the patient can ask for it.
//!
//! The records are a hash chain, sealed on this node's disk. Invariants:
//! 1. What can't be written down is not answered.
//! 2. At the first record of a new day, and at the latest when the node notices that a day is over, the chain's head of
//!    the days before goes into the ledger, in the same write: from then on no record of them can be changed, taken out
//!    or put in without [`Member::check_lookups`] telling.
//! 3. A day ends by evidence (`Member::surely`) or with a record of a later day, behind which none of it can come: a
//!    clock that is ahead ends no day to which records are still added.
//!
//! Not here: images shown to other sites, which are disclosures in the ledger; and whether a lookup is allowed, which
//! waits for sign-in. A site's records name its own lookups only; other sites have their own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use tessera_consensus::wire::encode;
use tessera_consensus::wire::v1::Leaf;
use tessera_consensus::{Hash, Lane, SiteId, UnixMillis};
use tessera_federation::machine;
use tessera_federation::outbox::{Draft, OutboxError};
use tessera_federation::wire::Format;
use tessera_federation::wire::v1::{self, AUDIT_ANCHOR, AuditAnchorPublic};
use tessera_policy::Identifier;
use tessera_storage::engine::{Batch, Ticket};

use super::history::Person;
use super::registrar::matter_of_nothing;
use super::vault::Shelf;
use super::{Member, locked, rfc3339};
use crate::control::wire::{LookupShown, LookupsCall, LookupsDone};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// How often it is looked whether a day is over.
const ANCHOR_EVERY: Duration = Duration::from_secs(60);
/// Lookups of one patient that are shown, newest first.
const SHOWN_MAX: usize = 1000;

/// Days of which the ledger may have a head of this node: a century.
const DAYS_MAX: usize = 36_525;
/// Days that a warning names.
const DAYS_NAMED: usize = 5;

/// Characters that are kept of a user's name.
const USER_CHARS_MAX: usize = 200;

/// For what a patient was looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Occasion {
    History,
    Consents,
    /// A consent was taken back that another site recorded.
    Revocation,
    Fetch,
}

impl Occasion {
    const fn words(self) -> &'static str {
        match self {
            Self::History => "history",
            Self::Consents => "consents",
            Self::Revocation => "revocation of a consent",
            Self::Fetch => "fetch",
        }
    }
}

/// Who looks up, and for what.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub occasion: Occasion,
    /// As named with the request; empty when it named nobody.
    pub user: &'a str,
}

/// One record of the chain.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Lookup {
    previous: Hash,
    time_ms: u64,
    occasion: Occasion,
    user: String,
    /// The number that was asked for, and those that links led to.
    identifiers: Vec<Identifier>,
    /// Examinations that were found.
    studies: u32,
    /// For each identifier, the number of its newest record before this one.
    earlier: Vec<Option<u64>>,
}

/// Where the chain stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Head {
    hash: Hash,
    /// Records so far; the next one's number.
    count: u64,
    /// Time of the newest record.
    time_ms: u64,
    /// Records that the ledger has no head of yet.
    open: u64,
}

impl Default for Head {
    fn default() -> Self {
        Self { hash: Hash::blake3(&[b"tessera v1 lookups"]), count: 0, time_ms: 0, open: 0 }
    }
}

impl Head {
    /// The beginning of the newest record's day.
    fn day(&self) -> u64 {
        self.time_ms / DAY_MS * DAY_MS
    }

    /// `None`: no record is open, or their day is not over at `now_ms`.
    fn anchor(&self, site: &SiteId, now_ms: u64) -> Option<AuditAnchorPublic> {
        let from = self.day();
        (self.open > 0 && from + DAY_MS <= now_ms).then(|| AuditAnchorPublic {
            version: v1::VERSION,
            site: site.clone(),
            from: UnixMillis(from),
            until: UnixMillis(from + DAY_MS),
            records: self.open,
            head: self.hash,
        })
    }

    fn after(&self, lookup: &Lookup) -> Self {
        let hash = Hash::blake3(&[b"tessera v1 lookup", &encode(lookup)]);
        Self { hash, count: self.count + 1, time_ms: lookup.time_ms, open: self.open + 1 }
    }
}

/// What came of computing the whole chain again and holding it against the ledger.
#[derive(Debug, Default, PartialEq, Eq)]
struct Checked {
    records: u64,
    /// Days of which the ledger has this very head.
    confirmed: u64,
    /// Beginnings of the days of which it has another one of this node.
    others: Vec<u64>,
    /// And of those of which there are no records here.
    gone: Vec<u64>,
}

impl Checked {
    /// An older copy of the directory that was put back is no tampering, but a patient who asks must hear of it.
    fn warnings(&self) -> Vec<String> {
        let days = |days: &[u64]| {
            let named = days.iter().take(DAYS_NAMED).map(|day| rfc3339(*day).chars().take(10).collect::<String>());
            let more = if days.len() > DAYS_NAMED { ", ..." } else { "" };
            format!("{} days ({}{more})", days.len(), named.collect::<Vec<_>>().join(", "))
        };
        let gone = (!self.gone.is_empty()).then(|| {
            format!(
                "this directory is an older copy: by the ledger this node wrote down lookups on {} of which none are \
                 here; a newer copy has them",
                days(&self.gone)
            )
        });
        let others = (!self.others.is_empty()).then(|| {
            format!(
                "on {} the ledger has another head of this node than these lookups lead to: this directory is an older \
                 copy that was put back and went on, or the records were changed",
                days(&self.others)
            )
        });
        gone.into_iter().chain(others).collect()
    }
}

fn draft(anchor: &AuditAnchorPublic) -> Draft {
    let (kind, matter) = (AUDIT_ANCHOR, matter_of_nothing());
    Draft { lane: Lane::Bulk, kind, public: anchor.to_bytes(), sealed: None, matter }
}

fn number(count: u64) -> [u8; 8] {
    count.to_be_bytes()
}

impl Member {
    fn head(&self) -> anyhow::Result<Head> {
        Ok(self.vault.get(&**self.archive.engine(), Shelf::LookupHead, b"head")?.unwrap_or_default())
    }

    fn lookup(&self, at: u64) -> anyhow::Result<Option<Lookup>> {
        Ok(self.vault.get(&**self.archive.engine(), Shelf::Lookups, &number(at))?)
    }

    fn newest_of(&self, identifier: &Identifier) -> anyhow::Result<Option<u64>> {
        Ok(self.vault.get(&**self.archive.engine(), Shelf::LookupsOf, &encode(identifier))?)
    }

    /// Writes down that `person` was looked up; when this returns, it survives a power failure.
    pub(super) async fn note_lookup(&self, person: &Person, asked: Asked<'_>) -> anyhow::Result<()> {
        let ticket = {
            let _turn = locked(&self.lookups);
            let mut head = self.head()?;
            // A clock that was set back puts no record before another, nor into a day that is over by the ledger's time;
            // one that is ahead puts none into a day to come, in which all later ones would have to lie too.
            let time_ms = self.recorded_now().0.max(head.time_ms);
            let mut batch = Batch::new();
            let anchor = head.anchor(&self.config.default_site().id, time_ms);
            if anchor.is_some() {
                head.open = 0;
            }
            let identifiers = person.identifiers.clone();
            let lookup = Lookup {
                previous: head.hash,
                time_ms,
                occasion: asked.occasion,
                user: asked.user.trim().chars().take(USER_CHARS_MAX).collect(),
                studies: u32::try_from(person.found.current().len()).unwrap_or(u32::MAX),
                earlier: identifiers.iter().map(|one| self.newest_of(one)).collect::<anyhow::Result<_>>()?,
                identifiers,
            };
            self.vault.put(&mut batch, Shelf::Lookups, &number(head.count), &lookup);
            for identifier in &lookup.identifiers {
                self.vault.put(&mut batch, Shelf::LookupsOf, &encode(identifier), &head.count);
            }
            self.vault.put(&mut batch, Shelf::LookupHead, b"head", &head.after(&lookup));
            self.with_anchor(anchor, batch)?
        };
        self.durable(ticket).await.context("the lookup could not be written down, and so is not answered")
    }

    /// When the outbox is full, because the core has long been out of reach, the day goes without an anchor of its own: the
    /// next one covers its records too, and lookups go on (P6).
    fn with_anchor(&self, anchor: Option<AuditAnchorPublic>, change: Batch) -> anyhow::Result<Ticket> {
        let drafts = anchor.iter().map(draft).collect();
        match self.outbox.enqueue(drafts, change.clone()) {
            Err(OutboxError::Full { .. }) => Ok(self.outbox.enqueue(Vec::new(), change)?),
            enqueued => Ok(enqueued?),
        }
    }

    /// Brings the head of a day that is over into the ledger.
    fn anchor_lookups(&self, now_ms: u64) -> anyhow::Result<()> {
        let _turn = locked(&self.lookups);
        let head = self.head()?;
        if let Some(anchor) = head.anchor(&self.config.default_site().id, now_ms) {
            let mut batch = Batch::new();
            self.vault.put(&mut batch, Shelf::LookupHead, b"head", &Head { open: 0, ..head });
            self.with_anchor(Some(anchor), batch)?;
            self.wake_sender();
        }
        Ok(())
    }

    /// Who looked a patient up at this node, newest first.
    fn lookups_of(&self, id: &str) -> anyhow::Result<LookupsDone> {
        let identifier = Identifier::parse(id)?;
        let mut done = LookupsDone { patient: identifier.to_string(), ..LookupsDone::default() };
        let mut next = self.newest_of(&identifier)?;
        while let Some(at) = next {
            if done.lookups.len() == SHOWN_MAX {
                done.more = true;
                break;
            }
            let lookup = self.lookup(at)?.with_context(|| missing(at))?;
            let place = lookup.identifiers.iter().position(|one| *one == identifier);
            let earlier = place.and_then(|place| lookup.earlier.get(place).copied().flatten());
            ensure!(earlier.is_none_or(|earlier| earlier < at), "the record of lookup {at} is damaged");
            next = earlier;
            done.lookups.push(LookupShown {
                time: rfc3339(lookup.time_ms),
                occasion: lookup.occasion.words().to_owned(),
                user: lookup.user,
                studies: lookup.studies,
            });
        }
        Ok(done)
    }

    /// What the command line asks.
    pub async fn lookups(self: &Arc<Self>, call: LookupsCall) -> anyhow::Result<LookupsDone> {
        let member = self.clone();
        let work = move || {
            let mut done = match &call.id {
                Some(id) => member.lookups_of(id)?,
                None => LookupsDone::default(),
            };
            let checked = member.check_lookups()?;
            (done.checked, done.days_confirmed) = (checked.records, checked.confirmed);
            done.warnings = checked.warnings();
            anyhow::Ok(done)
        };
        tokio::task::spawn_blocking(work).await?
    }

    /// Computes the whole chain again and holds it against the ledger. An error names the first record that is not as
    /// it was written down after the one before.
    fn check_lookups(&self) -> anyhow::Result<Checked> {
        let (stored, mut head, mut heads) = (self.head()?, Head::default(), BTreeMap::new());
        while head.count < stored.count {
            let lookup = self.lookup(head.count)?.with_context(|| missing(head.count))?;
            ensure!(lookup.previous == head.hash, "the record of lookup {} is not the one that was made", head.count);
            head = head.after(&lookup);
            heads.insert(head.day(), head.hash);
        }
        ensure!(head.hash == stored.hash, "the newest record of the lookups is not the one that was made");
        let mut checked = Checked { records: stored.count, ..Checked::default() };
        for (day, anchored) in self.anchored()? {
            match heads.get(&day) {
                Some(head) if anchored.contains(head) => checked.confirmed += 1,
                Some(_) => checked.others.push(day),
                None => checked.gone.push(day),
            }
        }
        Ok(checked)
    }

    /// The heads of this node that the ledger has, by the beginnings of their days. Of one day there is more than one
    /// where the configured site has changed.
    fn anchored(&self) -> anyhow::Result<BTreeMap<u64, Vec<Hash>>> {
        let mut anchored: BTreeMap<u64, Vec<Hash>> = BTreeMap::new();
        for index in machine::anchors(self.replica.view(), &self.node, DAYS_MAX)? {
            let entry = self.replica.entry(index)?.context("an entry that the state names is not in the ledger")?;
            let anchor = AuditAnchorPublic::from_bytes(&Leaf::from_bytes(&entry.leaf)?.command.body.public)?;
            anchored.entry(anchor.from.0).or_default().push(anchor.head);
        }
        Ok(anchored)
    }
}

fn missing(at: u64) -> String {
    format!("the record of lookup {at} is missing")
}

/// Anchors the days as they end.
pub async fn anchor(member: Arc<Member>) {
    loop {
        tokio::time::sleep(ANCHOR_EVERY).await;
        if let Err(error) = member.anchor_lookups(member.surely().0) {
            tracing::warn!(why = format!("{error:#}"), "the day's lookups can't be anchored yet");
        }
    }
}

#[cfg(test)]
#[path = "lookups_tests.rs"]
mod tests;

//! Decisions about what was put aside: into the archive, or out of the list.
//!
//! - *Release* makes an object what it would be had a known sender sent it now, with the character set that the list of
//!   senders names now. A variant takes the place of the object with its UID, in a new revision of the study; what it
//!   supersedes is kept, and comes back by being sent or imported again and released in turn. What collides with
//!   another patient's study, or with an object of another study, and what is damaged, is not released: no decision
//!   makes it right. It can be written to a file, set right and imported.
//! - *Discard* takes it out of the list; its bytes are given up some time later.
//!
//! Each item is decided alone, in one write under the writer's lock; one that can't be is told, and stays. The caller is
//! answered when all of it is durable.

use tessera_storage::engine::{Batch, Ticket, wait_durable};
use tessera_storage::pixels::ObjectHash;

use super::catalogue::{self, CatalogueError, ObjectRecord, Quarantine, Standing};
use super::ingest::now_ms;
use super::quarantine::{self, Became, Decision, Ground, Item, Why};
use super::{Archive, flags};

/// What is to be done with an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Release,
    Discard,
}

/// Why an item stays.
#[derive(Debug, thiserror::Error)]
pub enum Undecided {
    #[error("it is not put aside any more")]
    Gone,
    #[error("{}; it can't be released: have it sent again, or write it to a file, set it right and import that", .0.sentence())]
    Unsound(Quarantine),
    #[error("the object whose place it would take is gone")]
    NoObject,
    #[error(
        "its series is not that of the object whose place it would take; write it to a file, give it another SOP Instance \
         UID and import that"
    )]
    OtherSeries,
    #[error("its bytes can't be read again: {0:#}")]
    Unreadable(anyhow::Error),
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    #[error(transparent)]
    Engine(#[from] tessera_storage::engine::EngineError),
}

impl Archive {
    /// Decides about these items one after the other; `done` hears of each. Blocks for the disk.
    pub fn decide(
        &self,
        items: &[Item],
        action: Action,
        ground: &Ground,
        mut done: impl FnMut(&Item, Result<Became, Undecided>),
    ) -> Result<(), Undecided> {
        let mut last: Option<Ticket> = None;
        for item in items {
            let decided = self.decide_one(item, action, ground);
            if let Ok((_, ticket)) = &decided {
                last = Some(*ticket);
            }
            done(item, decided.map(|(became, _)| became));
        }
        // In the order in which they were submitted: the last one's durability is that of all.
        if let Some(ticket) = last {
            wait_durable(&*self.engine, ticket)?;
        }
        Ok(())
    }

    pub(super) fn decide_one(
        &self,
        item: &Item,
        action: Action,
        ground: &Ground,
    ) -> Result<(Became, Ticket), Undecided> {
        let record = match (action, item.why) {
            (Action::Release, Why::Quarantined(Quarantine::UnknownSender)) => {
                self.as_from_known_sender(&item.record)?
            }
            _ => item.record.clone(),
        };
        let _writing = self.writing();
        let item = quarantine::again(&*self.engine, item)?.ok_or(Undecided::Gone)?;
        let mut batch = Batch::new();
        let mut totals = catalogue::totals(&*self.engine)?;
        let aside = match item.why {
            Why::Quarantined(_) => &mut totals.quarantined,
            Why::Variant => &mut totals.variants,
        };
        *aside = aside.saturating_sub(1);
        let decided_ms = now_ms();
        let became = match (action, item.why) {
            (Action::Discard, _) => Became::Discarded,
            (Action::Release, Why::Quarantined(_)) => {
                self.file_released(&record, decided_ms, &mut totals, &mut batch)?
            }
            (Action::Release, Why::Variant) => self.put_in_place(&record, decided_ms, &mut totals, &mut batch)?,
        };
        catalogue::put_totals(&mut batch, &totals);
        if item.why == Why::Quarantined(Quarantine::UnknownSender) {
            catalogue::unlisted_left(&*self.engine, item.record.size, &mut batch)?;
        }
        let decision =
            Decision { ground: ground.clone(), decided_ms, became, why: item.why, record: item.record.clone() };
        quarantine::put_decision(&mut batch, &item, &decision);
        if action == Action::Discard {
            quarantine::put_discarded(&mut batch, &item);
        }
        let ticket = self.engine.submit(batch)?;
        tracing::debug!(item = item.id().as_str(), ?became, by = ground.by, "decided about what was put aside");
        Ok((became, ticket))
    }

    /// The sender may be on the list by now, with a character set of its own.
    fn as_from_known_sender(&self, record: &ObjectRecord) -> Result<ObjectRecord, Undecided> {
        let mut receipt = record.receipt.clone();
        let address = receipt.address.parse();
        let listed = address.ok().and_then(|address| self.listed(&receipt.calling_ae, address));
        let character_set = listed.and_then(|sender| sender.character_set.clone());
        if character_set == receipt.character_set {
            return Ok(record.clone());
        }
        receipt.character_set = character_set;
        self.describe_again(&ObjectHash::blake3(record.hash), receipt).map_err(Undecided::Unreadable)
    }

    fn file_released(
        &self,
        record: &ObjectRecord,
        at_ms: u64,
        totals: &mut catalogue::Totals,
        batch: &mut Batch,
    ) -> Result<Became, Undecided> {
        let view = &*self.engine;
        let standing = catalogue::standing_by_content(view, record)?;
        let became = match standing {
            Standing::New => Became::Filed,
            Standing::Known => Became::KnownAlready,
            Standing::Variant => Became::Variant,
            Standing::Quarantined(why) => return Err(Undecided::Unsound(why)),
        };
        catalogue::record(view, record, &standing, at_ms, totals, batch)?;
        if standing == Standing::New {
            flags::note(view, record, batch)?;
        }
        Ok(became)
    }

    fn put_in_place(
        &self,
        variant: &ObjectRecord,
        at_ms: u64,
        totals: &mut catalogue::Totals,
        batch: &mut Batch,
    ) -> Result<Became, Undecided> {
        let view = &*self.engine;
        let current = catalogue::object(view, &variant.description.sop_instance)?.ok_or(Undecided::NoObject)?;
        if current.description.series != variant.description.series {
            return Err(Undecided::OtherSeries);
        }
        catalogue::supersede(view, &current, variant, at_ms, totals, batch)?;
        flags::note(view, variant, batch)?;
        Ok(Became::InPlaceOf(current.hash))
    }
}

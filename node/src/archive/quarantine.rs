//! What was put aside, and the record of what people decided about it.
//!
//! Put aside are the quarantined (unknown senders, damaged data sets, collisions) and the variants of known objects. A
//! person looks at an item, and releases it into the archive or discards it: [`super::releasing`]. Each decision is
//! kept for good, with who, when, why and the item itself; it is one write with what it does, so that a crash leaves
//! either the item or the decision. What a start hands over once more after that is known by its receipt.
//!
//! The bytes of what was discarded are given up some time later, by [`super::space`].

use std::collections::{BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};
use tessera_storage::engine::{Batch, View};

use super::catalogue::{self, CATALOGUE, CatalogueError, ObjectRecord, Quarantine, Receipt};

/// Items that a walk reads at a time.
const PAGE: usize = 1024;
/// Hexadecimal digits of an item's number.
const ID_DIGITS: usize = 16;
/// Characters of a person's name, and of a reason.
const BY_CHARS_MAX: usize = 64;
const REASON_CHARS_MAX: usize = 1000;

/// The number by which people name an item.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ItemId(String);

impl ItemId {
    fn of(key: &[u8]) -> Self {
        let mut digits = hex::encode(blake3::hash(key).as_bytes());
        digits.truncate(ID_DIGITS);
        Self(digits)
    }

    pub fn parse(text: &str) -> Result<Self, String> {
        let digits = text.trim().to_ascii_lowercase();
        let is_number = digits.len() == ID_DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_number { Ok(Self(digits)) } else { Err(format!("{text:?} is no item of `tessera quarantine`")) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why something is put aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Why {
    Quarantined(Quarantine),
    Variant,
}

impl Why {
    pub fn sentence(self) -> &'static str {
        match self {
            Why::Quarantined(quarantine) => quarantine.sentence(),
            Why::Variant => "its SOP Instance UID is here with other content; both are kept",
        }
    }
}

/// One object that was put aside.
#[derive(Clone, Debug)]
pub struct Item {
    pub(super) key: Vec<u8>,
    pub why: Why,
    pub record: ObjectRecord,
}

impl Item {
    pub fn id(&self) -> ItemId {
        ItemId::of(&self.key)
    }
}

/// Which items are meant.
#[derive(Clone, Debug)]
pub enum Selection {
    All,
    /// Of one calling AE title.
    From(String),
    Items(BTreeSet<ItemId>),
}

impl Selection {
    fn has(&self, item: &Item) -> bool {
        match self {
            Self::All => true,
            Self::From(title) => item.record.receipt.calling_ae == *title,
            Self::Items(items) => items.contains(&item.id()),
        }
    }
}

/// Shows every item that is put aside to `visit`, variants first, then the quarantined in the order of their arrival.
fn walk(view: &dyn View, mut visit: impl FnMut(Item)) -> Result<(), CatalogueError> {
    for (kind, end) in [(b"v", b"w"), (b"q", b"r")] {
        let mut from = kind.to_vec();
        loop {
            let page = view.scan(CATALOGUE, &from, Some(end), PAGE)?;
            if let Some((last, _)) = page.last() {
                from = [last.as_slice(), b"\0"].concat();
            }
            let is_last = page.len() < PAGE;
            for (key, value) in page {
                visit(load(key, &value)?);
            }
            if is_last {
                break;
            }
        }
    }
    Ok(())
}

fn load(key: Vec<u8>, value: &[u8]) -> Result<Item, CatalogueError> {
    if key.first() == Some(&b'v') {
        return Ok(Item { key, why: Why::Variant, record: catalogue::load(value)? });
    }
    let (why, record): (Quarantine, ObjectRecord) = catalogue::load(value)?;
    Ok(Item { key, why: Why::Quarantined(why), record })
}

/// The item as it is now, if it is still put aside.
pub(super) fn again(view: &dyn View, item: &Item) -> Result<Option<Item>, CatalogueError> {
    view.get(CATALOGUE, &item.key)?.map(|value| load(item.key.clone(), &value)).transpose()
}

/// The newest `limit` items of a selection, newest first, and how many it has.
pub fn selected(view: &dyn View, selection: &Selection, limit: usize) -> Result<(Vec<Item>, u64), CatalogueError> {
    let (mut items, mut count) = (VecDeque::new(), 0);
    let mut variants = Vec::new();
    walk(view, |item| {
        if !selection.has(&item) {
            return;
        }
        count += 1;
        if item.why == Why::Variant {
            variants.push(item);
        } else {
            items.push_back(item);
        }
        // Variants come first, and not in their order.
        if variants.len() >= 2 * limit.max(1) {
            newest_first(&mut variants, limit);
        }
        if items.len() > limit {
            items.pop_front();
        }
    })?;
    let mut all: Vec<Item> = variants.into_iter().chain(items).collect();
    newest_first(&mut all, limit);
    Ok((all, count))
}

fn newest_first(items: &mut Vec<Item>, limit: usize) {
    items.sort_by_key(|item| std::cmp::Reverse(item.record.receipt.received_ms));
    items.truncate(limit);
}

/// Who decides, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ground {
    pub by: String,
    pub reason: String,
}

impl Ground {
    pub fn new(by: &str, reason: &str) -> Result<Self, String> {
        let checked = |what: &str, text: &str, max: usize| match text.trim() {
            "" => Err(format!("say {what}")),
            text if text.chars().count() > max => Err(format!("{what}: at most {max} characters")),
            text => Ok(text.to_owned()),
        };
        Ok(Self { by: checked("who decides", by, BY_CHARS_MAX)?, reason: checked("why", reason, REASON_CHARS_MAX)? })
    }
}

/// What became of an item by a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Became {
    /// An object of its study.
    Filed,
    /// The same bytes are in the archive already; nothing but the item is gone.
    KnownAlready,
    /// Put aside once more, as a variant of an object that came meanwhile.
    Variant,
    /// The object of its SOP Instance UID, in the place of the one with this hash.
    InPlaceOf([u8; 32]),
    Discarded,
}

/// A decision, as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    pub ground: Ground,
    pub decided_ms: u64,
    pub became: Became,
    pub why: Why,
    /// What was decided about, as it was put aside.
    pub record: ObjectRecord,
}

/// A key of decisions: the length keeps one item's apart from those of another whose key begins alike.
fn decision_key(aside: &[u8]) -> Vec<u8> {
    // Keys of items are some hundred bytes.
    [&b"a"[..], &(aside.len() as u16).to_be_bytes(), aside].concat()
}

/// The item leaves the list, and the decision is kept, in one write with what it does.
pub(super) fn put_decision(batch: &mut Batch, item: &Item, decision: &Decision) {
    batch.delete(CATALOGUE, item.key.clone());
    if let Some(by_bytes) = catalogue::by_bytes(&item.key) {
        batch.delete(CATALOGUE, by_bytes);
    }
    let key = [decision_key(&item.key), decision.decided_ms.to_be_bytes().to_vec()].concat();
    catalogue::store(batch, key, decision);
}

/// What was discarded waits under `g<key>` until its bytes are given up.
pub(super) fn put_discarded(batch: &mut Batch, item: &Item) {
    catalogue::store(batch, [&b"g"[..], &item.key].concat(), &item.record);
}

/// Discarded items whose bytes are to be given up, with their keys.
pub(super) fn discarded(view: &dyn View, limit: usize) -> Result<Vec<(Vec<u8>, ObjectRecord)>, CatalogueError> {
    let waiting = view.scan_prefix(CATALOGUE, b"g", limit)?;
    waiting.into_iter().map(|(key, value)| Ok((key, catalogue::load(&value)?))).collect()
}

/// Decisions about one item are few: each needs another receipt of the same bytes.
const DECISIONS_OF_ITEM_MAX: usize = 10_000;

/// Whether it was decided about what came with this very receipt.
pub(super) fn is_decided(view: &dyn View, aside: &[u8], receipt: &Receipt) -> Result<bool, CatalogueError> {
    let decisions: Vec<Decision> = catalogue::read_all(view, &decision_key(aside), DECISIONS_OF_ITEM_MAX)?;
    Ok(decisions.iter().any(|decision| decision.record.receipt == *receipt))
}

/// The newest `limit` decisions with their items' numbers, newest first, and how many there are.
pub fn decisions(view: &dyn View, limit: usize) -> Result<(Vec<(ItemId, Decision)>, u64), CatalogueError> {
    let (mut all, mut count, mut from) = (Vec::new(), 0, b"a".to_vec());
    loop {
        let page = view.scan(CATALOGUE, &from, Some(b"b"), PAGE)?;
        count += page.len() as u64;
        for (key, value) in &page {
            let item = key.get(3..key.len().saturating_sub(8)).ok_or(CatalogueError::Damaged)?;
            all.push((ItemId::of(item), catalogue::load::<Decision>(value)?));
        }
        all.sort_by_key(|(_, decision)| std::cmp::Reverse(decision.decided_ms));
        all.truncate(limit);
        match page.last() {
            Some((last, _)) if page.len() == PAGE => from = [last.as_slice(), b"\0"].concat(),
            _ => return Ok((all, count)),
        }
    }
}

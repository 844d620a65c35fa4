//! The domain's replicated machine: what each kind of command does to the shared state. Pure.
//!
//! It reads public parts alone. It keeps who may write what: tags are free or taken, a record is continued only by
//! the node that wrote it, a consent is revoked only by the node that recorded it or by one of the same site, a
//! disclosure is written by the holder. What a patient's data mean is not its business: that is sealed. Every kind
//! that takes effect carries a name of its own (tag or random id) that is free only once, so a command that is sent
//! again under another number, after a restart or a restore, is rejected ([`applied_at`] says what it repeats).
//!
//! State keys under [`DOMAIN`]: `t` tag, `p` presence tag, `c` consent, `u` disclosure, `i` other ids by kind,
//! `n` entries of a kind, `r` registrations of a node.
//!
//! | kind | sealed body | rule |
//! | --- | --- | --- |
//! | study | yes | tag, presence free; it supersedes a study record of its node, not superseded, not withdrawn |
//! | amendment | yes | tag, presence free; it amends such a record; *withdraw* ends it for good |
//! | link | yes | both tags, both presences free |
//! | unlink | no | both tags are the halves of one link of the same node, not unlinked |
//! | consent | yes | id, tag, presence free |
//! | revocation | no | the consent is not revoked, and was recorded by this node or by one of the same site |
//! | disclosure | may | id free; this node speaks for the holder |
//! | receipt | no | the disclosure exists; this node speaks for the side; one for each side |
//! | break-glass, recognition | may | id free; this node speaks for the site |
//! | recall acknowledgement | no | the disclosure exists; this node speaks for its requester; once |
//! | audit anchor | no | this node speaks for the site; one of this node for each beginning of a period |
//! | rule base, contract, expert, consultation, erasure | may | well-formed; rejected as not active until governed |

mod registrations;
pub mod rejections;

pub use registrations::Registrations;

use serde::{Deserialize, Serialize};
use tessera_consensus::kernel::{DOMAIN, Domain, Entry, NodeRecord, Rejection, StateRead, Verdict};
use tessera_consensus::state::Transaction;
use tessera_consensus::wire::v1::Kind;
use tessera_consensus::wire::{decode, encode};
use tessera_consensus::{LedgerIndex, NodeId, SiteId, UnixMillis};
use tessera_policy::ConsentId;
use tessera_storage::engine::EngineError;

use crate::ids::DisclosureId;
use crate::wire::v1::{self, Presence, ReceiptSide, Tag};
use crate::wire::{DecodeError, Format};

const VALUE_BYTES_MAX: usize = 4 * 1024;

/// What the state knows of a tag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagRecord {
    pub index: LedgerIndex,
    pub kind: Kind,
    pub node: NodeId,
    /// Superseded by a newer version, or undone.
    pub ended: Option<LedgerIndex>,
    /// Withdrawn by its holder, for good.
    pub withdrawn: Option<LedgerIndex>,
}

/// What the state knows of a consent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsentRecord {
    pub index: LedgerIndex,
    pub node: NodeId,
    pub revoked: Option<LedgerIndex>,
}

/// What the state knows of a disclosure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DisclosureRecord {
    pub index: LedgerIndex,
    pub holder: SiteId,
    pub requester: SiteId,
    pub holder_receipt: Option<LedgerIndex>,
    pub requester_receipt: Option<LedgerIndex>,
}

fn key(kind: u8, rest: &[u8]) -> Vec<u8> {
    let mut key = vec![DOMAIN, kind];
    key.extend_from_slice(rest);
    key
}

/// Reads a value of our own state; it was written by this code.
fn own<T: Serialize + serde::de::DeserializeOwned>(bytes: &[u8]) -> T {
    decode("domain state", bytes, VALUE_BYTES_MAX).expect("the domain's state was written by this machine")
}

fn read<T: Serialize + serde::de::DeserializeOwned>(
    state: &(impl StateRead + ?Sized),
    key: Vec<u8>,
) -> Result<Option<T>, EngineError> {
    Ok(state.read(&key)?.map(|bytes| own(&bytes)))
}

pub fn tag(state: &(impl StateRead + ?Sized), tag: &Tag) -> Result<Option<TagRecord>, EngineError> {
    read(state, key(b't', &tag.to_key()))
}

/// The entry that took a presence tag.
pub fn presence(state: &(impl StateRead + ?Sized), tag: &Tag) -> Result<Option<LedgerIndex>, EngineError> {
    read(state, key(b'p', &tag.to_key()))
}

pub fn consent(state: &(impl StateRead + ?Sized), id: &ConsentId) -> Result<Option<ConsentRecord>, EngineError> {
    read(state, key(b'c', id.as_bytes()))
}

pub fn disclosure(
    state: &(impl StateRead + ?Sized),
    id: &DisclosureId,
) -> Result<Option<DisclosureRecord>, EngineError> {
    read(state, key(b'u', id.as_bytes()))
}

/// The registrations of a node a day, as its budget at the blind index counts them.
pub fn registrations_per_day(
    state: &(impl StateRead + ?Sized),
    node: &NodeId,
    now: UnixMillis,
) -> Result<u64, EngineError> {
    Ok(registrations(state, node)?.per_day(now))
}

/// What a node has registered.
pub fn registrations(state: &(impl StateRead + ?Sized), node: &NodeId) -> Result<Registrations, EngineError> {
    Ok(read(state, registrations_key(node))?.unwrap_or_default())
}

fn registrations_key(node: &NodeId) -> Vec<u8> {
    key(b'r', &node_key(node))
}

fn node_key(node: &NodeId) -> Vec<u8> {
    [&[node.hash().algorithm().into()][..], node.hash().as_bytes()].concat()
}

fn id_key(kind: Kind, id: &[u8]) -> Vec<u8> {
    key(b'i', &[&kind.0.to_be_bytes(), id].concat())
}

fn acknowledgement_id(public: &v1::RecallAcknowledgementPublic) -> Vec<u8> {
    [public.recall.as_bytes().as_slice(), public.disclosure.as_bytes()].concat()
}

/// Each node keeps records of its own, also where two speak for one site.
fn anchor_id(node: &NodeId, public: &v1::AuditAnchorPublic) -> Vec<u8> {
    [node_key(node).as_slice(), &public.from.0.to_be_bytes(), public.site.as_str().as_bytes()].concat()
}

/// The entries of a node's audit anchors, in the order of their periods, at most `limit`.
pub fn anchors(
    state: &(impl StateRead + ?Sized),
    node: &NodeId,
    limit: usize,
) -> Result<Vec<LedgerIndex>, EngineError> {
    let pairs = state.read_prefix(&id_key(v1::AUDIT_ANCHOR, &node_key(node)), limit)?;
    Ok(pairs.iter().map(|(_, index)| own(index)).collect())
}

/// The entry that took effect with the name (tag or id) that a command of this kind by `node` carries, whoever wrote
/// it. `None` when there is none, or when the kind takes no effect.
pub fn applied_at(
    state: &(impl StateRead + ?Sized),
    node: &NodeId,
    kind: Kind,
    public: &[u8],
) -> Result<Option<LedgerIndex>, EngineError> {
    fn named<T: Format>(
        public: &[u8],
        find: impl FnOnce(T) -> Result<Option<LedgerIndex>, EngineError>,
    ) -> Result<Option<LedgerIndex>, EngineError> {
        T::from_bytes(public).map_or(Ok(None), find)
    }
    let of_tag = |name: &Tag| Ok(tag(state, name)?.map(|record| record.index));
    match kind {
        v1::STUDY => named(public, |p: v1::StudyPublic| of_tag(&p.tag)),
        v1::AMENDMENT => named(public, |p: v1::AmendmentPublic| of_tag(&p.tag)),
        v1::LINK => named(public, |p: v1::LinkPublic| of_tag(&p.halves[0].tag)),
        v1::UNLINK => named(public, |p: v1::UnlinkPublic| Ok(tag(state, &p.link[0])?.and_then(|record| record.ended))),
        v1::CONSENT => named(public, |p: v1::ConsentPublic| Ok(consent(state, &p.consent)?.map(|record| record.index))),
        v1::REVOCATION => {
            named(public, |p: v1::RevocationPublic| Ok(consent(state, &p.consent)?.and_then(|record| record.revoked)))
        }
        v1::DISCLOSURE => {
            named(public, |p: v1::DisclosurePublic| Ok(disclosure(state, &p.disclosure)?.map(|record| record.index)))
        }
        v1::RECEIPT => named(public, |p: v1::ReceiptPublic| {
            Ok(disclosure(state, &p.disclosure)?.and_then(|record| match p.side {
                ReceiptSide::Holder => record.holder_receipt,
                ReceiptSide::Requester => record.requester_receipt,
            }))
        }),
        v1::BREAK_GLASS => named(public, |p: v1::BreakGlassPublic| read(state, id_key(kind, p.break_glass.as_bytes()))),
        v1::RECOGNITION => {
            named(public, |p: v1::RecognitionPublic| read(state, id_key(kind, p.recognition.as_bytes())))
        }
        v1::RECALL_ACKNOWLEDGEMENT => named(public, |p| read(state, id_key(kind, &acknowledgement_id(&p)))),
        v1::AUDIT_ANCHOR => named(public, |p| read(state, id_key(kind, &anchor_id(node, &p)))),
        _ => Ok(None),
    }
}

/// Whether commands of a kind bring a sealed body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SealedBody {
    Needed,
    Allowed,
    None,
}

const fn sealed_body(kind: Kind) -> SealedBody {
    match kind {
        v1::STUDY | v1::AMENDMENT | v1::LINK | v1::CONSENT => SealedBody::Needed,
        v1::UNLINK | v1::REVOCATION | v1::RECEIPT | v1::RECALL_ACKNOWLEDGEMENT | v1::AUDIT_ANCHOR => SealedBody::None,
        _ => SealedBody::Allowed,
    }
}

/// Applied entries of each kind that occurs, by number.
pub fn counts(state: &(impl StateRead + ?Sized)) -> Result<Vec<(Kind, u64)>, EngineError> {
    let pairs = state.read_prefix(&key(b'n', &[]), 1024)?;
    let kind = |key: &[u8]| Kind(u16::from_be_bytes([key[2], key[3]]));
    Ok(pairs.iter().map(|(key, value)| (kind(key), own(value))).collect())
}

/// The machine of this federation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Machine;

impl Domain for Machine {
    fn found(&self, parameters: &[u8], _: &mut Transaction<'_>) -> Result<(), DecodeError> {
        v1::DomainGenesis::from_bytes(parameters).map(drop)
    }

    fn apply(&self, entry: &Entry<'_>, state: &mut Transaction<'_>) -> Result<Verdict, EngineError> {
        let step = Step { entry, state };
        let done = step.apply()?;
        Ok(match done {
            Ok(()) => Verdict::Applied,
            Err(rejection) => Verdict::Rejected(rejection),
        })
    }
}

/// The outer error is the engine's and stops the node; the inner one is the machine's answer.
type Done = Result<Result<(), Rejection>, EngineError>;

struct Step<'a, 's, 'e> {
    entry: &'a Entry<'a>,
    state: &'s mut Transaction<'e>,
}

macro_rules! check {
    ($result:expr) => {
        if let Err(rejection) = $result {
            return Ok(Err(rejection));
        }
    };
}

impl Step<'_, '_, '_> {
    fn apply(mut self) -> Done {
        let kind = self.entry.body.kind;
        if v1::kind_name(kind).is_none() {
            return Ok(Err(Rejection::UNKNOWN_KIND));
        }
        // Whether there is a body, never what is in it: it can be erased, and the machine must not notice.
        match (sealed_body(kind), self.entry.body.sealed.is_some()) {
            (SealedBody::Needed, false) | (SealedBody::None, true) => return Ok(Err(Rejection::MALFORMED)),
            _ => {}
        }
        let done = self.apply_kind(kind)?;
        if done.is_ok() {
            self.count()?;
        }
        Ok(done)
    }

    fn apply_kind(&mut self, kind: Kind) -> Done {
        match kind {
            v1::STUDY => self.parsed(Self::study),
            v1::AMENDMENT => self.parsed(Self::amendment),
            v1::LINK => self.parsed(Self::link),
            v1::UNLINK => self.parsed(Self::unlink),
            v1::CONSENT => self.parsed(Self::consent),
            v1::REVOCATION => self.parsed(Self::revocation),
            v1::DISCLOSURE => self.parsed(Self::disclosure),
            v1::RECEIPT => self.parsed(Self::receipt),
            v1::BREAK_GLASS => {
                self.parsed(|step, p: v1::BreakGlassPublic| step.own_act(&p.site, p.break_glass.as_bytes()))
            }
            v1::RECOGNITION => {
                self.parsed(|step, p: v1::RecognitionPublic| step.own_act(&p.site, p.recognition.as_bytes()))
            }
            v1::RECALL_ACKNOWLEDGEMENT => self.parsed(Self::recall_acknowledgement),
            v1::AUDIT_ANCHOR => self.parsed(|step, p: v1::AuditAnchorPublic| {
                let id = anchor_id(&step.entry.node, &p);
                step.own_act(&p.site, &id)
            }),
            v1::RULE_BASE => self.parsed(|_, _: v1::RuleBasePublic| not_active()),
            v1::CONTRACT => self.parsed(|_, _: v1::ContractPublic| not_active()),
            v1::EXPERT => self.parsed(|_, _: v1::ExpertPublic| not_active()),
            v1::CONSULTATION => self.parsed(|_, _: v1::ConsultationPublic| not_active()),
            v1::ERASURE => self.parsed(|_, _: v1::ErasurePublic| not_active()),
            _ => Ok(Err(Rejection::UNKNOWN_KIND)),
        }
    }

    fn parsed<T: Format>(&mut self, act: impl FnOnce(&mut Self, T) -> Done) -> Done {
        match T::from_bytes(&self.entry.body.public) {
            Ok(public) => act(self, public),
            Err(_) => Ok(Err(Rejection::MALFORMED)),
        }
    }

    fn count(&mut self) -> Result<(), EngineError> {
        let counter = key(b'n', &self.entry.body.kind.0.to_be_bytes());
        let count: u64 = read(self.state, counter.clone())?.unwrap_or(0);
        self.state.put(counter, encode(&(count + 1)));
        Ok(())
    }

    fn take_tag(&mut self, tag: &Tag) -> Done {
        let place = key(b't', &tag.to_key());
        if self.state.contains(&place)? {
            return Ok(Err(rejections::TAG_TAKEN));
        }
        let Entry { index, node, body, .. } = self.entry;
        let record = TagRecord { index: *index, kind: body.kind, node: *node, ended: None, withdrawn: None };
        self.state.put(place, encode(&record));
        Ok(Ok(()))
    }

    fn take_presence(&mut self, presence: Option<&Presence>) -> Done {
        let Some(presence) = presence else { return Ok(Ok(())) };
        let place = key(b'p', &presence.tag.to_key());
        if self.state.contains(&place)? {
            return Ok(Err(rejections::PRESENCE_TAKEN));
        }
        self.state.put(place, encode(&self.entry.index));
        Ok(Ok(()))
    }

    /// The record of `kind` under `of`, if it is this node's and still stands.
    fn own_record(&self, of: &Tag, kind: Kind) -> Result<Result<TagRecord, Rejection>, EngineError> {
        Ok(match tag(self.state, of)? {
            Some(record) if record.kind != kind => Err(rejections::NO_SUCH_RECORD),
            Some(record) if record.node != self.entry.node => Err(rejections::NOT_YOURS),
            Some(record) if record.withdrawn.is_some() => Err(rejections::WITHDRAWN),
            Some(record) if record.ended.is_some() => Err(rejections::ENDED_BEFORE),
            Some(record) => Ok(record),
            None => Err(rejections::NO_SUCH_RECORD),
        })
    }

    fn end(&mut self, tag: &Tag, mut record: TagRecord) {
        record.ended = Some(self.entry.index);
        self.state.put(key(b't', &tag.to_key()), encode(&record));
    }

    fn study(&mut self, public: v1::StudyPublic) -> Done {
        match &public.supersedes {
            Some(older) => match self.own_record(older, v1::STUDY)? {
                Ok(record) => self.end(older, record),
                Err(rejection) => return Ok(Err(rejection)),
            },
            None => {
                let (node, time) = (self.entry.node, self.entry.time);
                let counted = registrations(self.state, &node)?.counted(time);
                self.state.put(registrations_key(&node), encode(&counted));
            }
        }
        check!(self.take_tag(&public.tag)?);
        self.take_presence(public.presence.as_ref())
    }

    fn amendment(&mut self, public: v1::AmendmentPublic) -> Done {
        match self.own_record(&public.of, v1::STUDY)? {
            Err(rejection) => return Ok(Err(rejection)),
            Ok(mut record) if public.kind == v1::WITHDRAW => {
                record.withdrawn = Some(self.entry.index);
                self.state.put(key(b't', &public.of.to_key()), encode(&record));
            }
            Ok(_) => {}
        }
        check!(self.take_tag(&public.tag)?);
        self.take_presence(public.presence.as_ref())
    }

    fn link(&mut self, public: v1::LinkPublic) -> Done {
        for half in &public.halves {
            check!(self.take_tag(&half.tag)?);
            check!(self.take_presence(half.presence.as_ref())?);
        }
        Ok(Ok(()))
    }

    fn unlink(&mut self, public: v1::UnlinkPublic) -> Done {
        let mut indices = Vec::new();
        for tag in &public.link {
            match self.own_record(tag, v1::LINK)? {
                Ok(record) => {
                    indices.push(record.index);
                    self.end(tag, record);
                }
                Err(rejection) => return Ok(Err(rejection)),
            }
        }
        // Halves of two different links are no link.
        Ok(if indices[0] == indices[1] { Ok(()) } else { Err(rejections::NO_SUCH_RECORD) })
    }

    fn consent(&mut self, public: v1::ConsentPublic) -> Done {
        let place = key(b'c', public.consent.as_bytes());
        if self.state.contains(&place)? {
            return Ok(Err(rejections::ID_TAKEN));
        }
        check!(self.take_tag(&public.tag)?);
        let record = ConsentRecord { index: self.entry.index, node: self.entry.node, revoked: None };
        self.state.put(place, encode(&record));
        self.take_presence(public.presence.as_ref())
    }

    fn revocation(&mut self, public: v1::RevocationPublic) -> Done {
        let Some(mut record) = consent(self.state, &public.consent)? else {
            return Ok(Err(rejections::NO_SUCH_RECORD));
        };
        if record.node != self.entry.node && !self.shares_a_site_with(&record.node)? {
            return Ok(Err(rejections::NOT_YOURS));
        }
        if record.revoked.is_some() {
            return Ok(Err(rejections::ENDED_BEFORE));
        }
        record.revoked = Some(self.entry.index);
        self.state.put(key(b'c', public.consent.as_bytes()), encode(&record));
        Ok(Ok(()))
    }

    fn shares_a_site_with(&self, other: &NodeId) -> Result<bool, EngineError> {
        let other = tessera_consensus::kernel::node(self.state, other)?;
        Ok(other.is_some_and(|other| other.join.join.sites.iter().any(|site| speaks_for(self.entry.origin, &site.id))))
    }

    fn disclosure(&mut self, public: v1::DisclosurePublic) -> Done {
        let own_id = public.disclosure == DisclosureId::of(&self.entry.node, &public.nonce);
        if !own_id || !speaks_for(self.entry.origin, &public.holder) {
            return Ok(Err(rejections::NOT_YOURS));
        }
        let place = key(b'u', public.disclosure.as_bytes());
        if self.state.contains(&place)? {
            return Ok(Err(rejections::ID_TAKEN));
        }
        let v1::DisclosurePublic { holder, requester, .. } = public;
        let index = self.entry.index;
        let record = DisclosureRecord { index, holder, requester, holder_receipt: None, requester_receipt: None };
        self.state.put(place, encode(&record));
        Ok(Ok(()))
    }

    /// What a site does on its own, under an id that is free once.
    fn own_act(&mut self, site: &SiteId, id: &[u8]) -> Done {
        if !speaks_for(self.entry.origin, site) {
            return Ok(Err(rejections::NOT_YOURS));
        }
        let place = id_key(self.entry.body.kind, id);
        if self.state.contains(&place)? {
            return Ok(Err(rejections::ID_TAKEN));
        }
        self.state.put(place, encode(&self.entry.index));
        Ok(Ok(()))
    }

    fn recall_acknowledgement(&mut self, public: v1::RecallAcknowledgementPublic) -> Done {
        match disclosure(self.state, &public.disclosure)? {
            Some(record) => self.own_act(&record.requester, &acknowledgement_id(&public)),
            None => Ok(Err(rejections::NO_SUCH_RECORD)),
        }
    }

    fn receipt(&mut self, public: v1::ReceiptPublic) -> Done {
        let Some(mut record) = disclosure(self.state, &public.disclosure)? else {
            return Ok(Err(rejections::NO_SUCH_RECORD));
        };
        let (site, slot) = match public.side {
            ReceiptSide::Holder => (&record.holder, &mut record.holder_receipt),
            ReceiptSide::Requester => (&record.requester, &mut record.requester_receipt),
        };
        if !speaks_for(self.entry.origin, site) {
            return Ok(Err(rejections::NOT_YOURS));
        }
        if slot.is_some() {
            return Ok(Err(rejections::RECEIPT_TAKEN));
        }
        *slot = Some(self.entry.index);
        self.state.put(key(b'u', public.disclosure.as_bytes()), encode(&record));
        Ok(Ok(()))
    }
}

fn not_active() -> Done {
    Ok(Err(Rejection::NOT_ACTIVE))
}

fn speaks_for(node: &NodeRecord, site: &SiteId) -> bool {
    node.join.join.sites.iter().any(|declared| declared.id == *site)
}

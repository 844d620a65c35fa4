//! The domain's replicated machine: what each kind of command does to the shared state. Pure.
//!
//! It reads public parts alone. It keeps who may write what: tags are free or taken, a record is continued only by
//! the node that wrote it, a consent is revoked only by the node that recorded it or by one of the same site, a
//! disclosure is written by the holder. What a patient's data mean is not its business: that is sealed.
//!
//! State keys under [`DOMAIN`]: `t` tag, `p` presence tag, `c` consent, `u` disclosure, `n` entries of a kind.
//!
//! | kind | rule |
//! | --- | --- |
//! | study | tag free; presence free or absent; what it supersedes is a study record of the same node, not superseded |
//! | amendment | tag free; it amends a study record of the same node |
//! | link | both tags free |
//! | unlink | both tags are halves of one link of the same node, not unlinked |
//! | consent | id and tag free |
//! | revocation | the consent exists, is not revoked, and was recorded by this node or by one of the same site |
//! | disclosure | id free; this node speaks for the holder |
//! | receipt | the disclosure exists; this node speaks for the side; one for each side |
//! | break-glass, recognition, recall acknowledgement, audit anchor | well-formed; kept and ordered |
//! | rule base, contract, expert, consultation, erasure | well-formed; rejected as not active until governed |

use serde::{Deserialize, Serialize};
use tessera_consensus::kernel::{DOMAIN, Domain, Entry, NodeRecord, Rejection, StateRead, Verdict};
use tessera_consensus::state::Transaction;
use tessera_consensus::wire::v1::Kind;
use tessera_consensus::wire::{decode, encode};
use tessera_consensus::{LedgerIndex, NodeId, SiteId};
use tessera_policy::ConsentId;
use tessera_storage::engine::EngineError;

use crate::ids::DisclosureId;
use crate::wire::v1::{self, Presence, ReceiptSide, Tag};
use crate::wire::{DecodeError, Format};

const VALUE_BYTES_MAX: usize = 4 * 1024;

/// Why the machine rejected a command. Numbers are part of the ledger's outcomes.
pub mod rejections {
    use tessera_consensus::kernel::Rejection;

    /// The tag is taken: the writer takes the next one of its chain.
    pub const TAG_TAKEN: Rejection = Rejection(256);
    /// The presence is taken: another site wrote at the same time; take the next.
    pub const PRESENCE_TAKEN: Rejection = Rejection(257);
    /// The record that it continues or amends is not there.
    pub const NO_SUCH_RECORD: Rejection = Rejection(258);
    /// The record, consent or disclosure is another node's.
    pub const NOT_YOURS: Rejection = Rejection(259);
    /// The record was superseded, the link undone or the consent revoked before.
    pub const ENDED_BEFORE: Rejection = Rejection(260);
    /// The random id is in use.
    pub const ID_TAKEN: Rejection = Rejection(261);
    /// This side's receipt is there already.
    pub const RECEIPT_TAKEN: Rejection = Rejection(262);

    /// In plain words, for logs and people.
    pub fn sentence(rejection: Rejection) -> &'static str {
        match rejection {
            Rejection::UNKNOWN_KIND => "the kind is not known to the ledger's protocol version",
            Rejection::MALFORMED => "the public part is not well-formed",
            Rejection::NOT_ACTIVE => "the kind is not active in this federation yet",
            TAG_TAKEN => "the tag is taken; the next one of the chain is to be used",
            PRESENCE_TAKEN => "the presence is taken; the next one is to be used",
            NO_SUCH_RECORD => "the record that it refers to is not in the ledger",
            NOT_YOURS => "what it refers to belongs to another node",
            ENDED_BEFORE => "what it refers to was superseded, undone or revoked before",
            ID_TAKEN => "the random id is in use",
            RECEIPT_TAKEN => "this side's receipt is in the ledger already",
            _ => "a reason that this version does not know",
        }
    }
}

/// What the state knows of a tag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagRecord {
    pub index: LedgerIndex,
    pub kind: Kind,
    pub node: NodeId,
    /// Superseded by a newer version, or undone.
    pub ended: Option<LedgerIndex>,
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
        let done = match self.entry.body.kind {
            v1::STUDY => self.parsed(Self::study),
            v1::AMENDMENT => self.parsed(Self::amendment),
            v1::LINK => self.parsed(Self::link),
            v1::UNLINK => self.parsed(Self::unlink),
            v1::CONSENT => self.parsed(Self::consent),
            v1::REVOCATION => self.parsed(Self::revocation),
            v1::DISCLOSURE => self.parsed(Self::disclosure),
            v1::RECEIPT => self.parsed(Self::receipt),
            v1::BREAK_GLASS => self.parsed(|_, _: v1::BreakGlassPublic| Ok(Ok(()))),
            v1::RECOGNITION => self.parsed(|_, _: v1::RecognitionPublic| Ok(Ok(()))),
            v1::RECALL_ACKNOWLEDGEMENT => self.parsed(|_, _: v1::RecallAcknowledgementPublic| Ok(Ok(()))),
            v1::AUDIT_ANCHOR => self.parsed(|_, _: v1::AuditAnchorPublic| Ok(Ok(()))),
            v1::RULE_BASE => self.parsed(|_, _: v1::RuleBasePublic| not_active()),
            v1::CONTRACT => self.parsed(|_, _: v1::ContractPublic| not_active()),
            v1::EXPERT => self.parsed(|_, _: v1::ExpertPublic| not_active()),
            v1::CONSULTATION => self.parsed(|_, _: v1::ConsultationPublic| not_active()),
            v1::ERASURE => self.parsed(|_, _: v1::ErasurePublic| not_active()),
            _ => Ok(Err(Rejection::UNKNOWN_KIND)),
        }?;
        if done.is_ok() {
            self.count()?;
        }
        Ok(done)
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
        self.state.put(place, encode(&TagRecord { index: *index, kind: body.kind, node: *node, ended: None }));
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
        if let Some(older) = &public.supersedes {
            match self.own_record(older, v1::STUDY)? {
                Ok(record) => self.end(older, record),
                Err(rejection) => return Ok(Err(rejection)),
            }
        }
        check!(self.take_tag(&public.tag)?);
        self.take_presence(public.presence.as_ref())
    }

    fn amendment(&mut self, public: v1::AmendmentPublic) -> Done {
        check!(self.own_record(&public.of, v1::STUDY)?.map(drop));
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
        if !speaks_for(self.entry.origin, &public.holder) {
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

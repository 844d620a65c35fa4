//! The requester's side of one retrieval session: ask, check everything, keep what is right.
//!
//! Sans-IO: `step(now, input)` takes what happened and returns what to do, in order. Invariants:
//! 1. Nothing is written that was not checked: the manifest against the ledger's commitment, the group hashes
//!    against the manifest's object hash, each group against its group hash (P8). The first wrong byte names its
//!    place, ends the session and with it this holder's stream.
//! 2. At most [`WINDOW_GROUPS`](super::WINDOW_GROUPS) groups are asked for and not yet written, or written and not
//!    yet durable with their object, whatever the holder does.
//! 3. An object counts as held only when the sink said that it is durable; the receipt counts only those.
//!
//! What a broken session leaves behind is in the sink: the next session inspects it and asks for the rest.
//! Not here: where objects lie, which holder to ask, when to try again.

use std::collections::BTreeSet;

use tessera_consensus::keys::PublicKey;
use tessera_consensus::{Hash, NodeId, SiteId, UnixMillis};
use tessera_policy::{Purpose, Uid, UserAssertion};

use super::fetching::{Arrival, Fetching, Transfer};
use super::frame::{Frame, FrameError};
use super::groups::GroupHash;
use super::port::Identity;
use super::wire::v1::{
    Basis, BreakGlass, Challenge, Party, Reading, Receipt, Refusal, RetrievalId, RetrievalRequest, Seen, SignedReceipt,
    SignedRefusal, StopCode, StudyRef, ToHolder, ToRequester, UnavailableCode, VERSION,
};
use super::{DECISION_TIMEOUT_MS, FrameToHolder, GREETING_TIMEOUT_MS, IDLE_TIMEOUT_MS};
use crate::ids::DisclosureId;
use crate::wire::Format;
use crate::wire::v1::{Manifest, ObjectContent};

/// Which of an examination's objects are wanted.
#[derive(Clone, Debug, Default)]
pub enum Selection {
    #[default]
    All,
    /// SOP instance UIDs.
    Instances(BTreeSet<Uid>),
}

impl Selection {
    fn contains(&self, instance: &Uid) -> bool {
        match self {
            Selection::All => true,
            Selection::Instances(wanted) => wanted.contains(instance),
        }
    }
}

/// What is to be fetched, from whom, for whom.
#[derive(Clone, Debug)]
pub struct Intent {
    pub id: RetrievalId,
    pub holder: NodeId,
    pub holder_key: PublicKey,
    pub site: SiteId,
    pub user: UserAssertion,
    pub study: StudyRef,
    pub purpose: Purpose,
    pub basis: Basis,
    pub break_glass: Option<BreakGlass>,
    /// The certified checkpoint that this node has applied, and its note.
    pub seen: Seen,
    pub note: Option<String>,
    pub selection: Selection,
}

/// An object by its place in the manifest, and what its bytes must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectPlace {
    pub object: u32,
    pub sop_instance: Uid,
    pub hash: Hash,
    pub size: u64,
}

/// What the sink has of an object already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Have {
    Nothing,
    /// These groups, verified when they were written.
    Groups(super::groups::GroupSet),
    /// The whole object, durable, under its hash.
    All,
}

/// What the driver tells the session.
#[derive(Debug)]
pub enum RequesterInput {
    Received(Frame<ToRequester>),
    /// The peer sent what is no message of the protocol.
    Garbage(FrameError),
    /// Answers [`RequesterOutput::Inspect`], in the same order.
    Inspected(Vec<Have>),
    /// The group and the note that it is here are written; durable when the object is kept, or earlier.
    GroupWritten {
        object: u32,
        group: u32,
    },
    /// The whole object is durable.
    ObjectKept {
        object: u32,
    },
    /// The sink cannot go on; the text is for the user.
    SinkFailed {
        why: String,
    },
    /// Nobody waits for it any more.
    Cancel,
    Tick,
    /// The stream ended.
    Closed,
}

/// What the driver must do, in this order.
#[derive(Debug)]
pub enum RequesterOutput {
    Send(FrameToHolder),
    /// The manifest is the one that the ledger commits to; the readings beside it are the holder's word.
    Offered {
        disclosure: DisclosureId,
        manifest: Box<Manifest>,
        readings: Vec<Reading>,
    },
    /// What is here already? Answer with [`RequesterInput::Inspected`].
    Inspect(Vec<ObjectPlace>),
    /// Groups of this object follow; these are its group hashes, checked.
    Begin {
        place: ObjectPlace,
        hashes: Vec<GroupHash>,
    },
    /// Answer with [`RequesterInput::GroupWritten`].
    WriteGroup {
        object: u32,
        group: u32,
        bytes: Vec<u8>,
    },
    /// All groups are written: make the object durable under its hash. Answer with [`RequesterInput::ObjectKept`].
    Keep(ObjectPlace),
    /// The last output. Close the stream once all frames are sent.
    End(Box<Result<Summary, Failure>>),
}

/// An object that was wanted and did not come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Absent {
    pub sop_instance: Uid,
    pub code: UnavailableCode,
}

/// What a finished session brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    pub disclosure: DisclosureId,
    /// Wanted objects that are now here, durable and verified.
    pub held: u32,
    /// Wanted objects that the holder could not send; an amendment or another holder may.
    pub missing: Vec<Absent>,
    /// Bytes that travelled.
    pub received_bytes: u64,
    /// Bytes that were here before.
    pub reused_bytes: u64,
    pub receipt: SignedReceipt,
    /// Absent when the stream broke, or fell silent, after the last object.
    pub holder_receipt: Option<SignedReceipt>,
}

/// Why a session did not finish.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("the holder refused: {}", .0.refusal)]
    Refused(Box<SignedRefusal>),
    #[error("the manifest is not the one that the ledger commits to ({commitment}); tell the holder's operator")]
    WrongManifest { commitment: Hash },
    #[error("object {sop_instance}: its group hashes do not lead to {hash}; tell the holder's operator")]
    WrongHashes { sop_instance: Uid, hash: Hash },
    #[error("object {sop_instance} ({hash}): group {group} has a wrong byte; tell the holder's operator")]
    WrongGroup { sop_instance: Uid, hash: Hash, group: u32 },
    #[error("the holder broke the protocol: {0}; tell the holder's operator")]
    Breach(&'static str),
    #[error("what the holder sent is no message of the protocol: {0}; tell the holder's operator")]
    Garbage(FrameError),
    #[error("the holder did not answer in time ({0}); ask again later, and what has arrived is not sent twice")]
    TimedOut(Awaited),
    #[error("the connection to the holder broke; ask again later, and what has arrived is not sent twice")]
    Broken,
    #[error("the images could not be kept here: {0}")]
    Sink(String),
    #[error("cancelled")]
    Cancelled,
}

impl Failure {
    /// Whether the holder showed that it must not be trusted with this examination, and another one may be asked.
    pub const fn is_tampering(&self) -> bool {
        matches!(self, Self::WrongManifest { .. } | Self::WrongHashes { .. } | Self::WrongGroup { .. })
    }

    /// Whether an honest holder never gives cause for it: its node is broken, or lies.
    pub const fn is_holders_fault(&self) -> bool {
        self.is_tampering() || matches!(self, Self::Breach(_) | Self::Garbage(_))
    }

    /// Whether a new session may go on at once where this one stopped: the line broke, or fell silent while images
    /// were on the way. A refusal is an answer: the holder has already waited for what it lacked, and whoever waits
    /// here is told. So is a holder told of that was silent before it decided: it had its time.
    pub const fn may_be_resumed(&self) -> bool {
        matches!(self, Self::Broken | Self::TimedOut(Awaited::Images))
    }
}

/// What a requester waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited {
    Greeting,
    Decision,
    Images,
}

impl std::fmt::Display for Awaited {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Greeting => "greeting",
            Self::Decision => "decision",
            Self::Images => "images",
        })
    }
}

enum Phase {
    AwaitHello { since: UnixMillis },
    AwaitOffer { challenge: Challenge, since: UnixMillis },
    Inspecting { challenge: Challenge, disclosure: DisclosureId, places: Vec<ObjectPlace>, declared: Vec<Absent> },
    Transferring { challenge: Challenge, transfer: Box<Transfer> },
    AwaitReceipt { summary: Box<Summary>, since: UnixMillis },
    Ended,
}

/// See the module's header.
pub struct RequesterSession {
    me: Identity,
    intent: Intent,
    phase: Phase,
    /// When the holder was last heard, or a group was last written.
    active: UnixMillis,
}

type Outputs = Vec<RequesterOutput>;

impl RequesterSession {
    /// Waits for the holder's greeting on a stream to `intent.holder`, whose identity the transport proved.
    pub fn open(now: UnixMillis, me: Identity, intent: Intent) -> Self {
        Self { me, intent, phase: Phase::AwaitHello { since: now }, active: now }
    }

    pub fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended)
    }

    pub fn step(&mut self, now: UnixMillis, input: RequesterInput) -> Vec<RequesterOutput> {
        let mut out = Vec::new();
        match input {
            RequesterInput::Received(frame) => {
                self.active = now;
                let taken = self.take_frame(now, frame, &mut out);
                self.settle(taken, &mut out);
            }
            RequesterInput::Garbage(error) => self.settle(Err(Failure::Garbage(error)), &mut out),
            RequesterInput::Inspected(have) => self.begin(now, have, &mut out),
            RequesterInput::GroupWritten { object, group } => {
                self.active = now;
                if let Phase::Transferring { transfer, .. } = &mut self.phase {
                    transfer.written(object, group, &mut out);
                    transfer.refill(&mut out);
                }
            }
            RequesterInput::ObjectKept { object } => {
                if let Phase::Transferring { transfer, .. } = &mut self.phase {
                    transfer.kept(object);
                    transfer.refill(&mut out);
                    self.finish_if_done(now, &mut out);
                }
            }
            RequesterInput::SinkFailed { why } => self.settle(Err(Failure::Sink(why)), &mut out),
            RequesterInput::Cancel => self.settle(Err(Failure::Cancelled), &mut out),
            RequesterInput::Tick => match &self.phase {
                Phase::AwaitReceipt { since, .. } if now.since(*since) > GREETING_TIMEOUT_MS => self.closed(&mut out),
                _ => {
                    let timely = self.check_time(now);
                    self.settle(timely, &mut out);
                }
            },
            RequesterInput::Closed => self.closed(&mut out),
        }
        out
    }

    /// Ends the session on a failure, telling the holder where that helps it.
    fn settle(&mut self, result: Result<(), Failure>, out: &mut Outputs) {
        let Err(failure) = result else { return };
        if self.has_ended() {
            return;
        }
        let code = match &failure {
            Failure::Sink(_) => Some(StopCode::OUT_OF_SPACE),
            Failure::Cancelled => Some(StopCode::NO_LONGER_WANTED),
            failure if failure.is_tampering() => Some(StopCode::WRONG_BYTES),
            _ => None,
        };
        out.extend(code.map(|code| RequesterOutput::Send(Frame::Control(ToHolder::Stop { code }))));
        self.end(Err(failure), out);
    }

    fn end(&mut self, result: Result<Summary, Failure>, out: &mut Outputs) {
        self.phase = Phase::Ended;
        out.push(RequesterOutput::End(Box::new(result)));
    }

    /// All objects may be here though the holder's receipt is not.
    fn closed(&mut self, out: &mut Outputs) {
        match std::mem::replace(&mut self.phase, Phase::Ended) {
            Phase::Ended => {}
            Phase::AwaitReceipt { summary, .. } => self.end(Ok(*summary), out),
            _ => self.end(Err(Failure::Broken), out),
        }
    }

    fn check_time(&self, now: UnixMillis) -> Result<(), Failure> {
        let late = |since: UnixMillis, limit| now.since(since) > limit;
        match &self.phase {
            Phase::AwaitHello { since } if late(*since, GREETING_TIMEOUT_MS) => {
                Err(Failure::TimedOut(Awaited::Greeting))
            }
            Phase::AwaitOffer { since, .. } if late(*since, DECISION_TIMEOUT_MS) => {
                Err(Failure::TimedOut(Awaited::Decision))
            }
            Phase::Transferring { transfer, .. } if transfer.awaits() && late(self.active, IDLE_TIMEOUT_MS) => {
                Err(Failure::TimedOut(Awaited::Images))
            }
            _ => Ok(()),
        }
    }

    fn take_frame(&mut self, now: UnixMillis, frame: Frame<ToRequester>, out: &mut Outputs) -> Result<(), Failure> {
        match (frame, &mut self.phase) {
            (_, Phase::Ended) => Ok(()),
            (Frame::Control(ToRequester::Hello { challenge, .. }), Phase::AwaitHello { .. }) => {
                out.push(RequesterOutput::Send(Frame::Control(self.request(now, challenge))));
                self.phase = Phase::AwaitOffer { challenge, since: now };
                Ok(())
            }
            (Frame::Control(ToRequester::Refused(signed)), _) => Err(self.refused(*signed)),
            (
                Frame::Control(ToRequester::Offer { disclosure, manifest, salt }),
                Phase::AwaitOffer { challenge, .. },
            ) => {
                let challenge = *challenge;
                self.take_offer(challenge, disclosure, &manifest, &salt, Vec::new(), out)
            }
            (
                Frame::Control(ToRequester::OfferWithReadings { disclosure, manifest, salt, readings }),
                Phase::AwaitOffer { challenge, .. },
            ) => {
                let challenge = *challenge;
                self.take_offer(challenge, disclosure, &manifest, &salt, readings, out)
            }
            (Frame::Control(ToRequester::Receipt(signed)), Phase::AwaitReceipt { .. }) => {
                self.take_receipt(*signed, out)
            }
            (frame, Phase::Transferring { transfer, .. }) => {
                transfer.take(Arrival::try_from(frame).map_err(Failure::Breach)?, out)?;
                transfer.refill(out);
                self.finish_if_done(now, out);
                Ok(())
            }
            _ => Err(Failure::Breach("a message out of turn")),
        }
    }

    fn request(&self, now: UnixMillis, challenge: Challenge) -> ToHolder {
        let intent = &self.intent;
        let request = RetrievalRequest {
            version: VERSION,
            id: intent.id,
            federation: self.me.federation,
            challenge,
            requester: self.me.node,
            requester_site: intent.site.clone(),
            holder: intent.holder,
            user: intent.user.clone(),
            study: intent.study.clone(),
            purpose: intent.purpose,
            basis: intent.basis.clone(),
            break_glass: intent.break_glass.clone(),
            created: now,
            seen: intent.seen,
        };
        ToHolder::Request { signed: Box::new(request.sign(&self.me.command_key)), note: intent.note.clone() }
    }

    /// A refusal counts only with the holder's signature on this session.
    fn refused(&self, signed: SignedRefusal) -> Failure {
        let challenge = match &self.phase {
            Phase::AwaitOffer { challenge, .. }
            | Phase::Inspecting { challenge, .. }
            | Phase::Transferring { challenge, .. } => Some(*challenge),
            _ => None,
        };
        let Refusal { federation, holder, requester, challenge: theirs, .. } = &signed.refusal;
        let ours = (*federation, *holder, *requester) == (self.me.federation, self.intent.holder, self.me.node);
        match challenge == Some(*theirs) && ours && signed.verify(&self.intent.holder_key).is_ok() {
            true => Failure::Refused(Box::new(signed)),
            false => Failure::Breach("a refusal that it did not sign for this session"),
        }
    }

    fn take_offer(
        &mut self,
        challenge: Challenge,
        disclosure: DisclosureId,
        bytes: &[u8],
        salt: &[u8; 16],
        readings: Vec<Reading>,
        out: &mut Outputs,
    ) -> Result<(), Failure> {
        let commitment = self.intent.study.commitment;
        let wrong = Failure::WrongManifest { commitment };
        if Manifest::commitment_of(bytes, salt) != commitment {
            return Err(wrong);
        }
        // From here on the bytes are the holder's own registered ones; a fault in them is an honest one.
        let manifest = Manifest::from_bytes(bytes).map_err(|_| wrong.clone())?;
        if manifest.site != self.intent.study.site || manifest.study_uid != self.intent.study.study_uid {
            return Err(wrong);
        }
        let (places, declared) = self.sort_objects(&manifest);
        out.push(RequesterOutput::Offered { disclosure, manifest: Box::new(manifest), readings });
        out.push(RequesterOutput::Inspect(places.clone()));
        self.phase = Phase::Inspecting { challenge, disclosure, places, declared };
        Ok(())
    }

    /// The wanted objects that can be fetched, and those that the holder has only heard of.
    fn sort_objects(&self, manifest: &Manifest) -> (Vec<ObjectPlace>, Vec<Absent>) {
        let (mut places, mut declared) = (Vec::new(), Vec::new());
        let wanted = manifest.objects.iter().zip(0u32..);
        for (object, number) in wanted.filter(|(object, _)| self.intent.selection.contains(&object.sop_instance)) {
            let sop_instance = object.sop_instance.clone();
            match object.content {
                ObjectContent::Verified { bytes, hash, .. } if super::groups::is_transferable(&hash, bytes) => {
                    places.push(ObjectPlace { object: number, sop_instance, hash, size: bytes });
                }
                ObjectContent::Verified { .. } => {
                    declared.push(Absent { sop_instance, code: UnavailableCode::TOO_LARGE });
                }
                ObjectContent::Declared => declared.push(Absent { sop_instance, code: UnavailableCode::NOT_PINNED }),
            }
        }
        (places, declared)
    }

    fn begin(&mut self, now: UnixMillis, have: Vec<Have>, out: &mut Outputs) {
        let Phase::Inspecting { places, .. } = &self.phase else { return };
        assert_eq!(places.len(), have.len(), "the sink answers for each object that it was asked about");
        let Phase::Inspecting { challenge, disclosure, places, declared } =
            std::mem::replace(&mut self.phase, Phase::Ended)
        else {
            return;
        };
        let objects = places.into_iter().zip(have).map(|(place, have)| Fetching::new(place, have));
        let mut transfer = Box::new(Transfer::new(disclosure, objects.collect(), declared));
        transfer.keep_whole(out);
        transfer.refill(out);
        self.phase = Phase::Transferring { challenge, transfer };
        self.active = now;
        self.finish_if_done(now, out);
    }

    fn finish_if_done(&mut self, now: UnixMillis, out: &mut Outputs) {
        let Phase::Transferring { transfer, .. } = &self.phase else { return };
        if !transfer.is_done() {
            return;
        }
        let receipt = Receipt {
            version: VERSION,
            federation: self.me.federation,
            retrieval: self.intent.id,
            disclosure: transfer.disclosure(),
            by: Party::Requester,
            requester: self.me.node,
            holder: self.intent.holder,
            commitment: self.intent.study.commitment,
            objects: transfer.held(),
            bytes: transfer.received_bytes(),
            transcript: transfer.transcript(),
            complete: transfer.missing().is_empty(),
            time: now,
        };
        let receipt = receipt.sign(&self.me.command_key);
        let summary = Summary {
            disclosure: transfer.disclosure(),
            held: transfer.held(),
            missing: transfer.missing(),
            received_bytes: transfer.received_bytes(),
            reused_bytes: transfer.reused_bytes(),
            receipt: receipt.clone(),
            holder_receipt: None,
        };
        out.push(RequesterOutput::Send(Frame::Control(ToHolder::Done(Box::new(receipt)))));
        self.phase = Phase::AwaitReceipt { summary: Box::new(summary), since: now };
    }

    fn take_receipt(&mut self, theirs: SignedReceipt, out: &mut Outputs) -> Result<(), Failure> {
        let Phase::AwaitReceipt { summary, .. } = &self.phase else { return Ok(()) };
        let (mine, other) = (&summary.receipt.receipt, &theirs.receipt);
        let same = Receipt { by: Party::Holder, bytes: other.bytes, time: other.time, ..mine.clone() };
        if same != *other || theirs.verify(&self.intent.holder_key).is_err() {
            return Err(Failure::Breach("a receipt for something else"));
        }
        let summary = Summary { holder_receipt: Some(theirs), ..(**summary).clone() };
        self.end(Ok(summary), out);
        Ok(())
    }
}

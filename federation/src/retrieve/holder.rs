//! The holder's side of one retrieval session: verify, catch up, decide, write down, and only then send.
//!
//! Sans-IO: `step(now, input, view)` takes what happened and returns what to do, in order. `now` is *trusted time*
//! (DESIGN section 7). Invariants, each asserted or held by the shape of [`Phase`]:
//! 1. No manifest, hash or group leaves before a ruling allowed it on a certified state that is at least as new as
//!    the requester's and fresher than the limit, and the disclosure of this session is durable (P4).
//! 2. Nothing is read or sent while a new ruling is awaited, and what was handed out waits ([`HolderOutput::Hold`]);
//!    a denial discards what is not yet on the wire (P5).
//! 3. A request counts only in the session whose challenge it signed, from the peer that the transport proved, for
//!    a site that this peer speaks for. So a recorded request is worthless.
//! 4. Memory is bounded ([`super::serving`]).
//! 5. Once the requester has acknowledged, the holder's receipt is written whatever the line does then, and the
//!    requester gets it only when it is durable: what one side can show, the ledger will have.
//!
//! Not here: what the rules say (the ruling comes as an input), what a disclosure looks like in the ledger.

use tessera_consensus::{NodeId, UnixMillis};

use super::frame::Frame;
use super::groups::GroupHash;
use super::port::{
    Allowed, Facts, Freshness, HolderInput, HolderOutput, HolderView, Identity, NewDisclosure, Outcome, Ruling, Stage,
};
use super::serving::Serving;
use super::wire::v1::{
    Challenge, Party, Receipt, Refusal, RefusalCode, RetrievalRequest, Seen, SignedReceipt, SignedRequest, ToHolder,
    ToRequester, VERSION,
};
use super::{CATCH_UP_TIMEOUT_MS, GREETING_TIMEOUT_MS, IDLE_TIMEOUT_MS, MANIFEST_BYTES_MAX};
use crate::ids::DisclosureId;
use crate::wire::Format;

/// The request as the session carries it.
pub(super) struct Asked {
    pub signed: SignedRequest,
    pub note: Option<String>,
}

impl Asked {
    pub fn request(&self) -> &RetrievalRequest {
        &self.signed.request
    }
}

enum Phase {
    AwaitRequest,
    CatchingUp {
        asked: Asked,
        since: UnixMillis,
    },
    /// `awaited` rulings are still to come; the last one counts.
    Deciding {
        asked: Asked,
        awaited: u32,
    },
    Writing {
        asked: Asked,
        allowed: Box<Allowed>,
        changed: bool,
    },
    Serving(Box<Serving>),
    /// All was handed over; this holder's receipt is being written.
    Acknowledging {
        requester: Box<SignedReceipt>,
        holder: Box<SignedReceipt>,
        since: UnixMillis,
    },
    Ended,
}

/// See the module's header.
pub struct HolderSession {
    me: Identity,
    peer: NodeId,
    challenge: Challenge,
    phase: Phase,
    /// When the peer was last heard or served.
    active: UnixMillis,
}

type Outputs = Vec<HolderOutput>;

impl HolderSession {
    /// Opens a session with the peer that the transport proved. `challenge` is fresh randomness.
    pub fn open(now: UnixMillis, me: Identity, peer: NodeId, challenge: Challenge) -> (Self, Vec<HolderOutput>) {
        let hello = HolderOutput::Send(Frame::Control(ToRequester::Hello { version: VERSION, challenge }));
        (Self { me, peer, challenge, phase: Phase::AwaitRequest, active: now }, vec![hello])
    }

    pub fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended)
    }

    pub fn step(&mut self, now: UnixMillis, input: HolderInput, view: &dyn HolderView) -> Vec<HolderOutput> {
        let mut out = Vec::new();
        let acknowledging = matches!(self.phase, Phase::Acknowledging { .. });
        match input {
            // Invariant 5.
            HolderInput::Received(_) | HolderInput::Garbage(_) | HolderInput::Closed if acknowledging => {}
            HolderInput::Received(frame) => {
                self.active = now;
                self.take_frame(now, frame, view, &mut out);
            }
            HolderInput::Garbage(error) => self.end(Outcome::Garbage(error), &mut out),
            HolderInput::StateChanged { concerns } => self.state_changed(now, concerns, view, &mut out),
            HolderInput::Decided(ruling) => self.take_ruling(now, ruling, view, &mut out),
            HolderInput::DisclosureDurable(name) => self.offer(now, name, view, &mut out),
            HolderInput::DisclosureFailed => {
                if matches!(self.phase, Phase::Writing { .. }) {
                    self.refuse(now, RefusalCode::HOLDER_FAULT, Vec::new(), view, &mut out);
                }
            }
            HolderInput::ReceiptDurable => self.acknowledge(&mut out),
            HolderInput::ReceiptFailed => self.end(Outcome::Broken, &mut out),
            HolderInput::HashesRead { object, hashes } => self.hashes_read(object, hashes, &mut out),
            HolderInput::GroupRead { object, group, bytes } => self.group_read(object, group, bytes, &mut out),
            HolderInput::DataSent => {
                self.active = now;
                if let Phase::Serving(serving) = &mut self.phase {
                    serving.data_sent(&mut out);
                }
            }
            HolderInput::Tick => self.tick(now, view, &mut out),
            HolderInput::Closed => self.end(Outcome::Broken, &mut out),
        }
        out
    }

    fn end(&mut self, outcome: Outcome, out: &mut Outputs) {
        if !self.has_ended() {
            self.phase = Phase::Ended;
            out.push(HolderOutput::End(Box::new(outcome)));
        }
    }

    fn refuse(
        &mut self,
        now: UnixMillis,
        code: RefusalCode,
        reasons: Vec<String>,
        view: &dyn HolderView,
        out: &mut Outputs,
    ) {
        let retrieval = match &self.phase {
            Phase::AwaitRequest | Phase::Acknowledging { .. } | Phase::Ended => None,
            Phase::CatchingUp { asked, .. } | Phase::Deciding { asked, .. } | Phase::Writing { asked, .. } => {
                Some(asked.request().id)
            }
            Phase::Serving(serving) => {
                out.push(HolderOutput::DiscardUnsent);
                Some(serving.asked.request().id)
            }
        };
        let refusal = Refusal {
            version: VERSION,
            federation: self.me.federation,
            holder: self.me.node,
            requester: self.peer,
            challenge: self.challenge,
            retrieval,
            code,
            reasons: reasons.clone(),
            time: now,
            seen: view.certified(),
        };
        let signed = refusal.sign(&self.me.command_key);
        out.push(HolderOutput::Send(Frame::Control(ToRequester::Refused(Box::new(signed)))));
        self.end(Outcome::Refused { code, reasons }, out);
    }

    fn take_frame(&mut self, now: UnixMillis, frame: Frame<ToHolder>, view: &dyn HolderView, out: &mut Outputs) {
        let Frame::Control(message) = frame else {
            return self.end(Outcome::Breach("a requester sends no data"), out);
        };
        match (message, &mut self.phase) {
            (_, Phase::Ended) => {}
            (ToHolder::Request { signed, note }, Phase::AwaitRequest) => {
                self.take_request(now, Asked { signed: *signed, note }, view, out);
            }
            (ToHolder::Want(wants), Phase::Serving(serving)) => match serving.take_wants(wants) {
                Ok(()) => serving.pump(out),
                Err(breach) => self.end(Outcome::Breach(breach), out),
            },
            (ToHolder::Done(receipt), Phase::Serving(_)) => self.finish(now, *receipt, view, out),
            (ToHolder::Stop { code }, _) => self.end(Outcome::Stopped(code), out),
            _ => self.end(Outcome::Breach("a message out of turn"), out),
        }
    }

    fn take_request(&mut self, now: UnixMillis, asked: Asked, view: &dyn HolderView, out: &mut Outputs) {
        match self.check_request(&asked.signed, view) {
            Err(code) => self.refuse(now, code, Vec::new(), view, out),
            Ok(()) => {
                self.phase = Phase::CatchingUp { asked, since: now };
                self.try_decide(now, view, out);
                if let Phase::CatchingUp { asked, .. } = &self.phase {
                    out.push(HolderOutput::CatchUp { seen: asked.request().seen, note: asked.note.clone() });
                }
            }
        }
    }

    /// Who asks, for whom, and in this session: invariant 3.
    fn check_request(&self, signed: &SignedRequest, view: &dyn HolderView) -> Result<(), RefusalCode> {
        let request = &signed.request;
        let record = view.requester(&self.peer).ok_or(RefusalCode::NOT_A_MEMBER)?;
        let parties = request.federation == self.me.federation
            && request.requester == self.peer
            && request.holder == self.me.node
            && self.me.sites.contains(&request.study.site)
            && record.sites.contains(&request.requester_site)
            && request.user.site().as_str() == request.requester_site.as_str();
        if !parties {
            return Err(RefusalCode::WRONG_PARTY);
        }
        signed.verify(&record.command_key).map_err(|_| RefusalCode::BAD_SIGNATURE)?;
        if request.challenge != self.challenge {
            return Err(RefusalCode::OTHER_SESSION);
        }
        Ok(())
    }

    /// From [`Phase::CatchingUp`] to [`Phase::Deciding`] when this node's own knowledge suffices. Break-glass waits
    /// for a holder that is behind as all others do, but then goes on with what is there.
    fn try_decide(&mut self, now: UnixMillis, view: &dyn HolderView, out: &mut Outputs) {
        let Phase::CatchingUp { asked, since } = &self.phase else { return };
        let late = now.since(*since) > CATCH_UP_TIMEOUT_MS;
        match knowledge(now, asked.request(), view) {
            Knowledge::OtherHistory => self.refuse(now, RefusalCode::OTHER_HISTORY, Vec::new(), view, out),
            Knowledge::Lacking(code) if late => self.refuse(now, code, Vec::new(), view, out),
            Knowledge::Lacking(_) => {}
            Knowledge::Enough { certified, .. } if certified.size < asked.request().seen.size && !late => {}
            Knowledge::Enough { certified, freshness } => {
                let stage = Stage::Opening;
                let Phase::CatchingUp { asked, .. } = std::mem::replace(&mut self.phase, Phase::Ended) else { return };
                let request = asked.request().clone();
                out.push(HolderOutput::Decide(Box::new(Facts { request, stage, now, certified, freshness })));
                self.phase = Phase::Deciding { asked, awaited: 1 };
            }
        }
    }

    fn state_changed(&mut self, now: UnixMillis, concerns: bool, view: &dyn HolderView, out: &mut Outputs) {
        let member = view.requester(&self.peer).is_some();
        match &mut self.phase {
            Phase::CatchingUp { .. } => self.try_decide(now, view, out),
            Phase::Deciding { .. } | Phase::Writing { .. } | Phase::Serving(_) if !member => {
                self.refuse(now, RefusalCode::NOT_A_MEMBER, Vec::new(), view, out);
            }
            Phase::Deciding { .. } | Phase::Serving(_) if concerns => {
                self.decide_again(now, Stage::StateChanged, view, out);
            }
            Phase::Writing { changed, .. } => *changed |= concerns,
            _ => {}
        }
    }

    /// Invariant 2: from here on nothing goes out until the ruling is in.
    fn decide_again(&mut self, now: UnixMillis, stage: Stage, view: &dyn HolderView, out: &mut Outputs) {
        let (request, awaited) = match &mut self.phase {
            Phase::Deciding { asked, awaited } => (asked.request(), awaited),
            Phase::Serving(serving) => {
                if serving.awaited == 0 {
                    out.push(HolderOutput::Hold);
                }
                (serving.asked.request(), &mut serving.awaited)
            }
            _ => return,
        };
        *awaited += 1;
        match knowledge(now, request, view) {
            Knowledge::Enough { certified, freshness } => {
                let request = request.clone();
                out.push(HolderOutput::Decide(Box::new(Facts { request, stage, now, certified, freshness })));
            }
            Knowledge::OtherHistory => self.refuse(now, RefusalCode::OTHER_HISTORY, Vec::new(), view, out),
            Knowledge::Lacking(code) => self.refuse(now, code, Vec::new(), view, out),
        }
    }

    fn take_ruling(&mut self, now: UnixMillis, ruling: Ruling, view: &dyn HolderView, out: &mut Outputs) {
        match (ruling, &mut self.phase) {
            (Ruling::Deny { code, reasons }, Phase::Deciding { .. } | Phase::Serving(_)) => {
                self.refuse(now, code, reasons, view, out);
            }
            (Ruling::Allow(allowed), Phase::Serving(serving)) => {
                serving.until = allowed.until;
                serving.awaited = serving.awaited.saturating_sub(1);
                if serving.awaited == 0 {
                    out.push(HolderOutput::Resume);
                }
                serving.pump(out);
            }
            (Ruling::Allow(allowed), Phase::Deciding { awaited, .. }) => {
                *awaited -= 1;
                if *awaited == 0 {
                    self.write_disclosure(now, allowed, view, out);
                }
            }
            _ => {}
        }
    }

    fn write_disclosure(&mut self, now: UnixMillis, allowed: Box<Allowed>, view: &dyn HolderView, out: &mut Outputs) {
        let Phase::Deciding { asked, .. } = &self.phase else { return };
        let request = asked.request();
        let manifest = &allowed.manifest;
        if manifest.commitment(&allowed.salt) != request.study.commitment {
            return self.refuse(now, RefusalCode::NOT_HERE, Vec::new(), view, out);
        }
        if manifest.to_bytes().len() > MANIFEST_BYTES_MAX {
            let reasons = vec!["the manifest is larger than one message may be".into()];
            return self.refuse(now, RefusalCode::HOLDER_FAULT, reasons, view, out);
        }
        let Knowledge::Enough { certified, freshness } = knowledge(now, request, view) else {
            return self.refuse(now, RefusalCode::STALE, Vec::new(), view, out);
        };
        let facts = Facts { request: request.clone(), stage: Stage::Opening, now, certified, freshness };
        let bytes = manifest.bytes();
        let objects = manifest.objects.len() as u32;
        let disclosure = NewDisclosure { facts, signed: asked.signed.clone(), objects, bytes };
        out.push(HolderOutput::WriteDisclosure(Box::new(disclosure)));
        let Phase::Deciding { asked, .. } = std::mem::replace(&mut self.phase, Phase::Ended) else { return };
        self.phase = Phase::Writing { asked, allowed, changed: false };
    }

    /// Invariant 1: the only way into [`Phase::Serving`]. What changed while the disclosure was being written is
    /// decided once more before the offer goes out.
    fn offer(&mut self, now: UnixMillis, disclosure: DisclosureId, view: &dyn HolderView, out: &mut Outputs) {
        if !matches!(self.phase, Phase::Writing { .. }) {
            return;
        }
        let Phase::Writing { asked, allowed, changed } = std::mem::replace(&mut self.phase, Phase::Ended) else {
            return;
        };
        self.phase = Phase::Serving(Box::new(Serving::new(asked, disclosure, &allowed)));
        self.active = now;
        if changed {
            self.decide_again(now, Stage::StateChanged, view, out);
        } else if let Phase::Serving(serving) = &mut self.phase {
            serving.pump(out);
        }
    }

    fn hashes_read(&mut self, object: u32, hashes: Option<Vec<GroupHash>>, out: &mut Outputs) {
        if let Phase::Serving(serving) = &mut self.phase {
            serving.fill_hashes(object, hashes);
            serving.pump(out);
        }
    }

    fn group_read(&mut self, object: u32, group: u32, bytes: Option<Vec<u8>>, out: &mut Outputs) {
        if let Phase::Serving(serving) = &mut self.phase {
            serving.fill_group(object, group, bytes);
            serving.pump(out);
        }
    }

    fn finish(&mut self, now: UnixMillis, theirs: SignedReceipt, view: &dyn HolderView, out: &mut Outputs) {
        let Phase::Serving(serving) = &self.phase else { return };
        let request = serving.asked.request();
        let mine = Receipt {
            version: VERSION,
            federation: self.me.federation,
            retrieval: request.id,
            disclosure: serving.disclosure,
            by: Party::Holder,
            requester: self.peer,
            holder: self.me.node,
            commitment: request.study.commitment,
            objects: theirs.receipt.objects,
            transcript: theirs.receipt.transcript,
            bytes: serving.sent_bytes,
            complete: theirs.receipt.complete,
            time: now,
        };
        let other = &theirs.receipt;
        let same = Receipt { by: Party::Requester, bytes: other.bytes, time: other.time, ..mine.clone() };
        let genuine = view.requester(&self.peer).is_some_and(|record| theirs.verify(&record.command_key).is_ok());
        if !genuine || same != *other || !serving.admits(other) {
            return self.end(Outcome::Breach("a receipt for something else"), out);
        }
        let mine = Box::new(mine.sign(&self.me.command_key));
        if serving.awaited > 0 {
            // Nobody waits for what is held, and no ruling lets the receipt go.
            out.push(HolderOutput::DiscardUnsent);
        }
        out.push(HolderOutput::WriteReceipt(mine.clone()));
        self.phase = Phase::Acknowledging { requester: Box::new(theirs), holder: mine, since: now };
    }

    fn acknowledge(&mut self, out: &mut Outputs) {
        if !matches!(self.phase, Phase::Acknowledging { .. }) {
            return;
        }
        let Phase::Acknowledging { requester, holder, .. } = std::mem::replace(&mut self.phase, Phase::Ended) else {
            return;
        };
        out.push(HolderOutput::Send(Frame::Control(ToRequester::Receipt(holder.clone()))));
        out.push(HolderOutput::End(Box::new(Outcome::Finished { requester, holder })));
    }

    fn tick(&mut self, now: UnixMillis, view: &dyn HolderView, out: &mut Outputs) {
        match &self.phase {
            Phase::AwaitRequest if now.since(self.active) > GREETING_TIMEOUT_MS => self.end(Outcome::Broken, out),
            Phase::CatchingUp { .. } => self.try_decide(now, view, out),
            Phase::Acknowledging { since, .. } if now.since(*since) > IDLE_TIMEOUT_MS => {
                self.end(Outcome::Broken, out);
            }
            Phase::Serving(serving) => {
                let expired = serving.until.is_some_and(|until| now > until);
                let idle = now.since(self.active) > IDLE_TIMEOUT_MS;
                match knowledge(now, serving.asked.request(), view) {
                    Knowledge::Lacking(code) => self.refuse(now, code, Vec::new(), view, out),
                    _ if idle => self.end(Outcome::Broken, out),
                    _ if expired && serving.awaited == 0 => self.decide_again(now, Stage::RulingExpired, view, out),
                    _ => {}
                }
            }
            _ => {}
        }
    }
}

/// Whether this node knows enough to decide.
enum Knowledge {
    Enough { certified: Seen, freshness: Freshness },
    Lacking(RefusalCode),
    OtherHistory,
}

/// Break-glass may be decided on old knowledge; the rules then see how old it is. Nothing else may.
fn knowledge(now: UnixMillis, request: &RetrievalRequest, view: &dyn HolderView) -> Knowledge {
    let Some(certified) = view.certified() else { return Knowledge::Lacking(RefusalCode::BEHIND) };
    let seen = &request.seen;
    let behind = seen.size > certified.size;
    if !behind && view.root_at(seen.size) != Some(seen.root) {
        return Knowledge::OtherHistory;
    }
    let freshness = Freshness { age_ms: now.since(certified.time), limit_ms: view.freshness_limit_ms(request) };
    if request.break_glass.is_none() {
        if behind {
            return Knowledge::Lacking(RefusalCode::BEHIND);
        }
        if !view.clock_is_trusted() {
            return Knowledge::Lacking(RefusalCode::CLOCK);
        }
        if !freshness.is_fresh() {
            return Knowledge::Lacking(RefusalCode::STALE);
        }
    }
    Knowledge::Enough { certified, freshness }
}

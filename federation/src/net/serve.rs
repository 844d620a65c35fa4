//! Runs the holder's side of retrievals over streams: [`HolderSession`] decides, this carries out.
//!
//! Rulings, the disclosure and the receipt go through one lane, in order; groups are read side by side. The stream and
//! the tasks are the pump's ([`super::pump`]); all end with the session, and a session ends with its stream.

use std::future::ready;
use std::sync::{Arc, Mutex, PoisonError};

use tessera_consensus::{Hash, UnixMillis};
use tokio::sync::watch;

use super::pump::{Pump, SessionInput};
use super::streams::PeerStream;
use crate::ids::DisclosureId;
use crate::retrieve::frame::{Frame, FrameError};
use crate::retrieve::groups::GroupHash;
use crate::retrieve::wire::v1::{Challenge, Seen, SignedReceipt, ToHolder, ToRequester};
use crate::retrieve::{
    Busy, Desk, Facts, HolderInput, HolderOutput, HolderSession, HolderView, Identity, NewDisclosure, Outcome, Ruling,
};

/// Rulings and disclosures that one session waits for.
const LANE_JOBS_MAX: usize = 64;

/// Counts what moved in the replica; sessions watch it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Certified states that were reached.
    pub certified: u64,
    /// Changes of rules, consents, records or membership; running transfers are decided again after each.
    pub rules: u64,
}

/// What a holder's node does for its sessions. Calls may block; they run where blocking is allowed, but for those of
/// [`HolderView`] and `now`, which must be quick.
pub trait HolderHost: HolderView + Send + Sync + 'static {
    /// Trusted time, or the best guess when [`HolderView::clock_is_trusted`] says no.
    fn now(&self) -> UnixMillis;
    /// Finds the record and its manifest, and asks the rules.
    fn decide(&self, facts: &Facts) -> Ruling;
    /// Returns when the disclosure is durable; `None` when it could not be written. A retrieval that is resumed may
    /// get the disclosure that it had.
    fn write_disclosure(&self, disclosure: &NewDisclosure) -> Option<DisclosureId>;
    /// Returns when this holder's receipt is durable, on its way to the ledger behind its disclosure; `false` when it
    /// could not be written.
    fn write_receipt(&self, receipt: &SignedReceipt) -> bool;
    /// A requester has seen this checkpoint; the follower should look at the note.
    fn catch_up(&self, seen: &Seen, note: Option<&str>);
    /// `None` when the object is damaged or not here.
    fn group_hashes(&self, hash: &Hash, size: u64) -> Option<Vec<GroupHash>>;
    /// `None` when the object is damaged or not here.
    fn read_group(&self, hash: &Hash, size: u64, group: u32) -> Option<Vec<u8>>;
}

/// Serves retrieval streams. Clones share the desk.
#[derive(Clone)]
pub struct Server {
    me: Identity,
    host: Arc<dyn HolderHost>,
    changes: watch::Receiver<Changes>,
    desk: Arc<Mutex<Desk>>,
}

/// Gives a session's place back however the session ends.
struct Place {
    desk: Arc<Mutex<Desk>>,
    peer: tessera_consensus::NodeId,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner).leave(self.peer);
    }
}

impl Server {
    pub fn new(me: Identity, host: Arc<dyn HolderHost>, changes: watch::Receiver<Changes>) -> Self {
        Self { me, host, changes, desk: Arc::default() }
    }

    /// Serves one stream to its end. [`Busy`] closes it, and the requester comes back later.
    pub async fn serve(&self, stream: PeerStream) -> Result<Outcome, Busy> {
        let peer = stream.node();
        self.desk.lock().unwrap_or_else(PoisonError::into_inner).admit(peer)?;
        let _place = Place { desk: Arc::clone(&self.desk), peer };
        let challenge = Challenge::from_bytes(rand::random());
        let (session, outputs) = HolderSession::open(self.host.now(), self.me.clone(), peer, challenge);
        let pump = Pump::open(stream.into_inner(), LANE_JOBS_MAX);
        let (host, changes) = (Arc::clone(&self.host), self.changes.clone());
        Ok(Serving { host, changes, session, pump, outcome: None }.run(outputs).await)
    }
}

struct Serving {
    host: Arc<dyn HolderHost>,
    changes: watch::Receiver<Changes>,
    session: HolderSession,
    pump: Pump<HolderInput>,
    outcome: Option<Outcome>,
}

impl SessionInput for HolderInput {
    type Incoming = ToHolder;
    type Outgoing = ToRequester;

    fn received(frame: Frame<ToHolder>) -> Self {
        Self::Received(frame)
    }
    fn garbage(error: FrameError) -> Self {
        Self::Garbage(error)
    }
    fn closed() -> Self {
        Self::Closed
    }
    fn tick() -> Self {
        Self::Tick
    }
    fn data_sent() -> Option<Self> {
        Some(Self::DataSent)
    }
}

impl Serving {
    async fn run(mut self, outputs: Vec<HolderOutput>) -> Outcome {
        self.carry_out(outputs);
        let mut seen = *self.changes.borrow_and_update();
        while self.outcome.is_none() {
            tokio::select! {
                // Changes first: what was decided on an older state must not go out meanwhile.
                biased;
                changed = self.changes.changed() => match changed {
                    Ok(()) => {
                        let now = *self.changes.borrow_and_update();
                        let concerns = now.rules != seen.rules;
                        seen = now;
                        self.step(HolderInput::StateChanged { concerns });
                    }
                    // The node is ending.
                    Err(_) => self.outcome = Some(Outcome::Broken),
                },
                input = self.pump.next() => self.step(input),
            }
        }
        self.pump.farewell().await;
        self.outcome.unwrap_or(Outcome::Broken)
    }

    fn step(&mut self, input: HolderInput) {
        let view: &dyn HolderView = &*self.host;
        let outputs = self.session.step(self.host.now(), input, view);
        self.carry_out(outputs);
    }

    fn carry_out(&mut self, outputs: Vec<HolderOutput>) {
        for output in outputs {
            let host = Arc::clone(&self.host);
            match output {
                HolderOutput::Send(frame) => self.pump.send(frame),
                HolderOutput::Hold => self.pump.hold(),
                HolderOutput::Resume => self.pump.resume(),
                HolderOutput::DiscardUnsent => self.pump.discard_unsent(),
                HolderOutput::CatchUp { seen, note } => self.in_order(move || {
                    host.catch_up(&seen, note.as_deref());
                    None
                }),
                HolderOutput::Decide(facts) => {
                    self.in_order(move || Some(HolderInput::Decided(host.decide(&facts))));
                }
                HolderOutput::WriteDisclosure(disclosure) => self.in_order(move || {
                    let written = host.write_disclosure(&disclosure);
                    Some(written.map_or(HolderInput::DisclosureFailed, HolderInput::DisclosureDurable))
                }),
                HolderOutput::WriteReceipt(receipt) => self.in_order(move || {
                    let written = host.write_receipt(&receipt);
                    Some(if written { HolderInput::ReceiptDurable } else { HolderInput::ReceiptFailed })
                }),
                HolderOutput::ReadHashes { object, hash, size } => self.pump.beside(ready(()), move |()| {
                    Some(HolderInput::HashesRead { object, hashes: host.group_hashes(&hash, size) })
                }),
                HolderOutput::ReadGroup { object, group, hash, size } => self.pump.beside(ready(()), move |()| {
                    Some(HolderInput::GroupRead { object, group, bytes: host.read_group(&hash, size, group) })
                }),
                HolderOutput::End(outcome) => self.outcome = Some(*outcome),
            }
        }
    }

    /// Runs a job in the lane; a lane that is full ends the session, since a ruling that nobody makes opens nothing.
    fn in_order(&mut self, job: impl FnOnce() -> Option<HolderInput> + Send + 'static) {
        if self.pump.in_order(job).is_err() {
            self.outcome = Some(Outcome::Broken);
        }
    }
}

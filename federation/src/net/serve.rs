//! Runs the holder's side of retrievals over streams: [`HolderSession`] decides, this carries out.
//!
//! Three tasks for each session: one reads frames, one writes them, one steps the machine and never waits for the
//! other two. Rulings and the disclosure go through one lane, in order; groups are read side by side. All tasks end
//! with the session, and a session ends with its stream.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tessera_consensus::{Hash, UnixMillis};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::frames::{self, ReadError};
use super::lane::Lane;
use super::streams::PeerStream;
use crate::ids::DisclosureId;
use crate::retrieve::frame::{Frame, Message};
use crate::retrieve::groups::GroupHash;
use crate::retrieve::wire::v1::{Challenge, Seen};
use crate::retrieve::{
    Busy, Desk, Facts, FrameToRequester, HolderInput, HolderOutput, HolderSession, HolderView, Identity, NewDisclosure,
    Outcome, Ruling,
};

/// Inputs that wait for the machine: frames of the peer, answers of the disk.
const INPUTS_MAX: usize = 32;
/// Rulings and disclosures that one session waits for.
const LANE_JOBS_MAX: usize = 64;
/// How often a session looks at the clock.
const TICK: Duration = Duration::from_millis(500);
/// How long the last frames of a session may take.
const FAREWELL: Duration = Duration::from_secs(10);

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
        Ok(Serving::start(self, session, stream.into_inner()).run(outputs).await)
    }
}

struct Serving {
    host: Arc<dyn HolderHost>,
    changes: watch::Receiver<Changes>,
    session: HolderSession,
    inputs: mpsc::Receiver<HolderInput>,
    input: mpsc::Sender<HolderInput>,
    wire: mpsc::Sender<FrameToRequester>,
    queue: VecDeque<FrameToRequester>,
    lane: Lane,
    outcome: Option<Outcome>,
    /// Ends with this, last of all.
    tasks: JoinSet<()>,
    writing: JoinSet<()>,
}

impl Serving {
    fn start<S>(server: &Server, session: HolderSession, stream: S) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (reader, writer) = futures::AsyncReadExt::split(stream);
        let (input, inputs) = mpsc::channel(INPUTS_MAX);
        // One frame beside the one that is being written: what is queued here can still be taken back.
        let (wire, frames) = mpsc::channel(1);
        let mut tasks = JoinSet::new();
        tasks.spawn(read_all(reader, input.clone(), HolderInput::Received, HolderInput::Garbage, HolderInput::Closed));
        let mut writing = JoinSet::new();
        writing.spawn(write_all(writer, frames, input.clone(), || Some(HolderInput::DataSent)));
        let lane = Lane::open(LANE_JOBS_MAX, &mut tasks);
        let (host, changes) = (Arc::clone(&server.host), server.changes.clone());
        let queue = VecDeque::new();
        Self { host, changes, session, inputs, input, wire, queue, lane, outcome: None, tasks, writing }
    }

    async fn run(mut self, outputs: Vec<HolderOutput>) -> Outcome {
        self.carry_out(outputs);
        let mut seen = *self.changes.borrow_and_update();
        let mut tick = tokio::time::interval(TICK);
        let wire = self.wire.clone();
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
                    Err(_) => self.step(HolderInput::Closed),
                },
                Some(input) = self.inputs.recv() => self.step(input),
                room = wire.reserve(), if !self.queue.is_empty() => match (room, self.queue.pop_front()) {
                    (Ok(room), Some(frame)) => room.send(frame),
                    _ => self.step(HolderInput::Closed),
                },
                _ = tick.tick() => self.step(HolderInput::Tick),
            }
        }
        drop(wire);
        self.farewell().await
    }

    /// Sends what the end left to send, and closes the stream.
    async fn farewell(mut self) -> Outcome {
        let sending = async {
            for frame in self.queue.drain(..) {
                if self.wire.send(frame).await.is_err() {
                    break;
                }
            }
            drop(self.wire);
            // The writer's own answers have no reader any more; it must not wait for one.
            drop(self.inputs);
            // A writer that panicked has nothing more to send.
            let _ = self.writing.join_next().await;
        };
        // What the other side does not take in time is dropped with the stream.
        let _ = tokio::time::timeout(FAREWELL, sending).await;
        self.outcome.unwrap_or(Outcome::Broken)
    }

    fn step(&mut self, input: HolderInput) {
        let view: &dyn HolderView = &*self.host;
        let outputs = self.session.step(self.host.now(), input, view);
        self.carry_out(outputs);
    }

    fn carry_out(&mut self, outputs: Vec<HolderOutput>) {
        for output in outputs {
            match output {
                HolderOutput::Send(frame) => self.queue.push_back(frame),
                HolderOutput::DiscardUnsent => self.queue.retain(|frame| !matches!(frame, Frame::Data { .. })),
                HolderOutput::CatchUp { seen, note } => {
                    let host = Arc::clone(&self.host);
                    self.in_order(move |_| host.catch_up(&seen, note.as_deref()));
                }
                HolderOutput::Decide(facts) => {
                    let host = Arc::clone(&self.host);
                    self.in_order(move |input| answer(input, HolderInput::Decided(host.decide(&facts))));
                }
                HolderOutput::WriteDisclosure(disclosure) => {
                    let host = Arc::clone(&self.host);
                    self.in_order(move |input| {
                        let written = host.write_disclosure(&disclosure);
                        answer(input, written.map_or(HolderInput::DisclosureFailed, HolderInput::DisclosureDurable));
                    });
                }
                HolderOutput::ReadHashes { object, hash, size } => {
                    let (host, input) = (Arc::clone(&self.host), self.input.clone());
                    self.tasks.spawn_blocking(move || {
                        let hashes = host.group_hashes(&hash, size);
                        answer(&input, HolderInput::HashesRead { object, hashes });
                    });
                }
                HolderOutput::ReadGroup { object, group, hash, size } => {
                    let (host, input) = (Arc::clone(&self.host), self.input.clone());
                    self.tasks.spawn_blocking(move || {
                        let bytes = host.read_group(&hash, size, group);
                        answer(&input, HolderInput::GroupRead { object, group, bytes });
                    });
                }
                HolderOutput::End(outcome) => self.outcome = Some(*outcome),
            }
        }
        while self.tasks.try_join_next().is_some() {}
    }

    /// Runs a job in the lane; a lane that is full ends the session, since a ruling that nobody makes opens nothing.
    fn in_order(&mut self, job: impl FnOnce(&mpsc::Sender<HolderInput>) + Send + 'static) {
        let input = self.input.clone();
        if self.lane.run(move || job(&input)).is_err() {
            self.outcome = Some(Outcome::Broken);
        }
    }
}

/// A session that has ended takes no answers.
fn answer(input: &mpsc::Sender<HolderInput>, message: HolderInput) {
    let _ = input.blocking_send(message);
}

/// Reads frames until the stream ends.
pub(super) async fn read_all<M: Message + Send, I: Send + 'static>(
    mut reader: impl AsyncRead + Unpin + Send,
    input: mpsc::Sender<I>,
    received: impl Fn(Frame<M>) -> I + Send,
    garbage: I,
    closed: I,
) {
    loop {
        let last = match frames::read(&mut reader).await {
            Ok(frame) => match input.send(received(frame)).await {
                Ok(()) => continue,
                Err(_) => return,
            },
            Err(ReadError::Garbage(error)) => {
                tracing::debug!(%error, "a frame that cannot be read");
                garbage
            }
            Err(ReadError::Ended(_)) => closed,
        };
        // A session that has ended takes no more.
        let _ = input.send(last).await;
        return;
    }
}

/// Writes frames until there are no more or the stream breaks, and closes it.
pub(super) async fn write_all<M: Message + Send, I: Send + 'static>(
    mut writer: impl AsyncWrite + Unpin + Send,
    mut frames: mpsc::Receiver<Frame<M>>,
    input: mpsc::Sender<I>,
    sent: impl Fn() -> Option<I> + Send,
) {
    while let Some(frame) = frames.recv().await {
        let is_data = matches!(frame, Frame::Data { .. });
        let mut written = frames::write(&mut writer, frame).await;
        if frames.is_empty() && written.is_ok() {
            written = writer.flush().await;
        }
        if written.is_err() {
            // The reader notices too, and tells the session.
            return;
        }
        if let Some(report) = sent().filter(|_| is_data) {
            // A session that has ended needs no report.
            let _ = input.send(report).await;
        }
    }
    // The other side may have closed first.
    let _ = writer.close().await;
}

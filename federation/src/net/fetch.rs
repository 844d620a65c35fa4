//! Runs the requester's side of a retrieval over a stream: [`RequesterSession`] checks, this carries out.
//!
//! Begin and groups of the objects go to the sink one after another, in order; making whole objects durable is left
//! to many at a time, since each waits for the disk. Dropping the future ends the session; what the sink has is
//! there for the next one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::io::{AsyncRead, AsyncWrite};
use tessera_consensus::UnixMillis;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::handle::{NetError, NetHandle};
use super::lane::Lane;
use super::serve::{read_all, write_all};
use super::streams::PeerStream;
use crate::ids::DisclosureId;
use crate::retrieve::groups::GroupHash;
use crate::retrieve::{
    Failure, FrameToHolder, Have, Identity, Intent, ObjectPlace, RequesterInput, RequesterOutput, RequesterSession,
    Summary, WINDOW_GROUPS,
};
use crate::wire::v1::Manifest;

/// Inputs that wait for the machine: frames of the peer, answers of the sink.
const INPUTS_MAX: usize = 32;
/// Jobs that wait for the sink: a window of groups, their beginnings, and the inspection.
const LANE_JOBS_MAX: usize = 2 * WINDOW_GROUPS as usize + 8;
/// Objects that are being made durable at a time.
const KEEPS_MAX: usize = 32;
/// How often a session looks at the clock.
const TICK: Duration = Duration::from_millis(500);
/// How long the last frames of a session may take.
const FAREWELL: Duration = Duration::from_secs(10);
/// Pauses between attempts of [`fetch_through`].
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Where fetched objects go. Calls may block; they run where blocking is allowed. An error's text is for the user.
pub trait ObjectSink: Send + Sync + 'static {
    /// The manifest, checked: what is coming, under which disclosure.
    fn offered(&self, disclosure: DisclosureId, manifest: &Manifest) -> Result<(), String>;
    /// What is here of each object already.
    fn inspect(&self, places: &[ObjectPlace]) -> Result<Vec<Have>, String>;
    /// Groups of this object follow; `hashes` are checked.
    fn begin(&self, place: &ObjectPlace, hashes: &[GroupHash]) -> Result<(), String>;
    /// A checked group. What has returned survives a crash at the latest when the object is kept.
    fn write_group(&self, place: &ObjectPlace, group: u32, bytes: Vec<u8>) -> Result<(), String>;
    /// All groups are here: returns when the object is durable under its hash. Called for several objects at a time.
    fn keep(&self, place: &ObjectPlace) -> Result<(), String>;
}

/// What is fetched, and for whom.
#[derive(Clone)]
pub struct Fetch {
    pub me: Identity,
    pub intent: Intent,
    pub sink: Arc<dyn ObjectSink>,
    /// The requester's clock; a session's patience is measured by it.
    pub now: Arc<dyn Fn() -> UnixMillis + Send + Sync>,
}

/// Fetches once over `stream`.
pub async fn fetch(stream: PeerStream, fetch: Fetch) -> Result<Summary, Failure> {
    if stream.node() != fetch.intent.holder {
        return Err(Failure::Breach("the stream leads to another node"));
    }
    Fetching::start(fetch, stream.into_inner()).run().await
}

/// Opens streams and fetches until it is done, for as long as trying again may help and `attempts` are left. A new
/// intent is made for each attempt, so that it carries the newest checkpoint.
pub async fn fetch_through(
    net: &NetHandle,
    attempts: u32,
    mut next: impl FnMut() -> Fetch + Send,
) -> Result<Summary, Failure> {
    let mut pause = PAUSE_MIN;
    for left in (0..attempts.max(1)).rev() {
        let attempt = next();
        let failure = match net.open_stream(attempt.intent.holder).await {
            Ok(stream) => match fetch(stream, attempt).await {
                Ok(summary) => return Ok(summary),
                Err(failure) => failure,
            },
            Err(NetError::Ended) => return Err(Failure::Cancelled),
            Err(error) => {
                tracing::debug!(%error, "no stream to the holder");
                Failure::Broken
            }
        };
        if left == 0 || !failure.passes() {
            return Err(failure);
        }
        tracing::info!(%failure, attempts_left = left, "the retrieval will be resumed");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
    Err(Failure::Broken)
}

struct Fetching {
    sink: Arc<dyn ObjectSink>,
    now: Arc<dyn Fn() -> UnixMillis + Send + Sync>,
    session: RequesterSession,
    inputs: mpsc::Receiver<RequesterInput>,
    input: mpsc::Sender<RequesterInput>,
    wire: mpsc::Sender<FrameToHolder>,
    queue: VecDeque<FrameToHolder>,
    /// By number in the manifest, as the inspection listed them.
    places: Arc<[ObjectPlace]>,
    lane: Lane,
    keeps: Arc<Semaphore>,
    outcome: Option<Result<Summary, Failure>>,
    /// Ends with this, last of all.
    tasks: JoinSet<()>,
    writing: JoinSet<()>,
}

impl Fetching {
    fn start<S>(fetch: Fetch, stream: S) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (reader, writer) = futures::AsyncReadExt::split(stream);
        let (input, inputs) = mpsc::channel(INPUTS_MAX);
        let (wire, frames) = mpsc::channel(1);
        let mut tasks = JoinSet::new();
        let (garbage, closed) = (RequesterInput::Garbage, RequesterInput::Closed);
        tasks.spawn(read_all(reader, input.clone(), RequesterInput::Received, garbage, closed));
        let mut writing = JoinSet::new();
        writing.spawn(write_all(writer, frames, input.clone(), || None));
        let lane = Lane::open(LANE_JOBS_MAX, &mut tasks);
        let session = RequesterSession::open((fetch.now)(), fetch.me, fetch.intent);
        Self {
            sink: fetch.sink,
            now: fetch.now,
            session,
            inputs,
            input,
            wire,
            queue: VecDeque::new(),
            places: Arc::new([]),
            lane,
            keeps: Arc::new(Semaphore::new(KEEPS_MAX)),
            outcome: None,
            tasks,
            writing,
        }
    }

    async fn run(mut self) -> Result<Summary, Failure> {
        let mut tick = tokio::time::interval(TICK);
        let wire = self.wire.clone();
        while self.outcome.is_none() {
            tokio::select! {
                Some(input) = self.inputs.recv() => self.step(input),
                room = wire.reserve(), if !self.queue.is_empty() => match (room, self.queue.pop_front()) {
                    (Ok(room), Some(frame)) => room.send(frame),
                    _ => self.step(RequesterInput::Closed),
                },
                _ = tick.tick() => self.step(RequesterInput::Tick),
            }
        }
        drop(wire);
        self.farewell().await
    }

    /// Sends what the end left to send, and closes the stream.
    async fn farewell(mut self) -> Result<Summary, Failure> {
        let sending = async {
            for frame in self.queue.drain(..) {
                if self.wire.send(frame).await.is_err() {
                    break;
                }
            }
            drop(self.wire);
            // A writer that panicked has nothing more to send.
            let _ = self.writing.join_next().await;
        };
        // What the other side does not take in time is dropped with the stream.
        let _ = tokio::time::timeout(FAREWELL, sending).await;
        self.outcome.unwrap_or(Err(Failure::Broken))
    }

    fn step(&mut self, input: RequesterInput) {
        let outputs = self.session.step((self.now)(), input);
        for output in outputs {
            self.carry_out(output);
        }
        while self.tasks.try_join_next().is_some() {}
    }

    fn carry_out(&mut self, output: RequesterOutput) {
        let sink = Arc::clone(&self.sink);
        match output {
            RequesterOutput::Send(frame) => self.queue.push_back(frame),
            RequesterOutput::Offered { disclosure, manifest } => {
                self.in_order(move || sink.offered(disclosure, &manifest).map(|()| None));
            }
            RequesterOutput::Inspect(places) => {
                self.places = places.into();
                let places = Arc::clone(&self.places);
                self.in_order(move || sink.inspect(&places).map(|have| Some(RequesterInput::Inspected(have))));
            }
            RequesterOutput::Begin { place, hashes } => {
                self.in_order(move || sink.begin(&place, &hashes).map(|()| None));
            }
            RequesterOutput::WriteGroup { object, group, bytes } => {
                let places = Arc::clone(&self.places);
                self.in_order(move || {
                    let found = places.binary_search_by_key(&object, |place| place.object);
                    let place = found.map(|index| &places[index]).map_err(|_| "an object that was not inspected")?;
                    sink.write_group(place, group, bytes)?;
                    Ok(Some(RequesterInput::GroupWritten { object, group }))
                });
            }
            RequesterOutput::Keep(place) => self.keep(place),
            RequesterOutput::End(result) => self.outcome = Some(*result),
        }
    }

    /// Runs a job in the lane and hands its result to the machine.
    fn in_order(&mut self, job: impl FnOnce() -> Result<Option<RequesterInput>, String> + Send + 'static) {
        let input = self.input.clone();
        let queued = self.lane.run(move || answer(&input, job()));
        if queued.is_err() {
            self.outcome = Some(Err(Failure::Sink("more waits for the disk than is allowed".into())));
        }
    }

    fn keep(&mut self, place: ObjectPlace) {
        let (sink, input, keeps) = (Arc::clone(&self.sink), self.input.clone(), Arc::clone(&self.keeps));
        self.tasks.spawn(async move {
            // Closed only with the session.
            let Ok(turn) = keeps.acquire_owned().await else { return };
            let object = place.object;
            let job = move || {
                let kept = sink.keep(&place).map(|()| Some(RequesterInput::ObjectKept { object }));
                drop(turn);
                answer(&input, kept);
            };
            // A job that panicked gave no answer; the session's patience ends it.
            let _ = tokio::task::spawn_blocking(job).await;
        });
    }
}

/// A session that has ended takes no answers.
fn answer(input: &mpsc::Sender<RequesterInput>, result: Result<Option<RequesterInput>, String>) {
    let message = match result {
        Ok(Some(message)) => message,
        Ok(None) => return,
        Err(why) => RequesterInput::SinkFailed { why },
    };
    let _ = input.blocking_send(message);
}

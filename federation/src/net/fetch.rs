//! Runs the requester's side of a retrieval over a stream: [`RequesterSession`] checks, this carries out.
//!
//! Begin and groups of the objects go to the sink one after another, in order; making whole objects durable is left
//! to many at a time, since each waits for the disk. Dropping the future ends the session; what the sink has is
//! there for the next one.

use std::sync::Arc;
use std::time::Duration;

use tessera_consensus::UnixMillis;
use tokio::sync::Semaphore;

use super::handle::{NetError, NetHandle};
use super::pump::{Pump, SessionInput};
use super::streams::PeerStream;
use crate::ids::DisclosureId;
use crate::retrieve::frame::{Frame, FrameError};
use crate::retrieve::groups::GroupHash;
use crate::retrieve::wire::v1::{Reading, ToHolder, ToRequester};
use crate::retrieve::{
    Awaited, Failure, Have, Identity, Intent, ObjectPlace, RequesterInput, RequesterOutput, RequesterSession, Summary,
    WINDOW_GROUPS,
};
use crate::wire::v1::Manifest;

/// Jobs that wait for the sink: a window of groups, their beginnings, and the inspection.
const LANE_JOBS_MAX: usize = 2 * WINDOW_GROUPS as usize + 8;
/// Objects that are being made durable at a time.
const KEEPS_MAX: usize = 32;
/// Pauses between attempts of [`fetch_through`].
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Where fetched objects go. Calls may block; they run where blocking is allowed. An error's text is for the user.
pub trait ObjectSink: Send + Sync + 'static {
    /// The manifest, checked: what is coming, under which disclosure; and how the holder reads some of the objects.
    fn offered(&self, disclosure: DisclosureId, manifest: &Manifest, readings: Vec<Reading>) -> Result<(), String>;
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
    let Fetch { me, intent, sink, now } = fetch;
    let session = RequesterSession::open(now(), me, intent);
    let pump = Pump::open(stream.into_inner(), LANE_JOBS_MAX);
    let keeps = Arc::new(Semaphore::new(KEEPS_MAX));
    Fetching { sink, now, session, pump, places: Arc::new([]), keeps, outcome: None }.run().await
}

/// Opens streams and fetches until it is done, for as long as the line breaks and `attempts` are left. A new intent is
/// made for each attempt, so that it carries the newest checkpoint. Every answer of the holder, a refusal too, ends it:
/// a person waits.
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
            Err(NetError::Silent(_)) => Failure::TimedOut(Awaited::Greeting),
            Err(error) => {
                tracing::debug!(%error, "no stream to the holder");
                Failure::Broken
            }
        };
        if left == 0 || !failure.may_be_resumed() {
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
    pump: Pump<RequesterInput>,
    /// By number in the manifest, as the inspection listed them.
    places: Arc<[ObjectPlace]>,
    keeps: Arc<Semaphore>,
    outcome: Option<Result<Summary, Failure>>,
}

impl SessionInput for RequesterInput {
    type Incoming = ToRequester;
    type Outgoing = ToHolder;

    fn received(frame: Frame<ToRequester>) -> Self {
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
        None
    }
}

impl Fetching {
    async fn run(mut self) -> Result<Summary, Failure> {
        while self.outcome.is_none() {
            let input = self.pump.next().await;
            let outputs = self.session.step((self.now)(), input);
            for output in outputs {
                self.carry_out(output);
            }
        }
        self.pump.farewell().await;
        self.outcome.unwrap_or(Err(Failure::Broken))
    }

    fn carry_out(&mut self, output: RequesterOutput) {
        let sink = Arc::clone(&self.sink);
        match output {
            RequesterOutput::Send(frame) => self.pump.send(frame),
            RequesterOutput::Offered { disclosure, manifest, readings } => {
                self.in_order(move || sink.offered(disclosure, &manifest, readings).map(|()| None));
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
            RequesterOutput::Keep(place) => {
                let object = place.object;
                self.pump.beside(Arc::clone(&self.keeps).acquire_owned(), move |_turn| {
                    told(sink.keep(&place).map(|()| Some(RequesterInput::ObjectKept { object })))
                });
            }
            RequesterOutput::End(result) => self.outcome = Some(*result),
        }
    }

    /// Runs a job in the lane and hands its result to the machine.
    fn in_order(&mut self, job: impl FnOnce() -> Result<Option<RequesterInput>, String> + Send + 'static) {
        if self.pump.in_order(move || told(job())).is_err() {
            self.outcome = Some(Err(Failure::Sink("more waits for the disk than is allowed".into())));
        }
    }
}

/// What the sink did, as the machine hears of it.
fn told(result: Result<Option<RequesterInput>, String>) -> Option<RequesterInput> {
    result.unwrap_or_else(|why| Some(RequesterInput::SinkFailed { why }))
}

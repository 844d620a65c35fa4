//! The stream of one retrieval session, on either side: what comes in becomes the session's inputs, what goes out is
//! queued here and written one frame at a time.
//!
//! One task reads frames, one writes them, and whoever owns the pump steps the session's machine and never waits for
//! the other two. Jobs that block go through one lane, in order, or side by side, and answer with an input. Everything
//! is bounded, and all tasks end with the pump. Not here: what frames and inputs mean, which is [`crate::retrieve`]'s.

use std::collections::VecDeque;
use std::future::Future;
use std::time::Duration;

use futures::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Interval;

use super::frames::{self, ReadError};
use super::lane::{Lane, LaneFull};
use crate::retrieve::frame::{Frame, FrameError, Message};

/// Inputs that wait for the machine: frames of the peer, answers of the disk.
const INPUTS_MAX: usize = 32;
/// How often a session looks at the clock.
const TICK: Duration = Duration::from_millis(500);
/// How long the last frames of a session may take.
const FAREWELL: Duration = Duration::from_secs(10);

/// What a stream tells a session's machine.
pub(super) trait SessionInput: Send + Sized + 'static {
    type Incoming: Message + Send + 'static;
    type Outgoing: Message + Send + 'static;

    fn received(frame: Frame<Self::Incoming>) -> Self;
    /// The peer sent what is no message.
    fn garbage(error: FrameError) -> Self;
    /// The stream ended or broke.
    fn closed() -> Self;
    fn tick() -> Self;
    /// A data frame has left for the transport; `None`: this side counts none.
    fn data_sent() -> Option<Self>;
}

/// See the module's header.
pub(super) struct Pump<I: SessionInput> {
    inputs: mpsc::Receiver<I>,
    input: mpsc::Sender<I>,
    wire: mpsc::Sender<Frame<I::Outgoing>>,
    queue: VecDeque<Frame<I::Outgoing>>,
    /// What is queued waits.
    held: bool,
    tick: Interval,
    lane: Lane,
    tasks: JoinSet<()>,
    writing: JoinSet<()>,
}

impl<I: SessionInput> Pump<I> {
    /// `jobs_max`: jobs that may wait in the lane.
    pub fn open<S>(stream: S, jobs_max: usize) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (reader, writer) = futures::AsyncReadExt::split(stream);
        let (input, inputs) = mpsc::channel(INPUTS_MAX);
        // One frame beside the one that is being written: what is queued here can still be taken back.
        let (wire, frames) = mpsc::channel(1);
        let (mut tasks, mut writing) = (JoinSet::new(), JoinSet::new());
        tasks.spawn(read_all(reader, input.clone()));
        writing.spawn(write_all(writer, frames, input.clone()));
        let lane = Lane::open(jobs_max, &mut tasks);
        let tick = tokio::time::interval(TICK);
        Self { inputs, input, wire, queue: VecDeque::new(), held: false, tick, lane, tasks, writing }
    }

    /// Queues a frame; it goes while [`Self::next`] is awaited.
    pub fn send(&mut self, frame: Frame<I::Outgoing>) {
        self.queue.push_back(frame);
    }

    /// What is queued waits for [`Self::resume`]. The writer has two frames at most, which go.
    pub fn hold(&mut self) {
        self.held = true;
    }

    pub fn resume(&mut self) {
        self.held = false;
    }

    /// Takes back what is not yet with the writer; what is sent from now on goes.
    pub fn discard_unsent(&mut self) {
        self.queue.clear();
        self.held = false;
    }

    /// The machine's next input. May be dropped at any time without loss.
    pub async fn next(&mut self) -> I {
        while self.tasks.try_join_next().is_some() {}
        loop {
            tokio::select! {
                // The clock first: a busy stream must not keep a session from looking at it.
                biased;
                _ = self.tick.tick() => return I::tick(),
                Some(input) = self.inputs.recv() => return input,
                room = self.wire.reserve(), if !self.held && !self.queue.is_empty() => match (room, self.queue.pop_front()) {
                    (Ok(room), Some(frame)) => room.send(frame),
                    _ => return I::closed(),
                },
            }
        }
    }

    /// Runs a job that blocks after those before it; what it returns is an input.
    pub fn in_order(&mut self, job: impl FnOnce() -> Option<I> + Send + 'static) -> Result<(), LaneFull> {
        let input = self.input.clone();
        self.lane.run(move || answer(&input, job()))
    }

    /// Runs a job that blocks side by side with others, as soon as `turn` has come.
    pub fn beside<T: Send + 'static>(
        &mut self,
        turn: impl Future<Output = T> + Send + 'static,
        job: impl FnOnce(T) -> Option<I> + Send + 'static,
    ) {
        let input = self.input.clone();
        self.tasks.spawn(async move {
            let turn = turn.await;
            // A job that panicked gave no answer; the session's patience ends it.
            let _ = tokio::task::spawn_blocking(move || answer(&input, job(turn))).await;
        });
    }

    /// Sends what is still queued, but for what is held, and closes the stream.
    pub async fn farewell(self) {
        let Self { inputs, wire, mut queue, held, mut writing, tasks: _tasks, .. } = self;
        if held {
            queue.clear();
        }
        // The writer's own reports have no reader any more; it must not wait for one.
        drop(inputs);
        let sending = async move {
            for frame in queue {
                if wire.send(frame).await.is_err() {
                    break;
                }
            }
            drop(wire);
            // A writer that panicked has nothing more to send.
            let _ = writing.join_next().await;
        };
        // What the other side does not take in time is dropped with the stream.
        let _ = tokio::time::timeout(FAREWELL, sending).await;
    }
}

/// A session that has ended takes no answers.
fn answer<I>(input: &mpsc::Sender<I>, message: Option<I>) {
    if let Some(message) = message {
        let _ = input.blocking_send(message);
    }
}

/// Reads frames until the stream ends.
async fn read_all<I: SessionInput>(mut reader: impl AsyncRead + Unpin + Send, input: mpsc::Sender<I>) {
    loop {
        let last = match frames::read(&mut reader).await {
            Ok(frame) => match input.send(I::received(frame)).await {
                Ok(()) => continue,
                Err(_) => return,
            },
            Err(ReadError::Garbage(error)) => I::garbage(error),
            Err(ReadError::Ended(_)) => I::closed(),
        };
        // A session that has ended takes no more.
        let _ = input.send(last).await;
        return;
    }
}

/// Writes frames until there are no more or the stream breaks, and closes it.
async fn write_all<I: SessionInput>(
    mut writer: impl AsyncWrite + Unpin + Send,
    mut frames: mpsc::Receiver<Frame<I::Outgoing>>,
    input: mpsc::Sender<I>,
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
        if let Some(report) = I::data_sent().filter(|_| is_data) {
            // A session that has ended needs no report.
            let _ = input.send(report).await;
        }
    }
    // The other side may have closed first.
    let _ = writer.close().await;
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::{Arc, Mutex};
    use std::task::{Context, Poll};

    use futures::FutureExt;

    use super::*;
    use crate::retrieve::HolderInput;
    use crate::retrieve::wire::v1::{ToRequester, UnavailableCode};

    /// Never says anything, and keeps what it hears.
    #[derive(Clone, Default)]
    struct Line(Arc<Mutex<Vec<u8>>>);

    impl AsyncRead for Line {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut [u8]) -> Poll<std::io::Result<usize>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Line {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
            self.0.lock().expect("a lock").extend_from_slice(bytes);
            Poll::Ready(Ok(bytes.len()))
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn frame(object: u32) -> Frame<ToRequester> {
        Frame::Control(ToRequester::Unavailable { object, code: UnavailableCode::DAMAGED })
    }

    #[tokio::test]
    async fn what_is_held_leaves_only_when_it_is_resumed() {
        type Turn = fn(&mut Pump<HolderInput>);
        // (what happens after the first frame was held; the frames that leave by the end)
        let table: [(Turn, &[u32]); 3] = [(|_| {}, &[]), (Pump::resume, &[1, 2]), (Pump::discard_unsent, &[2])];
        for (turn, expected) in table {
            let line = Line::default();
            let mut pump = Pump::<HolderInput>::open(line.clone(), 1);
            pump.hold();
            pump.send(frame(1));
            while pump.next().now_or_never().is_some() {}
            assert_eq!(pump.queue.len(), 1, "it stays in the queue");
            turn(&mut pump);
            pump.send(frame(2));
            pump.farewell().await;
            let written: Vec<u8> = expected.iter().flat_map(|object| frame(*object).to_parts().0).collect();
            assert_eq!(*line.0.lock().expect("a lock"), written, "{expected:?}");
        }
    }
}

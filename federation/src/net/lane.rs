//! Blocking work in order: jobs of one lane run one after another on tokio's pool for blocking work.
//!
//! Rulings must come back in the order in which they were asked for, and an object's file must be opened before its
//! groups are written; independent reads need no lane.

use tokio::sync::mpsc;
use tokio::task::JoinSet;

type Job = Box<dyn FnOnce() + Send>;

/// See the module's header. Jobs that have not begun are dropped with the task set that the lane lives in.
pub struct Lane(mpsc::Sender<Job>);

/// The lane has as many jobs as it takes.
#[derive(Debug)]
pub struct LaneFull;

impl Lane {
    /// A lane of at most `jobs_max` waiting jobs, as a task of `tasks`.
    pub fn open(jobs_max: usize, tasks: &mut JoinSet<()>) -> Self {
        let (sender, mut jobs) = mpsc::channel::<Job>(jobs_max);
        tasks.spawn(async move {
            while let Some(job) = jobs.recv().await {
                if tokio::task::spawn_blocking(job).await.is_err() {
                    // The job panicked, and with it its answer is gone: whoever waits for it must not wait on.
                    break;
                }
            }
        });
        Self(sender)
    }

    pub fn run(&self, job: impl FnOnce() + Send + 'static) -> Result<(), LaneFull> {
        self.0.try_send(Box::new(job)).map_err(|_| LaneFull)
    }
}

//! The trusted clock of this node: reading both clocks, keeping the floor, and who asks for what.
//!
//! What may be believed of them is decided in `consensus::clock`. The floor is kept every [`KEEP_EVERY`] and not with
//! each certificate, of which there may be ten a second: the ledger keeps the newest certificate itself.
//! Not here: the ledger's own time, which is that of its entries.

use std::sync::Arc;
use std::time::Duration;

use tessera_consensus::UnixMillis;
use tessera_consensus::clock::{BootId, ClockError, ClockFloor, Clocks, TrustedClock};
use tessera_consensus::replica::Replica;
use tessera_storage::engine::{Batch, Engine};

use super::vault::{Shelf, Vault};
use super::{Member, locked};
use crate::archive::ingest::now_ms;

/// Bounds what a restart within one boot may forget of the time that passed, and the writes.
const KEEP_EVERY: Duration = Duration::from_secs(10);
/// Its first form, under `floor`, held the wall clock and is not read any more.
const FLOOR: &[u8] = b"floor of two clocks";

fn boot_ms() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds * 1000 + u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000_000
}

pub fn clocks() -> Clocks {
    Clocks { wall: UnixMillis(now_ms()), boot_ms: boot_ms() }
}

/// For pauses and patience: it goes on evenly whatever is done to the wall clock. Its beginning means nothing.
pub fn steady() -> UnixMillis {
    UnixMillis(boot_ms())
}

/// The kernel's name for this boot; where it can't be read, one that no later start will meet.
fn boot_id() -> BootId {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let id = u128::from_str_radix(&text.trim().replace('-', ""), 16).ok();
    BootId(id.map_or_else(rand::random, u128::to_be_bytes))
}

/// The clock as the last life left it.
pub(super) fn kept(vault: &Vault, engine: &dyn Engine, replica: &Replica) -> anyhow::Result<TrustedClock> {
    let floor: Option<ClockFloor> = vault.get(engine, Shelf::Clock, FLOOR)?;
    let certified = replica.certificate().map(|certificate| certificate.time());
    Ok(TrustedClock::new(floor.unwrap_or_default(), certified, boot_id()))
}

impl Member {
    /// Trusted time and the age of the newest certified state (DESIGN section 7).
    pub fn trusted(&self) -> Result<(UnixMillis, Option<u64>), ClockError> {
        let (clock, clocks) = (locked(&self.clock), clocks());
        Ok((clock.now(clocks)?, clock.freshness_ms(clocks)?))
    }

    /// A time that has passed by all evidence: for what can't be undone.
    pub fn surely(&self) -> UnixMillis {
        locked(&self.clock).surely(clocks())
    }

    /// The time to write down ([`TrustedClock::recorded`]): a clock that is wrong for a day must date nothing for ever.
    pub fn recorded_now(&self) -> UnixMillis {
        let caught_up = self.progress.borrow().caught_up;
        locked(&self.clock).recorded(clocks(), caught_up)
    }

    /// That the wall clock stands ahead, in a sentence.
    fn ahead_sentence(&self) -> Option<String> {
        let caught_up = self.progress.borrow().caught_up;
        let ahead_ms = locked(&self.clock).ahead_ms(clocks(), caught_up);
        (ahead_ms > 0).then(|| {
            let seconds = ahead_ms / 1000;
            format!(
                "this machine's clock is {seconds} s ahead of what the federation certified: compare it with a time server \
                 and set it, or what this node hears is old"
            )
        })
    }

    /// Now, for what a person is promised to last so long from here: refused while the clock is known to be wrong.
    pub fn promised_from(&self) -> anyhow::Result<UnixMillis> {
        match self.ahead_sentence() {
            Some(ahead) => anyhow::bail!("nothing was recorded, for it would last too long: {ahead}"),
            None => Ok(self.recorded_now()),
        }
    }

    /// What a person should know of this machine's clock.
    pub(super) fn clock_sentences(&self) -> Vec<String> {
        self.ahead_sentence().into_iter().chain(self.trusted().err().map(|error| error.to_string())).collect()
    }

    /// At the end too, so that a planned restart knows how old its state is.
    pub fn keep_floor(&self) -> anyhow::Result<()> {
        let floor = locked(&self.clock).floor(clocks());
        if floor.certified.0 == 0 {
            return Ok(());
        }
        let mut batch = Batch::new();
        self.vault.put(&mut batch, Shelf::Clock, FLOOR, &floor);
        Ok(self.archive.submit(batch)?)
    }
}

/// Keeps the floor for as long as the program runs.
pub async fn keep(member: Arc<Member>) {
    let mut tick = tokio::time::interval(KEEP_EVERY);
    loop {
        tick.tick().await;
        let member = member.clone();
        match tokio::task::spawn_blocking(move || member.keep_floor()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(error = format!("{error:#}"), "the clock's floor could not be kept"),
            Err(error) => tracing::error!(%error, "keeping the clock's floor ended"),
        }
    }
}

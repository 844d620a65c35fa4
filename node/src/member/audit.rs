//! Reading this node's own ledger again, slowly, round after round ([`tessera_consensus::audit`]).
//!
//! A fault ends the node: what is wrong here would be served to peers, who would take it for a lie, and the next entry
//! would be applied to a wrong state. The message names the place and the way back, which loses nothing: all that is in
//! the ledger comes again from peers, on a core node from its own Raft log.

use std::sync::Arc;
use std::time::Duration;

use tessera_consensus::audit::{AuditFault, StatePass, leaves};
use tessera_consensus::{FederationId, LedgerIndex};

use super::Member;
use crate::archive::scrubbing::pace;
use crate::home::Home;

/// Pause after a whole round.
const REST: Duration = Duration::from_secs(24 * 3600);

/// An error of the ledger's database; if it is damage, with what to do about it.
pub fn with_way_back(
    home: &Home,
    federation: FederationId,
    is_damage: bool,
    error: impl std::error::Error + Send + Sync + 'static,
) -> anyhow::Error {
    let error = anyhow::Error::new(error);
    let ledger = home.ledger(federation);
    match is_damage {
        true => error.context(format!(
            "the ledger's database of this node is damaged. Stop the node, check the disk, remove the directory {} and \
             start again: the ledger comes again from the other nodes, on a core node from its own Raft log; nothing is \
             lost",
            ledger.display()
        )),
        false => error.context(format!("the ledger's database {}", ledger.display())),
    }
}

/// Audits for ever; ends only with a fault.
pub async fn audit(member: Arc<Member>) -> anyhow::Result<()> {
    loop {
        if let Err(fault) = round(&member).await? {
            return Err(with_way_back(&member.home, member.replica.federation(), fault.is_damage(), fault));
        }
        tokio::time::sleep(REST).await;
    }
}

async fn round(member: &Arc<Member>) -> anyhow::Result<Result<(), AuditFault>> {
    let mut next = Some(LedgerIndex(0));
    while let Some(from) = next {
        let reading = member.clone();
        match tokio::task::spawn_blocking(move || leaves(&reading.replica, from)).await? {
            Ok(step) => {
                next = step.next;
                tokio::time::sleep(pace(step.bytes)).await;
            }
            Err(fault) => return Ok(Err(fault)),
        }
    }
    let mut pass = StatePass::begin(&member.replica);
    loop {
        let stepped = tokio::task::spawn_blocking(move || {
            let bytes = pass.step();
            (pass, bytes)
        });
        let (same, bytes) = stepped.await?;
        pass = same;
        match bytes {
            Ok(Some(bytes)) => tokio::time::sleep(pace(bytes)).await,
            Ok(None) => return Ok(Ok(())),
            Err(fault) => return Ok(Err(fault)),
        }
    }
}

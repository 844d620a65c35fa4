//! Following the ledger without a vote: which checkpoint to believe, which entries to fetch, what to apply.
//!
//! Sans-IO: `step(now, input)` returns what to ask of whom and what to apply. Entries are applied only after they
//! were proved to be a prefix of a *certified* ledger: the follower extends its own Merkle frontier with the leaves
//! and checks the result against the certified root, directly at its size and by an RFC 6962 consistency proof
//! before it. So any peer may serve them, and a lying one can only waste one answer. Invariants:
//! 1. Nothing is applied that is not covered by a certificate of this epoch's core (P3).
//! 2. At most one range is in flight, of at most [`ENTRIES_BYTES_MAX`]; memory does not grow with the distance.
//! 3. A peer that failed is left alone for [`PEER_PENALTY_MS`]; honest laggards (nothing newer) are not punished.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::checkpoint::{Certificate, CertificateError, Core, NoteError, SignedCheckpoint};
use crate::ids::{FederationId, Hash, LedgerSize, NodeId, UnixMillis};
use crate::merkle::{self, Frontier};
use crate::replica::{ENTRIES_MAX, LedgerEntry, Replica, ReplicaError};

/// Bytes of entries that one answer holds, nearly.
pub const ENTRIES_BYTES_MAX: usize = 2 * 1024 * 1024;
/// One encoded answer: the entries, one more sealed body at most, and the proof.
pub const REPLY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// A checkpoint note is short: nine lines and a signature for each core node and witness.
pub const NOTE_BYTES_MAX: usize = 64 * 1024;
/// How long an unanswered request waits before another peer is asked.
pub const REQUEST_TIMEOUT_MS: u64 = 5_000;
/// How long a peer that gave a wrong answer or none is left alone.
pub const PEER_PENALTY_MS: u64 = 10_000;
/// How often some peer is asked for its newest checkpoint, in case gossip does not arrive.
pub const CHECKPOINT_POLL_MS: u64 = 2_000;

/// What a follower asks of a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FollowRequest {
    /// The newest certified checkpoint, as a C2SP note.
    Checkpoint,
    /// Entries from `from`, and the proof that they lead to the ledger of `target` entries.
    Entries { from: LedgerSize, target: LedgerSize },
}

/// What the peer answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FollowReply {
    /// `None`: the peer has no certified checkpoint yet.
    Checkpoint { note: Option<String> },
    /// Empty when the peer has not reached `target` itself.
    Entries { from: LedgerSize, entries: Vec<LedgerEntry>, proof: Vec<Hash> },
}

/// Serves one request from the replica. Pure reading; bounded by what one answer may hold.
pub fn serve(replica: &Replica, request: &FollowRequest) -> Result<FollowReply, ReplicaError> {
    match request {
        FollowRequest::Checkpoint => Ok(FollowReply::Checkpoint {
            note: replica.certificate().map(|certificate| certificate.signed().to_note()),
        }),
        FollowRequest::Entries { from, target } => {
            let reached = *from < *target && *target <= replica.size();
            let entries = if reached { replica.entries(*from, *target, ENTRIES_BYTES_MAX)? } else { Vec::new() };
            let proof = match LedgerSize(from.0 + entries.len() as u64) {
                end if reached && !entries.is_empty() && end < *target => replica.consistency_proof(end, *target)?,
                _ => Vec::new(),
            };
            Ok(FollowReply::Entries { from: *from, entries, proof })
        }
    }
}

/// What the driver tells the follower.
#[derive(Debug)]
pub enum Input {
    Tick,
    PeerUp(NodeId),
    PeerDown(NodeId),
    /// A checkpoint came by gossip.
    Gossip {
        note: String,
    },
    Reply {
        from: NodeId,
        reply: FollowReply,
    },
    /// The peer did not answer or the connection broke.
    Failed {
        from: NodeId,
    },
    /// The driver applied (or could not apply) what [`Output::Apply`] handed out.
    Applied {
        frontier: Frontier,
        core: Core,
    },
}

/// What the driver must do.
#[derive(Debug)]
pub enum Output {
    Ask {
        peer: NodeId,
        request: FollowRequest,
    },
    /// Verified entries, to be applied from exactly this size; the answer is [`Input::Applied`].
    Apply {
        from: LedgerSize,
        entries: Vec<LedgerEntry>,
    },
    /// A certificate whose size the ledger has reached: keep it. It also proves freshness.
    Certified(Certificate),
    /// A certified checkpoint that this node had not seen: pass it on.
    PassOn {
        note: String,
    },
    /// A peer or a gossip message was wrong; for the log and the peer's score.
    Refused {
        peer: Option<NodeId>,
        why: FollowError,
    },
}

/// Why an answer or a checkpoint was not believed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FollowError {
    #[error("checkpoint: {0}")]
    Checkpoint(#[from] CertificateError),
    #[error("checkpoint: {0}")]
    Note(#[from] NoteError),
    #[error("a checkpoint note of {0} bytes; at most 65536 are accepted")]
    NoteTooLong(usize),
    #[error("entries from {got}, asked were those from {asked}")]
    OtherRange { asked: u64, got: u64 },
    #[error("{got} entries, more than the {limit} that were asked for")]
    TooMany { got: usize, limit: usize },
    #[error("the entries from {from} are not those of the certified ledger of {target} entries")]
    NotCertified { from: u64, target: u64 },
    #[error("an answer that was not asked for")]
    Unasked,
    #[error("the checkpoint belongs to another epoch; ignored")]
    OtherEpoch,
}

#[derive(Clone, Debug)]
struct Asked {
    peer: NodeId,
    since: UnixMillis,
    range: Option<(LedgerSize, LedgerSize)>,
}

#[derive(Clone, Debug, Default)]
struct Peer {
    left_alone_until: UnixMillis,
}

/// See the module's header.
pub struct Follower {
    federation: FederationId,
    core: Core,
    frontier: Frontier,
    target: Option<Certificate>,
    peers: BTreeMap<NodeId, Peer>,
    last_peer: Option<NodeId>,
    asked: Option<Asked>,
    applying: bool,
    polled: UnixMillis,
    mode: Mode,
}

/// Where the entries come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// By following: members and observers.
    Entries,
    /// By Raft: a core node only takes certificates.
    Certificates,
}

impl Follower {
    pub fn new(
        federation: FederationId,
        core: Core,
        frontier: Frontier,
        newest: Option<Certificate>,
        mode: Mode,
    ) -> Self {
        Self {
            federation,
            core,
            frontier,
            target: newest,
            peers: BTreeMap::new(),
            last_peer: None,
            asked: None,
            applying: false,
            polled: UnixMillis(0),
            mode,
        }
    }

    pub fn step(&mut self, now: UnixMillis, input: Input) -> Vec<Output> {
        let mut out = Vec::new();
        match input {
            Input::Tick => self.expire(now),
            Input::PeerUp(peer) => {
                self.peers.insert(peer, Peer::default());
            }
            Input::PeerDown(peer) => {
                self.peers.remove(&peer);
                self.forget_request(peer);
            }
            Input::Gossip { note } => self.take_note(None, &note, &mut out),
            Input::Failed { from } => self.punish(now, from),
            Input::Reply { from, reply } => self.take_reply(now, from, reply, &mut out),
            Input::Applied { frontier, core } => self.take_applied(frontier, core, &mut out),
        }
        self.ask(now, &mut out);
        out
    }

    fn expire(&mut self, now: UnixMillis) {
        if let Some(asked) = &self.asked
            && now.since(asked.since) >= REQUEST_TIMEOUT_MS
        {
            self.punish(now, asked.peer);
        }
    }

    fn punish(&mut self, now: UnixMillis, peer: NodeId) {
        if let Some(entry) = self.peers.get_mut(&peer) {
            entry.left_alone_until = now.plus_ms(PEER_PENALTY_MS);
        }
        self.forget_request(peer);
    }

    fn forget_request(&mut self, peer: NodeId) {
        self.asked.take_if(|asked| asked.peer == peer);
    }

    /// A certified checkpoint that is newer than the newest: it becomes the target, and is passed on.
    fn take_note(&mut self, from: Option<NodeId>, note: &str, out: &mut Vec<Output>) {
        match self.read_note(note) {
            Ok(certificate) => {
                let rank = |c: &Certificate| (c.checkpoint().size, c.time());
                if self.target.as_ref().is_none_or(|old| rank(&certificate) > rank(old)) {
                    out.push(Output::PassOn { note: certificate.signed().to_note() });
                    if certificate.checkpoint().size <= self.frontier.size() {
                        out.push(Output::Certified(certificate.clone()));
                    }
                    self.target = Some(certificate);
                }
            }
            Err(why) => out.push(Output::Refused { peer: from, why }),
        }
    }

    fn read_note(&self, note: &str) -> Result<Certificate, FollowError> {
        if note.len() > NOTE_BYTES_MAX {
            return Err(FollowError::NoteTooLong(note.len()));
        }
        let signed = SignedCheckpoint::parse(note)?;
        if signed.checkpoint().epoch != self.core.epoch() {
            return Err(FollowError::OtherEpoch);
        }
        Ok(signed.verify(&self.core, self.federation)?)
    }

    fn take_reply(&mut self, now: UnixMillis, from: NodeId, reply: FollowReply, out: &mut Vec<Output>) {
        let Some(asked) = self.asked.take_if(|asked| asked.peer == from) else {
            out.push(Output::Refused { peer: Some(from), why: FollowError::Unasked });
            return;
        };
        let result = match (reply, asked.range) {
            (FollowReply::Checkpoint { note: None }, None) => Ok(()),
            (FollowReply::Checkpoint { note: Some(note) }, None) => {
                let before = out.len();
                self.take_note(Some(from), &note, out);
                match out.get(before) {
                    Some(Output::Refused { .. }) => {
                        self.punish(now, from);
                        Ok(())
                    }
                    _ => Ok(()),
                }
            }
            (FollowReply::Entries { from: start, entries, proof }, Some(range)) => {
                self.take_entries(now, from, start, entries, &proof, range, out)
            }
            _ => Err(FollowError::Unasked),
        };
        if let Err(why) = result {
            self.punish(now, from);
            out.push(Output::Refused { peer: Some(from), why });
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn take_entries(
        &mut self,
        now: UnixMillis,
        peer: NodeId,
        start: LedgerSize,
        entries: Vec<LedgerEntry>,
        proof: &[Hash],
        (from, target): (LedgerSize, LedgerSize),
        out: &mut Vec<Output>,
    ) -> Result<(), FollowError> {
        if start != from || from != self.frontier.size() {
            return Err(FollowError::OtherRange { asked: from.0, got: start.0 });
        }
        if entries.is_empty() {
            // An honest laggard: ask another for a while, without a word in the log.
            self.punish(now, peer);
            return Ok(());
        }
        let limit = ENTRIES_MAX.min((target.0 - from.0) as usize);
        if entries.len() > limit {
            return Err(FollowError::TooMany { got: entries.len(), limit });
        }
        self.prove(&entries, proof, from, target)?;
        self.applying = true;
        out.push(Output::Apply { from, entries });
        Ok(())
    }

    /// The heart of following: the leaves, appended to what is here, lead to the certified root.
    fn prove(
        &self,
        entries: &[LedgerEntry],
        proof: &[Hash],
        from: LedgerSize,
        target: LedgerSize,
    ) -> Result<(), FollowError> {
        let wrong = FollowError::NotCertified { from: from.0, target: target.0 };
        let Some(certificate) = self.target.as_ref().filter(|c| c.checkpoint().size == target) else {
            return Err(FollowError::Unasked);
        };
        let mut frontier = self.frontier.clone();
        for entry in entries {
            if !sealed_matches(entry) {
                return Err(wrong);
            }
            frontier.push(merkle::leaf_hash(&entry.leaf));
        }
        let (size, root) = (frontier.size(), frontier.root());
        let certified = certificate.checkpoint().root;
        let proved = match size == target {
            true => root == certified,
            false => merkle::verify_consistency(size, &root, target, &certified, proof).is_ok(),
        };
        if proved { Ok(()) } else { Err(wrong) }
    }

    fn take_applied(&mut self, frontier: Frontier, core: Core, out: &mut Vec<Output>) {
        self.applying = false;
        self.frontier = frontier;
        self.core = core;
        if let Some(target) = &self.target
            && target.checkpoint().size <= self.frontier.size()
        {
            out.push(Output::Certified(target.clone()));
        }
    }

    /// Asks for the next range, or from time to time for a newer checkpoint. One question at a time.
    fn ask(&mut self, now: UnixMillis, out: &mut Vec<Output>) {
        if self.asked.is_some() || self.applying {
            return;
        }
        let have = self.frontier.size();
        let behind = self.target.as_ref().map(|c| c.checkpoint().size).filter(|size| *size > have);
        let behind = behind.filter(|_| self.mode == Mode::Entries);
        let due = now.since(self.polled) >= CHECKPOINT_POLL_MS;
        if behind.is_none() && !due {
            return;
        }
        let Some(peer) = self.next_peer(now) else { return };
        // A target that no peer can serve must not keep a newer one from being heard of.
        let range = behind.filter(|_| !due).map(|target| (have, target));
        let request = match range {
            Some((from, target)) => FollowRequest::Entries { from, target },
            None => {
                self.polled = now;
                FollowRequest::Checkpoint
            }
        };
        self.asked = Some(Asked { peer, since: now, range });
        out.push(Output::Ask { peer, request });
    }

    /// Round robin over the peers that are not left alone.
    fn next_peer(&mut self, now: UnixMillis) -> Option<NodeId> {
        let usable = |(id, peer): (&NodeId, &Peer)| (peer.left_alone_until <= now).then_some(*id);
        let after = self.last_peer.and_then(|last| {
            self.peers.range((std::ops::Bound::Excluded(last), std::ops::Bound::Unbounded)).find_map(usable)
        });
        let peer = after.or_else(|| self.peers.iter().find_map(usable))?;
        self.last_peer = Some(peer);
        Some(peer)
    }
}

/// A leaf must come with the sealed body that it names, and with no other.
fn sealed_matches(entry: &LedgerEntry) -> bool {
    use crate::wire::v1::{Leaf, SEALED_BYTES_MAX, sealed_hash};
    let Ok(leaf) = Leaf::from_bytes(&entry.leaf) else { return false };
    match (leaf.command.body.sealed, &entry.sealed) {
        (None, None) => true,
        (Some(hash), Some(body)) => body.len() <= SEALED_BYTES_MAX && sealed_hash(body) == hash,
        _ => false,
    }
}

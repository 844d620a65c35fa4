//! Following the ledger without a vote: which checkpoint to believe, which entries to fetch, what to apply.
//!
//! Sans-IO: `step(now, input)` returns what to ask of whom and what to apply. Entries are applied only after they
//! were proved to be a prefix of a *certified* ledger: the follower extends its own Merkle frontier with the leaves
//! and checks the result against the certified root, directly at its size and by an RFC 6962 consistency proof
//! before it. So any peer may serve them, and a lying one can only waste one answer. Invariants:
//! 1. Nothing is applied that is not covered by a certificate of this epoch's core (P3).
//! 2. At most one range is in flight, of at most [`ENTRIES_BYTES_MAX`]; memory does not grow with the distance.
//! 3. A peer that gave a wrong answer is left alone for [`PEER_PENALTY_MS`], whether or not it connects anew meanwhile,
//!    and one that gave none until it does. An honest laggard (nothing newer, another epoch, an answer that came late)
//!    is never said to be at fault.
//! 4. What was wrong is named with the peer that sent it. A proof fails for a range as a whole; which entry it was is
//!    told when the right ones have come ([`suspect`]).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::checkpoint::{Certificate, CertificateError, Core, NoteError, SignedCheckpoint};
use crate::ids::{FederationId, Hash, LedgerIndex, LedgerSize, NodeId, UnixMillis};
use crate::merkle::{self, Frontier, PROOF_HASHES_MAX};
use crate::replica::{ENTRIES_MAX, LedgerEntry, Replica, ReplicaError};
use crate::wire::bounded::at_most;

mod suspect;

use suspect::Suspect;

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
/// How long a peer that has not reached the newest certificate itself is left alone: it will have soon.
pub const LAGGARD_PAUSE_MS: u64 = 500;
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
    Entries {
        from: LedgerSize,
        #[serde(deserialize_with = "at_most::<_, _, ENTRIES_MAX>")]
        entries: Vec<LedgerEntry>,
        #[serde(deserialize_with = "at_most::<_, _, PROOF_HASHES_MAX>")]
        proof: Vec<Hash>,
    },
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
    /// A checkpoint came by gossip, from this peer.
    Gossip {
        from: NodeId,
        note: String,
    },
    Reply {
        from: NodeId,
        reply: FollowReply,
    },
    /// The peer did not answer or the connection broke; or what it answered was no message at all, which is its fault.
    Failed {
        from: NodeId,
        at_fault: bool,
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
    /// What a peer said was not believed; for the log, and against the peer where it is at fault
    /// ([`FollowError::is_fault`]).
    Refused {
        peer: NodeId,
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
    #[error("entry {index} is no leaf of a ledger")]
    NotALeaf { index: u64 },
    #[error("the sealed body of entry {index} is not the one that the entry names")]
    OtherSealedBody { index: u64 },
    #[error("the entries {from} to {last}, or their proof, are not those of the certified ledger of {target} entries")]
    NotCertified { from: u64, last: u64, target: u64 },
    #[error("entry {index} of an answer that was refused is not the certified ledger's")]
    OtherEntry { index: u64 },
    #[error("the proof that came with the entries {from} to {last} was wrong, the entries themselves were right")]
    OtherProof { from: u64, last: u64 },
    #[error("an answer that was not asked for")]
    Unasked,
    #[error("an answer to another question")]
    OtherQuestion,
    #[error("the checkpoint belongs to another epoch; ignored")]
    OtherEpoch,
    #[error("the checkpoint is no news; ignored")]
    NoNews,
    #[error("the checkpoint is signed by somebody outside the core too, whose signatures nobody passes on; ignored")]
    ForeignSigner,
}

impl FollowError {
    /// Whether an honest peer never gives cause for it. One that is slow, or at another epoch, is not at fault.
    pub const fn is_fault(&self) -> bool {
        !matches!(self, Self::Unasked | Self::OtherEpoch | Self::NoNews | Self::ForeignSigner)
    }
}

/// A certificate from a note's text, by this epoch's core.
pub fn read_note(note: &str, core: &Core, federation: FederationId) -> Result<Certificate, FollowError> {
    if note.len() > NOTE_BYTES_MAX {
        return Err(FollowError::NoteTooLong(note.len()));
    }
    let signed = SignedCheckpoint::parse(note)?;
    if signed.checkpoint().epoch != core.epoch() {
        return Err(FollowError::OtherEpoch);
    }
    Ok(signed.verify(core, federation)?)
}

#[derive(Clone, Debug)]
struct Asked {
    peer: NodeId,
    since: UnixMillis,
    /// What the entries from here on are proved against, however many newer certificates come meanwhile.
    range: Option<(LedgerSize, Certificate)>,
}

#[derive(Clone, Debug, Default)]
struct Peer {
    connected: bool,
    /// It did not answer; a new connection ends that.
    left_alone_until: UnixMillis,
    /// It was at fault; a new connection changes nothing.
    distrusted_until: UnixMillis,
}

impl Peer {
    fn is_usable(&self, now: UnixMillis) -> bool {
        self.connected && self.left_alone_until <= now && self.distrusted_until <= now
    }
}

/// See the module's header.
pub struct Follower {
    federation: FederationId,
    core: Core,
    frontier: Frontier,
    target: Option<Certificate>,
    /// Those that were ever connected: no more than the membership.
    peers: BTreeMap<NodeId, Peer>,
    last_peer: Option<NodeId>,
    asked: Option<Asked>,
    suspect: Option<Suspect>,
    /// While entries are being applied: the certificate that they were proved by.
    applying: Option<Certificate>,
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
            suspect: None,
            applying: None,
            polled: UnixMillis(0),
            mode,
        }
    }

    /// `now` is for pauses and patience alone: a clock that goes on evenly, not the wall clock, or a jump of that would
    /// leave peers alone, and questions open, for as long as the jump was wide.
    pub fn step(&mut self, now: UnixMillis, input: Input) -> Vec<Output> {
        let mut out = Vec::new();
        match input {
            Input::Tick => self.expire(now),
            Input::PeerUp(peer) => {
                let peer = self.peers.entry(peer).or_default();
                (peer.connected, peer.left_alone_until) = (true, UnixMillis(0));
            }
            Input::PeerDown(peer) => {
                self.peers.entry(peer).or_default().connected = false;
                self.forget_request(peer);
            }
            Input::Gossip { from, note } => {
                let taken = self.take_note(&note, &mut out);
                out.extend(taken.err().map(|why| Output::Refused { peer: from, why }));
            }
            Input::Failed { from, at_fault } => {
                self.leave_alone(now, from, PEER_PENALTY_MS);
                if at_fault {
                    self.distrust(now, from);
                }
            }
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
            let peer = asked.peer;
            self.leave_alone(now, peer, PEER_PENALTY_MS);
        }
    }

    fn leave_alone(&mut self, now: UnixMillis, peer: NodeId, ms: u64) {
        if let Some(entry) = self.peers.get_mut(&peer) {
            entry.left_alone_until = now.plus_ms(ms);
        }
        self.forget_request(peer);
    }

    fn distrust(&mut self, now: UnixMillis, peer: NodeId) {
        if let Some(entry) = self.peers.get_mut(&peer) {
            entry.distrusted_until = now.plus_ms(PEER_PENALTY_MS);
        }
    }

    fn forget_request(&mut self, peer: NodeId) {
        self.asked.take_if(|asked| asked.peer == peer);
    }

    /// A certified checkpoint that is newer than the newest: it becomes the target, and is passed on.
    fn take_note(&mut self, note: &str, out: &mut Vec<Output>) -> Result<(), FollowError> {
        let certificate = read_note(note, &self.core, self.federation)?;
        let rank = |c: &Certificate| (c.checkpoint().size, c.time());
        if self.target.as_ref().is_none_or(|old| rank(&certificate) > rank(old)) {
            out.push(Output::PassOn { note: certificate.signed().to_note() });
            if certificate.checkpoint().size <= self.frontier.size() {
                out.push(Output::Certified(certificate.clone()));
            }
            self.target = Some(certificate);
        }
        Ok(())
    }

    fn take_reply(&mut self, now: UnixMillis, from: NodeId, reply: FollowReply, out: &mut Vec<Output>) {
        let Some(asked) = self.asked.take_if(|asked| asked.peer == from) else {
            out.push(Output::Refused { peer: from, why: FollowError::Unasked });
            return;
        };
        let result = match (reply, asked.range) {
            (FollowReply::Checkpoint { note: None }, None) => Ok(()),
            (FollowReply::Checkpoint { note: Some(note) }, None) => self.take_note(&note, out),
            (FollowReply::Entries { from: start, entries, proof }, Some(range)) => {
                self.take_entries(now, from, start, entries, &proof, &range, out)
            }
            _ => Err(FollowError::OtherQuestion),
        };
        if let Err(why) = result {
            self.leave_alone(now, from, PEER_PENALTY_MS);
            if why.is_fault() {
                self.distrust(now, from);
            }
            out.push(Output::Refused { peer: from, why });
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
        (from, certificate): &(LedgerSize, Certificate),
        out: &mut Vec<Output>,
    ) -> Result<(), FollowError> {
        let (from, target) = (*from, certificate.checkpoint().size);
        if start != from || from != self.frontier.size() {
            return Err(FollowError::OtherRange { asked: from.0, got: start.0 });
        }
        if entries.is_empty() {
            // An honest laggard: ask another for a while, without a word in the log.
            self.leave_alone(now, peer, LAGGARD_PAUSE_MS);
            return Ok(());
        }
        let limit = ENTRIES_MAX.min((target.0 - from.0) as usize);
        if entries.len() > limit {
            return Err(FollowError::TooMany { got: entries.len(), limit });
        }
        if let Err(why) = self.prove(&entries, proof, certificate) {
            if matches!(why, FollowError::NotCertified { .. }) {
                self.suspect = Some(Suspect::new(peer, from, &entries));
            }
            return Err(why);
        }
        if let Some(suspect) = self.suspect.take_if(|suspect| suspect.begins_at(from))
            && let Some(why) = suspect.compare(&entries)
        {
            out.push(Output::Refused { peer: suspect.peer(), why });
        }
        self.applying = Some(certificate.clone());
        out.push(Output::Apply { from, entries });
        Ok(())
    }

    /// The heart of following: the leaves, appended to what is here, lead to the certified root.
    fn prove(&self, entries: &[LedgerEntry], proof: &[Hash], certificate: &Certificate) -> Result<(), FollowError> {
        let (LedgerSize(from), target) = (self.frontier.size(), certificate.checkpoint().size);
        let last = (from + entries.len() as u64).saturating_sub(1);
        let wrong = FollowError::NotCertified { from, last, target: target.0 };
        let mut frontier = self.frontier.clone();
        for entry in entries {
            check_entry(LedgerIndex(frontier.size().0), entry)?;
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
        self.frontier = frontier;
        self.core = core;
        // The one that the entries were proved by first: a newer one has come since, as a rule, that is not reached.
        let proved_by = self.applying.take();
        let newest = self.target.clone().filter(|newest| proved_by.as_ref() != Some(newest));
        let reached = |certificate: &Certificate| certificate.checkpoint().size <= self.frontier.size();
        out.extend(proved_by.into_iter().chain(newest).filter(reached).map(Output::Certified));
    }

    /// Asks for the next range, or from time to time for a newer checkpoint. One question at a time.
    fn ask(&mut self, now: UnixMillis, out: &mut Vec<Output>) {
        if self.asked.is_some() || self.applying.is_some() {
            return;
        }
        let have = self.frontier.size();
        let behind = self.target.as_ref().filter(|certificate| certificate.checkpoint().size > have).cloned();
        let behind = behind.filter(|_| self.mode == Mode::Entries);
        let due = now.since(self.polled) >= CHECKPOINT_POLL_MS;
        if behind.is_none() && !due {
            return;
        }
        let Some(peer) = self.next_peer(now) else { return };
        // A target that no peer can serve must not keep a newer one from being heard of.
        let range = behind.filter(|_| !due).map(|target| (have, target));
        let request = match &range {
            Some((from, target)) => FollowRequest::Entries { from: *from, target: target.checkpoint().size },
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
        let usable = |(id, peer): (&NodeId, &Peer)| peer.is_usable(now).then_some(*id);
        let after = self.last_peer.and_then(|last| {
            self.peers.range((std::ops::Bound::Excluded(last), std::ops::Bound::Unbounded)).find_map(usable)
        });
        let peer = after.or_else(|| self.peers.iter().find_map(usable))?;
        self.last_peer = Some(peer);
        Some(peer)
    }
}

/// A leaf must come with the sealed body that it names, and with no other.
fn check_entry(LedgerIndex(index): LedgerIndex, entry: &LedgerEntry) -> Result<(), FollowError> {
    use crate::wire::v1::{Leaf, SEALED_BYTES_MAX, sealed_hash};
    let leaf = Leaf::from_bytes(&entry.leaf).map_err(|_| FollowError::NotALeaf { index })?;
    match (leaf.command.body.sealed, &entry.sealed) {
        (None, None) => Ok(()),
        (Some(hash), Some(body)) if body.len() <= SEALED_BYTES_MAX && sealed_hash(body) == hash => Ok(()),
        _ => Err(FollowError::OtherSealedBody { index }),
    }
}

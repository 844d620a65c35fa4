//! Two nodes in one process: both machines, a pipe of encoded frames between them, objects on one side and a sink
//! on the other. Nothing here decides; it carries outputs out, and can break the line, lie, or wait.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tessera_consensus::ids::HashAlgorithm;
use tessera_consensus::keys::SigningKey;
use tessera_consensus::{FederationId, Hash, LedgerSize, NodeId, SiteId, UnixMillis};
use tessera_federation::ids::{DisclosureId, RecordId, policy_site};
use tessera_federation::retrieve::frame::Frame;
use tessera_federation::retrieve::groups::{GROUP_BYTES, GroupSet, group_bytes, group_count, group_hash};
use tessera_federation::retrieve::wire::v1::{
    Basis, Challenge, Reading, RefusalCode, RetrievalId, RetrievalRequest, Seen, StudyRef, ToHolder, ToRequester,
};
use tessera_federation::retrieve::{
    Allowed, Facts, Failure, Have, HolderInput, HolderOutput, HolderSession, HolderView, Identity, Intent, Outcome,
    RequesterInput, RequesterOutput, RequesterRecord, RequesterSession, Ruling, Selection, Summary,
};
use tessera_federation::wire::v1::{Manifest, ManifestObject, ObjectContent, VERSION};
use tessera_policy::{Purpose, Role, Uid, UserAssertion, UserId};

pub const T0: UnixMillis = UnixMillis(1_750_000_000_000);
pub const LIMIT_MS: u64 = 600_000;
pub const SALT: [u8; 16] = [9; 16];

pub fn uid(text: &str) -> Uid {
    text.parse().expect("a UID")
}

pub fn site(text: &str) -> SiteId {
    text.parse().expect("a site")
}

pub fn federation() -> FederationId {
    FederationId::new(Hash::blake3(&[b"federation"]))
}

pub fn identity(name: &str, seed: u8) -> Identity {
    Identity {
        federation: federation(),
        node: NodeId::new(Hash::blake3(&[name.as_bytes()])),
        sites: vec![site(name)],
        command_key: SigningKey::from_seed([seed; 32]),
    }
}

/// The root of the test ledger at a size.
pub fn root(size: u64) -> Hash {
    Hash::sha256(&[&size.to_be_bytes()])
}

pub fn seen(size: u64, time: UnixMillis) -> Seen {
    Seen { size: LedgerSize(size), root: root(size), time }
}

pub struct View {
    pub members: BTreeMap<NodeId, RequesterRecord>,
    pub certified: Option<Seen>,
    pub trusted: bool,
}

impl HolderView for View {
    fn requester(&self, node: &NodeId) -> Option<RequesterRecord> {
        self.members.get(node).cloned()
    }
    fn certified(&self) -> Option<Seen> {
        self.certified
    }
    fn root_at(&self, size: LedgerSize) -> Option<Hash> {
        Some(root(size.0))
    }
    fn clock_is_trusted(&self) -> bool {
        self.trusted
    }
    fn freshness_limit_ms(&self, _request: &RetrievalRequest) -> u64 {
        LIMIT_MS
    }
}

pub fn bytes_of(size: usize, seed: u8) -> Vec<u8> {
    (0..size).map(|i| (i as u64 * 31 % 251) as u8 ^ seed).collect()
}

/// An examination: bytes by hash, and the manifest.
pub struct Study {
    pub objects: BTreeMap<Hash, Vec<u8>>,
    pub manifest: Manifest,
}

impl Study {
    pub fn new(sizes: &[usize]) -> Self {
        let mut objects = BTreeMap::new();
        let mut listed = Vec::new();
        for (number, size) in sizes.iter().enumerate() {
            let bytes = bytes_of(*size, number as u8);
            let hash = Hash::from_parts(HashAlgorithm::Blake3, *blake3::hash(&bytes).as_bytes());
            objects.insert(hash, bytes);
            listed.push(ManifestObject {
                series_uid: uid("1.2.3.1"),
                sop_class: uid("1.2.840.10008.5.1.4.1.1.2"),
                sop_instance: uid(&format!("1.2.3.1.{}", number + 100)),
                content: ObjectContent::Verified {
                    transfer_syntax: uid("1.2.840.10008.1.2.1"),
                    bytes: *size as u64,
                    hash,
                },
            });
        }
        let manifest = Manifest {
            version: VERSION,
            site: site("north"),
            study_uid: uid("1.2.3"),
            record: RecordId::from_bytes([3; 16]),
            revision: 1,
            created: T0,
            objects: listed,
        };
        Self { objects, manifest }
    }
}

/// Changes what the holder sends, frame by frame.
pub type Lie = Box<dyn FnMut(&mut Frame<ToRequester>)>;

/// Both sides, and what the test may turn.
pub struct World {
    pub now: UnixMillis,
    pub holder: Identity,
    pub requester: Identity,
    pub study: Study,
    pub view: View,
    pub intent: Intent,
    /// What the rules say next; `Err` refuses.
    pub allowed: bool,
    /// How the holder reads some of the objects.
    pub readings: Vec<Reading>,
    /// How long a yes holds.
    pub until: Option<UnixMillis>,
    pub disk_works: bool,
    pub lie: Lie,
    /// The requester's sink: groups and whole objects, by hash.
    pub groups: BTreeMap<Hash, BTreeMap<u32, Vec<u8>>>,
    pub kept: BTreeMap<Hash, Vec<u8>>,
    /// What happened, in order.
    pub trace: Vec<String>,
    pub disclosures: u8,
    pub challenges: u8,
    /// Groups that the holder read.
    pub reads: usize,
}

/// How a session ended on either side.
pub struct Ended {
    pub requester: Option<Result<Summary, Failure>>,
    pub holder: Option<Outcome>,
}

/// One running session.
pub struct Session {
    pub holder: HolderSession,
    pub requester: RequesterSession,
    pub to_holder: VecDeque<Vec<u8>>,
    pub to_requester: VecDeque<Vec<u8>>,
    pub ended: Ended,
    /// Outputs that the test answers itself.
    pub pending_facts: Vec<Facts>,
    pub hold_decisions: bool,
    pub hold_receipt: bool,
    /// What is on its way to the requester waits.
    pub held: bool,
    pub caught_up_to: Option<Seen>,
    places: BTreeMap<u32, (Hash, u64)>,
    work: VecDeque<Work>,
}

enum Work {
    Holder(HolderInput),
    Requester(RequesterInput),
}

impl World {
    pub fn new(sizes: &[usize]) -> Self {
        let (holder, requester) = (identity("north", 1), identity("south", 2));
        let study = Study::new(sizes);
        let user = UserAssertion::new(
            policy_site(&site("south")),
            UserId::parse("d001").expect("a user"),
            Role::Physician,
            None,
        );
        let intent = Intent {
            id: RetrievalId::from_bytes([5; 16]),
            holder: holder.node,
            holder_key: holder.command_key.public(),
            site: site("south"),
            user,
            study: StudyRef {
                site: site("north"),
                record: study.manifest.record,
                revision: 1,
                study_uid: uid("1.2.3"),
                commitment: study.manifest.commitment(&SALT),
            },
            purpose: Purpose::Treatment,
            basis: Basis::default(),
            break_glass: None,
            seen: seen(10, T0),
            note: Some("a checkpoint".into()),
            selection: Selection::All,
        };
        let record = RequesterRecord { command_key: requester.command_key.public(), sites: requester.sites.clone() };
        let view =
            View { members: BTreeMap::from([(requester.node, record)]), certified: Some(seen(12, T0)), trusted: true };
        Self {
            now: T0.plus_ms(1_000),
            holder,
            requester,
            study,
            view,
            intent,
            allowed: true,
            readings: Vec::new(),
            until: None,
            disk_works: true,
            lie: Box::new(|_| {}),
            groups: BTreeMap::new(),
            kept: BTreeMap::new(),
            trace: Vec::new(),
            disclosures: 0,
            challenges: 0,
            reads: 0,
        }
    }

    pub fn open(&mut self) -> Session {
        self.challenges += 1;
        let challenge = Challenge::from_bytes([self.challenges; 32]);
        let (holder, outputs) = HolderSession::open(self.now, self.holder.clone(), self.requester.node, challenge);
        let requester = RequesterSession::open(self.now, self.requester.clone(), self.intent.clone());
        let mut session = Session {
            holder,
            requester,
            to_holder: VecDeque::new(),
            to_requester: VecDeque::new(),
            ended: Ended { requester: None, holder: None },
            pending_facts: Vec::new(),
            hold_decisions: false,
            hold_receipt: false,
            held: false,
            caught_up_to: None,
            places: BTreeMap::new(),
            work: VecDeque::new(),
        };
        session.carry_holder(self, outputs);
        session
    }

    /// One session from beginning to end.
    pub fn fetch(&mut self) -> Ended {
        let mut session = self.open();
        while session.advance(self) {}
        session.ended
    }

    pub fn ruling(&self) -> Ruling {
        match self.allowed {
            true => Ruling::Allow(Box::new(Allowed {
                manifest: self.study.manifest.clone(),
                salt: SALT,
                readings: self.readings.clone(),
                until: self.until,
            })),
            false => Ruling::Deny { code: RefusalCode::DENIED, reasons: vec!["no consent".into()] },
        }
    }
}

impl Session {
    /// One local answer or one message; false when nothing is left to happen.
    pub fn advance(&mut self, world: &mut World) -> bool {
        if let Some(work) = self.work.pop_front() {
            match work {
                Work::Holder(input) => self.holder_input(world, input),
                Work::Requester(input) => self.requester_input(world, input),
            }
            true
        } else {
            self.deliver(world)
        }
    }

    /// Local work first, then exactly one message; false when none is under way.
    pub fn deliver_one(&mut self, world: &mut World) -> bool {
        while !self.work.is_empty() {
            self.advance(world);
        }
        self.deliver(world)
    }

    fn deliver(&mut self, world: &mut World) -> bool {
        if let Some(bytes) = self.to_holder.pop_front() {
            let input = match Frame::<ToHolder>::from_bytes(&bytes) {
                Ok(frame) => HolderInput::Received(frame),
                Err(error) => HolderInput::Garbage(error),
            };
            self.holder_input(world, input);
            true
        } else if self.held {
            false
        } else if let Some(bytes) = self.to_requester.pop_front() {
            let input = match Frame::<ToRequester>::from_bytes(&bytes) {
                Ok(frame) => RequesterInput::Received(frame),
                Err(error) => RequesterInput::Garbage(error),
            };
            self.requester_input(world, input);
            true
        } else {
            false
        }
    }

    pub fn holder_input(&mut self, world: &mut World, input: HolderInput) {
        let outputs = self.holder.step(world.now, input, &world.view);
        self.carry_holder(world, outputs);
    }

    pub fn requester_input(&mut self, world: &mut World, input: RequesterInput) {
        let outputs = self.requester.step(world.now, input);
        for output in outputs {
            self.carry_requester_output(world, output);
        }
    }

    fn carry_holder(&mut self, world: &mut World, outputs: Vec<HolderOutput>) {
        assert!(self.ended.holder.is_none() || outputs.is_empty(), "nothing comes after the end: {outputs:?}");
        for output in outputs {
            match output {
                HolderOutput::Send(mut frame) => {
                    world.trace.push(format!("send {}", kind(&frame)));
                    let is_data = matches!(frame, Frame::Data { .. });
                    assert!(!self.held, "a session that awaits a ruling hands nothing out");
                    (world.lie)(&mut frame);
                    let (mut bytes, rest) = frame.to_parts();
                    bytes.extend_from_slice(&rest);
                    self.to_requester.push_back(bytes);
                    if is_data {
                        self.work.push_back(Work::Holder(HolderInput::DataSent));
                    }
                }
                HolderOutput::Hold => {
                    world.trace.push("hold".into());
                    self.held = true;
                }
                HolderOutput::Resume => {
                    world.trace.push("resume".into());
                    self.held = false;
                }
                HolderOutput::DiscardUnsent => {
                    world.trace.push("discard".into());
                    self.to_requester.clear();
                    self.held = false;
                }
                HolderOutput::CatchUp { seen, note } => {
                    assert_eq!(note.as_deref(), Some("a checkpoint"));
                    world.trace.push(format!("catch up to {}", seen.size.0));
                    self.caught_up_to = Some(seen);
                }
                HolderOutput::Decide(facts) => {
                    world.trace.push(format!("decide {:?}", facts.stage));
                    if self.hold_decisions {
                        self.pending_facts.push(*facts);
                    } else {
                        self.work.push_back(Work::Holder(HolderInput::Decided(world.ruling())));
                    }
                }
                HolderOutput::WriteDisclosure(disclosure) => {
                    assert_eq!(disclosure.objects as usize, world.study.manifest.objects.len());
                    world.trace.push("write disclosure".into());
                    world.disclosures += 1;
                    self.work.push_back(Work::Holder(match world.disk_works {
                        true => HolderInput::DisclosureDurable(DisclosureId::from_bytes([world.disclosures; 16])),
                        false => HolderInput::DisclosureFailed,
                    }));
                }
                HolderOutput::WriteReceipt(_) => {
                    world.trace.push("write receipt".into());
                    if !self.hold_receipt {
                        self.work.push_back(Work::Holder(match world.disk_works {
                            true => HolderInput::ReceiptDurable,
                            false => HolderInput::ReceiptFailed,
                        }));
                    }
                }
                HolderOutput::ReadHashes { object, hash, size } => {
                    let hashes = world.study.objects.get(&hash).map(|bytes| {
                        let of = |g| group_hash(size, g, cut(bytes, g)).expect("a group of the object");
                        (0..group_count(size)).map(of).collect()
                    });
                    self.work.push_back(Work::Holder(HolderInput::HashesRead { object, hashes }));
                }
                HolderOutput::ReadGroup { object, group, hash, .. } => {
                    world.reads += 1;
                    let bytes = world.study.objects.get(&hash).map(|bytes| cut(bytes, group).to_vec());
                    self.work.push_back(Work::Holder(HolderInput::GroupRead { object, group, bytes }));
                }
                HolderOutput::End(outcome) => self.ended.holder = Some(*outcome),
            }
        }
    }

    fn carry_requester_output(&mut self, world: &mut World, output: RequesterOutput) {
        assert!(self.ended.requester.is_none(), "nothing comes after the end");
        match output {
            RequesterOutput::Send(frame) => {
                let (mut bytes, rest) = frame.to_parts();
                bytes.extend_from_slice(&rest);
                self.to_holder.push_back(bytes);
            }
            RequesterOutput::Offered { manifest, readings, .. } => {
                assert_eq!((*manifest, readings), (world.study.manifest.clone(), world.readings.clone()));
            }
            RequesterOutput::Inspect(places) => {
                let have = places.iter().map(|place| match world.groups.get(&place.hash) {
                    _ if world.kept.contains_key(&place.hash) => Have::All,
                    Some(groups) => {
                        Have::Groups(GroupSet::from_fn(group_count(place.size), |g| groups.contains_key(&g)))
                    }
                    None => Have::Nothing,
                });
                self.work.push_back(Work::Requester(RequesterInput::Inspected(have.collect())));
                self.places = places.into_iter().map(|place| (place.object, (place.hash, place.size))).collect();
            }
            RequesterOutput::Begin { place, hashes } => {
                assert_eq!(hashes.len(), group_count(place.size) as usize);
            }
            RequesterOutput::WriteGroup { object, group, bytes } => {
                let (hash, size) = self.places[&object];
                assert_eq!(bytes.len(), group_bytes(size, group));
                assert_eq!(bytes, cut(&world.study.objects[&hash], group), "only right bytes are written");
                let twice = world.groups.entry(hash).or_default().insert(group, bytes);
                assert!(twice.is_none(), "no group is fetched twice once it was written");
                self.work.push_back(Work::Requester(RequesterInput::GroupWritten { object, group }));
            }
            RequesterOutput::Keep(place) => {
                let groups = world.groups.remove(&place.hash).expect("groups were written");
                let bytes: Vec<u8> = groups.into_values().flatten().collect();
                world.kept.insert(place.hash, bytes);
                self.work.push_back(Work::Requester(RequesterInput::ObjectKept { object: place.object }));
            }
            RequesterOutput::End(result) => self.ended.requester = Some(*result),
        }
    }
}

fn cut(bytes: &[u8], group: u32) -> &[u8] {
    &bytes[group as usize * GROUP_BYTES..][..group_bytes(bytes.len() as u64, group)]
}

pub fn kind(frame: &Frame<ToRequester>) -> &'static str {
    match frame {
        Frame::Data { .. } => "data",
        Frame::Control(ToRequester::Hello { .. }) => "hello",
        Frame::Control(ToRequester::Refused(_)) => "refusal",
        Frame::Control(ToRequester::Offer { .. } | ToRequester::OfferWithReadings { .. }) => "offer",
        Frame::Control(ToRequester::Hashes { .. }) => "hashes",
        Frame::Control(ToRequester::Unavailable { .. }) => "unavailable",
        Frame::Control(ToRequester::Receipt(_)) => "receipt",
    }
}

/// Of a device whose text the operator knows to be GBK.
pub fn readings() -> Vec<Reading> {
    vec![Reading { first: 1, count: 2, character_set: "GBK".into() }]
}

/// Instances that a selection names.
pub fn instances(texts: &[&str]) -> Selection {
    Selection::Instances(texts.iter().map(|text| uid(text)).collect::<BTreeSet<_>>())
}

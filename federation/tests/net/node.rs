//! Nodes on loopback for the network's tests: real sockets, real keys, objects and sink in memory.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tessera_consensus::keys::SigningKey;
use tessera_consensus::{Hash, LedgerSize, NodeId, UnixMillis};
use tessera_federation::ids::DisclosureId;
use tessera_federation::net::{
    Changes, Fetch, HolderHost, Net, NetConfig, NetEvent, NetHandle, ObjectSink, Peer, Server,
};
use tessera_federation::retrieve::groups::{GROUP_BYTES, GroupHash, GroupSet, group_bytes, group_count, group_hash};
use tessera_federation::retrieve::wire::v1::{Reading, RefusalCode, RetrievalRequest, Seen, SignedReceipt};
use tessera_federation::retrieve::{
    Allowed, Facts, Have, HolderView, Identity, NewDisclosure, ObjectPlace, RequesterRecord, Ruling,
};
use tessera_federation::wire::v1::Manifest;
use tokio::sync::{mpsc, watch};

use crate::world::{self, SALT, Study, T0, World, federation, identity};

/// Long enough for a busy machine; a test that waits so long has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Node {
    pub me: Identity,
    pub net: NetHandle,
    pub events: mpsc::Receiver<NetEvent>,
    transport: SigningKey,
}

/// Whether a node listens.
#[derive(Clone, Copy, PartialEq)]
pub enum Door {
    Open,
    OnlyOut,
}

impl Node {
    pub async fn start(name: &str, seed: u8, door: Door) -> Self {
        let me = identity(name, seed);
        let transport = SigningKey::from_seed([seed + 100; 32]);
        let listen = match door {
            Door::Open => vec!["/ip4/127.0.0.1/tcp/0".to_string()],
            Door::OnlyOut => Vec::new(),
        };
        let config = NetConfig {
            federation: federation(),
            node: me.node,
            transport_seed: transport.seed(),
            listen,
            extra_addresses: BTreeMap::new(),
        };
        let (net, events) = Net::start(config).await.expect("loopback is there");
        Self { me, net, events, transport }
    }

    pub fn transport(&self) -> SigningKey {
        self.transport.clone()
    }

    pub fn peer(&self) -> (NodeId, Peer) {
        (self.me.node, Peer { transport: self.transport.public(), addresses: self.net.listening() })
    }

    pub async fn admit(&self, others: &[&Node]) {
        let members = others.iter().map(|node| node.peer()).collect();
        self.net.set_members(members).await.expect("the network runs");
    }

    pub async fn event(&mut self) -> NetEvent {
        let event = tokio::time::timeout(PATIENCE, self.events.recv()).await;
        event.expect("an event in time").expect("the network runs")
    }

    /// Waits until all these are connected, in whatever order they come.
    pub async fn up(&mut self, mut others: Vec<NodeId>) {
        while !others.is_empty() {
            if let NetEvent::PeerUp(node) = self.event().await {
                others.retain(|other| *other != node);
            }
        }
    }

    pub async fn down(&mut self, other: NodeId) {
        loop {
            if matches!(self.event().await, NetEvent::PeerDown(node) if node == other) {
                return;
            }
        }
    }
}

/// A holder in memory.
pub struct Host {
    pub study: Study,
    pub requester: RequesterRecord,
    pub requester_node: NodeId,
    pub certified: Mutex<Seen>,
    pub allowed: AtomicBool,
    pub disclosures: AtomicUsize,
    pub receipts: Mutex<Vec<SignedReceipt>>,
    pub reads: AtomicUsize,
    pub caught_up: AtomicUsize,
    /// How far its clock is ahead of the founding.
    pub clock_ms: AtomicU64,
    pub changes: watch::Sender<Changes>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no test panics with this lock")
}

impl Host {
    pub fn new(study: Study, requester: &Identity) -> Arc<Self> {
        let record = RequesterRecord { command_key: requester.command_key.public(), sites: requester.sites.clone() };
        Arc::new(Self {
            study,
            requester: record,
            requester_node: requester.node,
            certified: Mutex::new(world::seen(12, T0)),
            allowed: AtomicBool::new(true),
            disclosures: AtomicUsize::new(0),
            receipts: Mutex::default(),
            reads: AtomicUsize::new(0),
            caught_up: AtomicUsize::new(0),
            clock_ms: AtomicU64::new(1_000),
            changes: watch::Sender::new(Changes::default()),
        })
    }

    pub fn server(self: &Arc<Self>, me: &Identity) -> Server {
        Server::new(me.clone(), Arc::clone(self) as Arc<dyn HolderHost>, self.changes.subscribe())
    }

    pub fn revoke(&self) {
        self.allowed.store(false, Ordering::SeqCst);
        self.changes.send_modify(|changes| changes.rules += 1);
    }
}

impl HolderView for Host {
    fn requester(&self, node: &NodeId) -> Option<RequesterRecord> {
        (*node == self.requester_node).then(|| self.requester.clone())
    }
    fn certified(&self) -> Option<Seen> {
        Some(*lock(&self.certified))
    }
    fn root_at(&self, size: LedgerSize) -> Option<Hash> {
        Some(world::root(size.0))
    }
    fn clock_is_trusted(&self) -> bool {
        true
    }
    fn freshness_limit_ms(&self, _: &RetrievalRequest) -> u64 {
        world::LIMIT_MS
    }
}

impl HolderHost for Host {
    fn now(&self) -> UnixMillis {
        T0.plus_ms(self.clock_ms.load(Ordering::SeqCst))
    }

    fn decide(&self, _: &Facts) -> Ruling {
        match self.allowed.load(Ordering::SeqCst) {
            true => Ruling::Allow(Box::new(Allowed {
                manifest: self.study.manifest.clone(),
                salt: SALT,
                readings: world::readings(),
                until: None,
            })),
            false => Ruling::Deny { code: RefusalCode::DENIED, reasons: vec!["revoked".into()] },
        }
    }

    fn write_disclosure(&self, _: &NewDisclosure) -> Option<DisclosureId> {
        let number = self.disclosures.fetch_add(1, Ordering::SeqCst) as u8;
        Some(DisclosureId::from_bytes([number + 1; 16]))
    }

    fn write_receipt(&self, receipt: &SignedReceipt) -> bool {
        lock(&self.receipts).push(receipt.clone());
        true
    }

    fn catch_up(&self, seen: &Seen, _: Option<&str>) {
        self.caught_up.fetch_add(1, Ordering::SeqCst);
        let mut certified = lock(&self.certified);
        if seen.size > certified.size {
            *certified = *seen;
        }
        drop(certified);
        self.changes.send_modify(|changes| changes.certified += 1);
    }

    fn group_hashes(&self, hash: &Hash, size: u64) -> Option<Vec<GroupHash>> {
        let bytes = self.study.objects.get(hash)?;
        (0..group_count(size)).map(|group| group_hash(size, group, cut(bytes, group))).collect()
    }

    fn read_group(&self, hash: &Hash, _: u64, group: u32) -> Option<Vec<u8>> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        Some(cut(self.study.objects.get(hash)?, group).to_vec())
    }
}

fn cut(bytes: &[u8], group: u32) -> &[u8] {
    &bytes[group as usize * GROUP_BYTES..][..group_bytes(bytes.len() as u64, group)]
}

/// A sink in memory.
#[derive(Default)]
pub struct Sink {
    pub groups: Mutex<BTreeMap<Hash, BTreeMap<u32, Vec<u8>>>>,
    pub kept: Mutex<BTreeMap<Hash, Vec<u8>>>,
    pub readings: Mutex<Vec<Reading>>,
    /// Told of each group that was written.
    pub written: watch::Sender<usize>,
}

impl ObjectSink for Sink {
    fn offered(&self, _: DisclosureId, _: &Manifest, readings: Vec<Reading>) -> Result<(), String> {
        *lock(&self.readings) = readings;
        Ok(())
    }

    fn inspect(&self, places: &[ObjectPlace]) -> Result<Vec<Have>, String> {
        let (groups, kept) = (lock(&self.groups), lock(&self.kept));
        let have = |place: &ObjectPlace| match groups.get(&place.hash) {
            _ if kept.contains_key(&place.hash) => Have::All,
            Some(here) => Have::Groups(GroupSet::from_fn(group_count(place.size), |group| here.contains_key(&group))),
            None => Have::Nothing,
        };
        Ok(places.iter().map(have).collect())
    }

    fn begin(&self, place: &ObjectPlace, _: &[GroupHash]) -> Result<(), String> {
        lock(&self.groups).entry(place.hash).or_default();
        Ok(())
    }

    fn write_group(&self, place: &ObjectPlace, group: u32, bytes: Vec<u8>) -> Result<(), String> {
        let mut groups = lock(&self.groups);
        let object = groups.get_mut(&place.hash).ok_or("groups come after the beginning")?;
        match object.insert(group, bytes) {
            None => {
                self.written.send_modify(|written| *written += 1);
                Ok(())
            }
            Some(_) => Err("a group came twice".into()),
        }
    }

    fn keep(&self, place: &ObjectPlace) -> Result<(), String> {
        let groups = lock(&self.groups).remove(&place.hash).ok_or("an object without groups")?;
        lock(&self.kept).insert(place.hash, groups.into_values().flatten().collect());
        Ok(())
    }
}

/// What `requester` fetches from `holder`: the study of [`World`] with these sizes.
pub fn fetch_of(requester: &Identity, holder: &Identity, sizes: &[usize], sink: &Arc<Sink>) -> Fetch {
    let mut intent = World::new(sizes).intent;
    intent.holder = holder.node;
    intent.holder_key = holder.command_key.public();
    let sink = Arc::clone(sink) as Arc<dyn ObjectSink>;
    Fetch { me: requester.clone(), intent, sink, now: Arc::new(|| T0.plus_ms(1_000)) }
}

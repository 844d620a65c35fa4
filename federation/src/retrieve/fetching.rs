//! The objects of a running session at the requester: what is asked for, what has come, what is checked and kept.
//!
//! A window of [`WINDOW_GROUPS`] groups moves over the objects in the manifest's order. Each object goes from
//! *waiting* through *fetching* and *keeping* to *held*, or ends as *missing* when the holder cannot send it; every
//! other arrival is a breach or tampering, and the session ends with it ([`super::RequesterSession`]).

use std::collections::BTreeSet;

use tessera_consensus::Hash;

use super::frame::Frame;
use super::groups::{GroupHash, GroupSet, group_bytes, group_count, group_hash, leads_to};
use super::requester::{Absent, Failure, Have, ObjectPlace, RequesterOutput};
use super::wire::v1::{ToHolder, ToRequester, UnavailableCode, Want, transcript};
use super::{WANTS_MAX, WINDOW_GROUPS};
use crate::ids::DisclosureId;

type Outputs = Vec<RequesterOutput>;

/// What a holder sends while objects travel.
pub(super) enum Arrival {
    Hashes { object: u32, hashes: Vec<u8> },
    Data { object: u32, group: u32, bytes: Vec<u8> },
    Unavailable { object: u32, code: UnavailableCode },
}

impl TryFrom<Frame<ToRequester>> for Arrival {
    type Error = &'static str;
    fn try_from(frame: Frame<ToRequester>) -> Result<Self, &'static str> {
        match frame {
            Frame::Data { object, group, bytes } => Ok(Self::Data { object, group, bytes }),
            Frame::Control(ToRequester::Hashes { object, hashes }) => Ok(Self::Hashes { object, hashes }),
            Frame::Control(ToRequester::Unavailable { object, code }) => Ok(Self::Unavailable { object, code }),
            Frame::Control(_) => Err("a message out of turn"),
        }
    }
}

enum Progress {
    /// Not yet asked for; these groups are missing.
    Waiting(GroupSet),
    Fetching(Groups),
    /// All groups are written; the sink makes it durable.
    Keeping,
    Held,
    Missing(UnavailableCode),
}

struct Groups {
    /// Checked; `None` until the holder has sent them.
    hashes: Option<Vec<GroupHash>>,
    unasked: GroupSet,
    asked: BTreeSet<u32>,
    writing: BTreeSet<u32>,
}

/// One object of the manifest that is wanted.
pub(super) struct Fetching {
    place: ObjectPlace,
    progress: Progress,
    reused_bytes: u64,
}

impl Fetching {
    pub fn new(place: ObjectPlace, have: Have) -> Self {
        let count = group_count(place.size);
        let (progress, reused_bytes) = match have {
            Have::All => (Progress::Held, place.size),
            Have::Nothing => (Progress::Waiting(GroupSet::all(count)), 0),
            Have::Groups(here) => {
                let missing = GroupSet::from_fn(count, |group| !here.contains(group));
                let reused = (0..count).filter(|group| here.contains(*group));
                let reused = reused.map(|group| group_bytes(place.size, group) as u64).sum();
                (Progress::Waiting(missing), reused)
            }
        };
        Self { place, progress, reused_bytes }
    }

    fn is_settled(&self) -> bool {
        matches!(self.progress, Progress::Held | Progress::Missing(_))
    }

    /// Moves from waiting to fetching when there is anything to ask for.
    fn start(&mut self, out: &mut Outputs) {
        let Progress::Waiting(missing) = &mut self.progress else { return };
        let unasked = std::mem::replace(missing, GroupSet::none(0));
        // An object of one group needs no list: its group hash is its name.
        let hashes = (group_count(self.place.size) == 1).then(|| vec![*self.place.hash.as_bytes()]);
        if let Some(hashes) = &hashes {
            out.push(RequesterOutput::Begin { place: self.place.clone(), hashes: hashes.clone() });
        }
        let (asked, writing) = (BTreeSet::new(), BTreeSet::new());
        self.progress = Progress::Fetching(Groups { hashes, unasked, asked, writing });
    }
}

/// See the module's header.
pub(super) struct Transfer {
    disclosure: DisclosureId,
    /// In the manifest's order.
    objects: Vec<Fetching>,
    /// Wanted objects that cannot be asked for at all.
    declared: Vec<Absent>,
    /// Everything before it has been asked for.
    cursor: usize,
    /// Objects that are neither held nor missing.
    open: usize,
    /// Places taken in the window: groups asked for and not yet written, and objects that are not yet durable.
    in_flight: u32,
    received_bytes: u64,
}

impl Transfer {
    pub fn new(disclosure: DisclosureId, objects: Vec<Fetching>, declared: Vec<Absent>) -> Self {
        let open = objects.iter().filter(|object| !object.is_settled()).count();
        Self { disclosure, objects, declared, cursor: 0, open, in_flight: 0, received_bytes: 0 }
    }

    pub fn disclosure(&self) -> DisclosureId {
        self.disclosure
    }

    pub fn received_bytes(&self) -> u64 {
        self.received_bytes
    }

    pub fn reused_bytes(&self) -> u64 {
        self.objects.iter().map(|object| object.reused_bytes).sum()
    }

    pub fn is_done(&self) -> bool {
        self.open == 0
    }

    /// Whether the holder owes something.
    pub fn awaits(&self) -> bool {
        let owes = |object: &Fetching| matches!(&object.progress, Progress::Fetching(g) if !g.asked.is_empty());
        self.objects.iter().any(owes)
    }

    fn held_objects(&self) -> impl Iterator<Item = &Fetching> {
        self.objects.iter().filter(|object| matches!(object.progress, Progress::Held))
    }

    pub fn held(&self) -> u32 {
        self.held_objects().count() as u32
    }

    pub fn transcript(&self) -> Hash {
        transcript(self.held_objects().map(|object| object.place.hash))
    }

    pub fn missing(&self) -> Vec<Absent> {
        let lost = self.objects.iter().filter_map(|object| match object.progress {
            Progress::Missing(code) => Some(Absent { sop_instance: object.place.sop_instance.clone(), code }),
            _ => None,
        });
        lost.chain(self.declared.iter().cloned()).collect()
    }

    /// Objects whose groups had all come before the last interruption.
    pub fn keep_whole(&mut self, out: &mut Outputs) {
        for object in &mut self.objects {
            if matches!(&object.progress, Progress::Waiting(missing) if missing.is_empty()) {
                object.progress = Progress::Keeping;
                self.in_flight += 1;
                out.push(RequesterOutput::Keep(object.place.clone()));
            }
        }
    }

    /// Asks for as many groups as the window has room for.
    pub fn refill(&mut self, out: &mut Outputs) {
        let mut wants = Vec::new();
        while self.in_flight < WINDOW_GROUPS && wants.len() < WANTS_MAX {
            let Some(object) = self.objects.get_mut(self.cursor) else { break };
            let began = matches!(object.progress, Progress::Waiting(_));
            object.start(out);
            let number = object.place.object;
            let run = match &mut object.progress {
                Progress::Fetching(groups) => groups.ask(WINDOW_GROUPS - self.in_flight),
                _ => None,
            };
            let Some((first, count)) = run else {
                self.cursor += 1;
                continue;
            };
            let hashes = began && group_count(object.place.size) > 1;
            self.in_flight += count;
            wants.push(Want { object: number, hashes, first, count });
        }
        if !wants.is_empty() {
            out.push(RequesterOutput::Send(Frame::Control(ToHolder::Want(wants))));
        }
    }

    pub fn take(&mut self, arrival: Arrival, out: &mut Outputs) -> Result<(), Failure> {
        match arrival {
            Arrival::Hashes { object, hashes } => self.take_hashes(object, &hashes, out),
            Arrival::Data { object, group, bytes } => self.take_data(object, group, bytes, out),
            Arrival::Unavailable { object, code } => self.take_loss(object, code),
        }
    }

    fn find(&mut self, number: u32) -> Result<&mut Fetching, Failure> {
        let found = self.objects.binary_search_by_key(&number, |object| object.place.object);
        found.map(|index| &mut self.objects[index]).map_err(|_| Failure::Breach("an object that was not asked for"))
    }

    fn take_hashes(&mut self, number: u32, bytes: &[u8], out: &mut Outputs) -> Result<(), Failure> {
        let object = self.find(number)?;
        let Progress::Fetching(groups) = &mut object.progress else {
            return Err(Failure::Breach("group hashes that were not asked for"));
        };
        if groups.hashes.is_some() {
            return Err(Failure::Breach("group hashes that were not asked for"));
        }
        let (list, rest) = bytes.as_chunks::<32>();
        let place = &object.place;
        if !rest.is_empty() || !leads_to(&place.hash, place.size, list) {
            return Err(Failure::WrongHashes { sop_instance: place.sop_instance.clone(), hash: place.hash });
        }
        groups.hashes = Some(list.to_vec());
        out.push(RequesterOutput::Begin { place: place.clone(), hashes: list.to_vec() });
        Ok(())
    }

    /// The heart of P8: a group is written when it is what its hash says, and not otherwise.
    fn take_data(&mut self, number: u32, group: u32, bytes: Vec<u8>, out: &mut Outputs) -> Result<(), Failure> {
        let object = self.find(number)?;
        let place = &object.place;
        let unasked = Failure::Breach("a group that was not asked for");
        let Progress::Fetching(groups) = &mut object.progress else { return Err(unasked) };
        if !groups.asked.remove(&group) {
            return Err(unasked);
        }
        let Some(hashes) = &groups.hashes else { return Err(Failure::Breach("a group before its hashes")) };
        let expected = hashes.get(group as usize);
        if expected.is_none() || group_hash(place.size, group, &bytes).as_ref() != expected {
            let sop_instance = place.sop_instance.clone();
            return Err(Failure::WrongGroup { sop_instance, hash: place.hash, group });
        }
        groups.writing.insert(group);
        self.received_bytes += bytes.len() as u64;
        out.push(RequesterOutput::WriteGroup { object: number, group, bytes });
        Ok(())
    }

    fn take_loss(&mut self, number: u32, code: UnavailableCode) -> Result<(), Failure> {
        let object = self.find(number)?;
        match &object.progress {
            Progress::Fetching(groups) => {
                let freed = groups.asked.len() + groups.writing.len();
                object.progress = Progress::Missing(code);
                self.in_flight -= freed as u32;
                self.open -= 1;
                Ok(())
            }
            Progress::Missing(_) => Ok(()),
            _ => Err(Failure::Breach("an object that was not asked for")),
        }
    }

    /// A group lies in the sink; with the last one the object can be kept.
    pub fn written(&mut self, number: u32, group: u32, out: &mut Outputs) {
        let Ok(object) = self.find(number) else { return };
        let Progress::Fetching(groups) = &mut object.progress else { return };
        if !groups.writing.remove(&group) {
            return;
        }
        if groups.is_complete() {
            // Its last group's place in the window stays taken: the sink may hold a small object's bytes until then.
            object.progress = Progress::Keeping;
            out.push(RequesterOutput::Keep(object.place.clone()));
        } else {
            self.in_flight -= 1;
        }
    }

    pub fn kept(&mut self, number: u32) {
        let Ok(object) = self.find(number) else { return };
        if matches!(object.progress, Progress::Keeping) {
            object.progress = Progress::Held;
            self.open -= 1;
            self.in_flight -= 1;
        }
    }
}

impl Groups {
    fn ask(&mut self, room: u32) -> Option<(u32, u32)> {
        let (first, count) = self.unasked.first_run(room)?;
        for group in first..first + count {
            self.unasked.remove(group);
            self.asked.insert(group);
        }
        Some((first, count))
    }

    fn is_complete(&self) -> bool {
        self.unasked.is_empty() && self.asked.is_empty() && self.writing.is_empty()
    }
}

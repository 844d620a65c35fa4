//! What a holder has promised and not yet sent: wants in order, reads ahead, and the frames that are ready.
//!
//! Frames leave in the order in which their groups were asked for, however the disk answers. Nothing is handed out
//! while a ruling is awaited. Memory is bounded: at most [`READ_AHEAD_GROUPS`] groups are being read, ready or unsent, and at
//! most [`WANTED_GROUPS_MAX`] are asked for. An object that turns out damaged is given up alone.

use std::collections::VecDeque;

use tessera_consensus::{Hash, UnixMillis};

use super::frame::Frame;
use super::groups::{GroupHash, group_bytes, group_count, is_transferable};
use super::holder::Asked;
use super::port::{Allowed, HolderOutput};
use super::wire::v1::{Reading, Receipt, ToRequester, UnavailableCode, Want, transcript};
use super::{READ_AHEAD_GROUPS, WANTED_GROUPS_MAX};
use crate::ids::DisclosureId;
use crate::wire::Format;
use crate::wire::v1::ObjectContent;

type Outputs = Vec<HolderOutput>;

/// An object of the offered manifest whose bytes this node holds and hashed.
#[derive(Clone, Copy)]
struct Offered {
    hash: Hash,
    size: u64,
}

/// Something asked for, in the order in which it goes out.
enum Slot {
    Offer { manifest: Vec<u8>, salt: [u8; 16], readings: Vec<Reading> },
    Hashes { object: u32, ready: Option<Vec<GroupHash>> },
    Group { object: u32, group: u32, ready: Option<Vec<u8>> },
    Unavailable { object: u32, code: UnavailableCode },
}

/// A session whose disclosure is on disk.
pub(super) struct Serving {
    pub asked: Asked,
    pub disclosure: DisclosureId,
    /// In the manifest's order; `None`: only declared.
    objects: Vec<Option<Offered>>,
    /// When it must be decided again.
    pub until: Option<UnixMillis>,
    /// Rulings that are awaited; until the last is in, nothing goes out.
    pub awaited: u32,
    wanted: VecDeque<Want>,
    wanted_groups: u32,
    slots: VecDeque<Slot>,
    /// Data frames handed out and not yet reported as sent.
    unsent: usize,
    /// Bytes of object data handed out.
    pub sent_bytes: u64,
}

impl Serving {
    /// Begins with the offer as the first thing to send.
    pub fn new(asked: Asked, disclosure: DisclosureId, allowed: &Allowed) -> Self {
        let objects = allowed.manifest.objects.iter().map(|object| match object.content {
            ObjectContent::Verified { bytes, hash, .. } if is_transferable(&hash, bytes) => {
                Some(Offered { hash, size: bytes })
            }
            _ => None,
        });
        let (manifest, salt) = (allowed.manifest.to_bytes(), allowed.salt);
        let offer = Slot::Offer { manifest, salt, readings: allowed.readings.clone() };
        Self {
            asked,
            disclosure,
            objects: objects.collect(),
            until: allowed.until,
            awaited: 0,
            wanted: VecDeque::new(),
            wanted_groups: 0,
            slots: VecDeque::from([offer]),
            unsent: 0,
            sent_bytes: 0,
        }
    }

    /// A data frame is on the wire.
    pub fn data_sent(&mut self, out: &mut Outputs) {
        self.unsent = self.unsent.saturating_sub(1);
        self.pump(out);
    }

    pub fn take_wants(&mut self, wants: Vec<Want>) -> Result<(), &'static str> {
        for want in wants {
            let object = self.objects.get(want.object as usize).ok_or("an object that is not in the manifest")?;
            let groups = object.map_or(u32::MAX, |object| group_count(object.size));
            let inside = want.first.checked_add(want.count).is_some_and(|end| end <= groups);
            if !inside || (want.count == 0 && !want.hashes) {
                return Err("groups that the object does not have");
            }
            self.wanted_groups = self.wanted_groups.saturating_add(weight(&want));
            if self.wanted_groups > WANTED_GROUPS_MAX {
                return Err("more groups at once than are allowed");
            }
            self.wanted.push_back(want);
        }
        Ok(())
    }

    /// Whether a requester's receipt can be true: no more objects than there are, and all of them under their hashes.
    pub fn admits(&self, receipt: &Receipt) -> bool {
        let all = self.objects.iter().flatten();
        match (receipt.objects as usize).cmp(&all.clone().count()) {
            std::cmp::Ordering::Greater => false,
            std::cmp::Ordering::Equal => receipt.transcript == transcript(all.map(|offered| offered.hash)),
            std::cmp::Ordering::Less => true,
        }
    }

    /// Sends what is ready, in order, and reads ahead as far as memory allows.
    pub fn pump(&mut self, out: &mut Outputs) {
        if self.awaited > 0 {
            return;
        }
        self.send_ready(out);
        while self.slots.len() + self.unsent < READ_AHEAD_GROUPS {
            let Some(slot) = self.next_slot(out) else { break };
            self.slots.push_back(slot);
            self.send_ready(out);
        }
    }

    /// The next thing that is wanted, with the order to read it.
    fn next_slot(&mut self, out: &mut Outputs) -> Option<Slot> {
        let want = self.wanted.front_mut()?;
        let object = want.object;
        let Some(Offered { hash, size }) = self.objects[object as usize] else {
            self.drop_wants(object);
            return Some(Slot::Unavailable { object, code: UnavailableCode::NOT_PINNED });
        };
        let slot = if want.hashes {
            want.hashes = false;
            out.push(HolderOutput::ReadHashes { object, hash, size });
            Slot::Hashes { object, ready: None }
        } else {
            let group = want.first;
            want.first += 1;
            want.count -= 1;
            out.push(HolderOutput::ReadGroup { object, group, hash, size });
            Slot::Group { object, group, ready: None }
        };
        if want.count == 0 {
            self.wanted.pop_front();
        }
        self.wanted_groups -= 1;
        Some(slot)
    }

    /// Forgets what is still wanted of an object.
    fn drop_wants(&mut self, object: u32) {
        let dropped: u32 = self.wanted.iter().filter(|want| want.object == object).map(weight).sum();
        self.wanted.retain(|want| want.object != object);
        self.wanted_groups -= dropped;
    }

    pub fn fill_hashes(&mut self, object: u32, hashes: Option<Vec<GroupHash>>) {
        let awaits = |slot: &&mut Slot| matches!(slot, Slot::Hashes { object: o, ready: None } if *o == object);
        let Some(slot) = self.slots.iter_mut().find(awaits) else { return };
        match hashes {
            Some(hashes) => *slot = Slot::Hashes { object, ready: Some(hashes) },
            None => self.give_up(object),
        }
    }

    pub fn fill_group(&mut self, object: u32, group: u32, bytes: Option<Vec<u8>>) {
        let size = self.objects.get(object as usize).copied().flatten().map_or(0, |offered| offered.size);
        let awaits = |slot: &&mut Slot| matches!(slot, Slot::Group { object: o, group: g, ready: None } if (*o, *g) == (object, group));
        let Some(slot) = self.slots.iter_mut().find(awaits) else { return };
        match bytes.filter(|bytes| bytes.len() == group_bytes(size, group)) {
            Some(bytes) => *slot = Slot::Group { object, group, ready: Some(bytes) },
            None => self.give_up(object),
        }
    }

    /// One object is damaged: said once, nothing more of it goes out, the others do.
    fn give_up(&mut self, lost: u32) {
        self.drop_wants(lost);
        let of_lost = |slot: &Slot| match slot {
            Slot::Hashes { object, .. } | Slot::Group { object, .. } => *object == lost,
            Slot::Offer { .. } | Slot::Unavailable { .. } => false,
        };
        self.slots.retain(|slot| !of_lost(slot));
        self.slots.push_back(Slot::Unavailable { object: lost, code: UnavailableCode::DAMAGED });
    }

    fn offer(&self, manifest: Vec<u8>, salt: [u8; 16], readings: Vec<Reading>) -> ToRequester {
        let disclosure = self.disclosure;
        if readings.is_empty() {
            return ToRequester::Offer { disclosure, manifest, salt };
        }
        ToRequester::OfferWithReadings { disclosure, manifest, salt, readings }
    }

    fn send_ready(&mut self, out: &mut Outputs) {
        while let Some(slot) = self.slots.pop_front() {
            let frame = match slot {
                Slot::Offer { manifest, salt, readings } => Frame::Control(self.offer(manifest, salt, readings)),
                Slot::Hashes { object, ready: Some(hashes) } => {
                    Frame::Control(ToRequester::Hashes { object, hashes: hashes.concat() })
                }
                Slot::Group { object, group, ready: Some(bytes) } => {
                    self.unsent += 1;
                    self.sent_bytes += bytes.len() as u64;
                    Frame::Data { object, group, bytes }
                }
                Slot::Unavailable { object, code } => Frame::Control(ToRequester::Unavailable { object, code }),
                waiting => {
                    self.slots.push_front(waiting);
                    break;
                }
            };
            out.push(HolderOutput::Send(frame));
        }
    }
}

/// A list of hashes weighs like a group, or the list of an empty run would be free. What a peer says may be the largest number.
fn weight(want: &Want) -> u32 {
    want.count.saturating_add(want.hashes.into())
}

//! What this node does for the retrievals that it serves: finds, decides, writes the disclosure down, reads.
//!
//! The disclosure is a command in the durable outbox before the first byte leaves (P4): it reaches the ledger when
//! the line allows. So is this side's receipt before it is sent. The rules are asked anew whenever the certified
//! state moved.

use std::collections::BTreeMap;
use std::sync::Arc;

use tessera_consensus::kernel;
use tessera_consensus::{Hash, Lane, LedgerSize, NodeId, UnixMillis};
use tessera_federation::DisclosureId;
use tessera_federation::net::HolderHost;
use tessera_federation::outbox::Draft;
use tessera_federation::retrieve::groups::GroupHash;
use tessera_federation::retrieve::wire::v1::{
    READINGS_MAX, Reading, RefusalCode, RetrievalRequest, Seen, SignedReceipt,
};
use tessera_federation::retrieve::{Allowed, Facts, HolderView, Identity, NewDisclosure, RequesterRecord, Ruling};
use tessera_federation::wire::Format;
use tessera_federation::wire::v1::{self, DisclosurePublic, Manifest};
use tessera_policy::{Decision, Reason, ReasonCode};
use tessera_storage::engine::{Batch, wait_durable};
use tessera_storage::pixels::{GROUP_BYTES, ObjectHash, StoreError, group_bytes};

use super::Member;
use super::holder::{Decided, Question};
use super::registrar::{Registration, matter_of_nothing};
use super::vault::Shelf;
use crate::archive::catalogue;
use crate::archive::ingest::now_ms;

/// This node at the holder's end of a retrieval.
pub struct Host {
    member: Arc<Member>,
    runtime: tokio::runtime::Handle,
}

impl Host {
    pub fn new(member: Arc<Member>) -> Self {
        Self { member, runtime: tokio::runtime::Handle::current() }
    }

    pub fn identity(&self) -> Identity {
        self.member.identity()
    }

    fn rule(&self, facts: &Facts) -> anyhow::Result<Ruling> {
        let request = &facts.request;
        let study = request.study.study_uid.as_str();
        let registration = self.member.registration(study)?;
        let asked = |known: &Registration| known.record == request.study.record && known.site == request.study.site;
        let registration = registration.filter(asked);
        // Whether a study is here is itself something that only a permitted asker learns.
        let Some(registration) = registration else { return Ok(denied(&[Reason::of(ReasonCode::NoBasis)])) };
        let question = Question {
            user: request.user.clone(),
            requester: request.requester_site.clone(),
            purpose: request.purpose,
            registration,
        };
        let Decided { decision, until } = self.runtime.block_on(self.member.decide(&question))?;
        if let Decision::Deny { .. } = &decision {
            tracing::info!(?decision, requester = %request.requester_site, "a retrieval is refused");
            return match decision.for_requester() {
                Decision::Deny { reasons } => Ok(denied(&reasons)),
                Decision::Allow { .. } => Ok(denied(&[])),
            };
        }
        let (record, revision) = (request.study.record, request.study.revision);
        let Some(kept) = self.member.kept_manifest(record, revision)? else {
            let reasons = vec!["the holder no longer has this revision; look the history up again".into()];
            return Ok(Ruling::Deny { code: RefusalCode::NOT_HERE, reasons });
        };
        let manifest = Manifest::from_bytes(&kept.manifest)?;
        let readings = self.readings(&manifest)?;
        Ok(Ruling::Allow(Box::new(Allowed { manifest, salt: kept.salt, readings, until })))
    }

    /// What the operator has set for the devices that sent these objects, in runs of the manifest's order.
    fn readings(&self, manifest: &Manifest) -> anyhow::Result<Vec<Reading>> {
        let objects = catalogue::objects_of(&**self.member.archive.engine(), manifest.study_uid.as_str(), None)?;
        let set = objects.into_iter().filter_map(|o| Some((o.description.sop_instance, o.receipt.character_set?)));
        let set: BTreeMap<String, String> = set.collect();
        let mut readings: Vec<Reading> = Vec::new();
        for (object, number) in manifest.objects.iter().zip(0u32..) {
            let Some(character_set) = set.get(object.sop_instance.as_str()) else { continue };
            let full = readings.len() == READINGS_MAX;
            match readings.last_mut() {
                Some(last) if last.first + last.count == number && last.character_set == *character_set => {
                    last.count += 1;
                }
                _ if full => break,
                _ => readings.push(Reading { first: number, count: 1, character_set: character_set.clone() }),
            }
        }
        Ok(readings)
    }

    fn disclose(&self, disclosure: &NewDisclosure) -> anyhow::Result<DisclosureId> {
        let request = &disclosure.facts.request;
        let nonce = rand::random();
        let id = DisclosureId::of(&self.member.node, &nonce);
        let public = DisclosurePublic {
            version: v1::VERSION,
            disclosure: id,
            nonce,
            holder: request.study.site.clone(),
            requester: request.requester_site.clone(),
            purpose: request.purpose.number(),
            at: disclosure.facts.now,
        };
        public.validate()?;
        let draft = Draft {
            lane: Lane::Bulk,
            kind: v1::DISCLOSURE,
            public: public.to_bytes(),
            sealed: None,
            matter: matter_of_nothing(),
        };
        let mut batch = Batch::new();
        // The signed request is the evidence of who asked, and for what.
        self.member.vault.put(&mut batch, Shelf::Disclosures, id.as_bytes(), &disclosure.signed);
        let ticket = self.member.outbox.enqueue(vec![draft], batch)?;
        wait_durable(&**self.member.archive.engine(), ticket)?;
        self.member.wake_sender();
        Ok(id)
    }
}

fn denied(reasons: &[Reason]) -> Ruling {
    Ruling::Deny { code: RefusalCode::DENIED, reasons: reasons.iter().map(ToString::to_string).collect() }
}

impl HolderView for Host {
    fn requester(&self, node: &NodeId) -> Option<RequesterRecord> {
        let record = kernel::node(self.member.replica.view(), node).ok()??;
        let sites = record.join.join.sites.into_iter().map(|site| site.id).collect();
        record.active.then_some(RequesterRecord { command_key: record.join.join.keys.command, sites })
    }

    fn certified(&self) -> Option<Seen> {
        self.member.seen()
    }

    fn root_at(&self, size: LedgerSize) -> Option<Hash> {
        self.member.replica.root_at(size).ok()
    }

    fn clock_is_trusted(&self) -> bool {
        self.member.trusted().is_ok()
    }

    fn freshness_limit_ms(&self, _: &RetrievalRequest) -> u64 {
        self.member.domain.freshness_limit_ms
    }
}

impl HolderHost for Host {
    fn now(&self) -> UnixMillis {
        self.member.trusted().map_or_else(|_| UnixMillis(now_ms()), |(now, _)| now)
    }

    fn decide(&self, facts: &Facts) -> Ruling {
        self.rule(facts).unwrap_or_else(|error| {
            tracing::error!(error = format!("{error:#}"), "a decision could not be made: refused");
            let reasons = vec!["the holder could not decide now; try again later".into()];
            Ruling::Deny { code: RefusalCode::HOLDER_FAULT, reasons }
        })
    }

    fn write_disclosure(&self, disclosure: &NewDisclosure) -> Option<DisclosureId> {
        match self.disclose(disclosure) {
            Ok(id) => Some(id),
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "a disclosure could not be written: nothing is sent");
                None
            }
        }
    }

    fn write_receipt(&self, receipt: &SignedReceipt) -> bool {
        let written = self.member.anchor_as_holder(receipt);
        if let Err(error) = &written {
            tracing::error!(error = format!("{error:#}"), "a receipt could not be written");
        }
        written.is_ok()
    }

    fn catch_up(&self, _: &Seen, note: Option<&str>) {
        let note = note.and_then(|note| tessera_consensus::checkpoint::SignedCheckpoint::parse(note).ok());
        let (Some(signed), Ok(core)) = (note, self.member.replica.core()) else { return };
        if let Ok(certificate) = signed.verify(&core, self.member.replica.federation()) {
            self.member.hear_of(certificate);
        }
    }

    fn group_hashes(&self, hash: &Hash, _: u64) -> Option<Vec<GroupHash>> {
        said(self.member.archive.pixels().chunk_group_hashes(&ObjectHash::blake3(*hash.as_bytes())))
    }

    fn read_group(&self, hash: &Hash, size: u64, group: u32) -> Option<Vec<u8>> {
        let bytes = group_bytes(group.into(), size)?;
        let hash = ObjectHash::blake3(*hash.as_bytes());
        said(self.member.archive.pixels().read_range(&hash, u64::from(group) * GROUP_BYTES, bytes))
    }
}

/// The requester hears that the object is damaged here; this node's operator hears what and where.
fn said<T>(read: Result<T, StoreError>) -> Option<T> {
    read.inspect_err(|error| tracing::error!(%error, "an object that was asked for can't be read here")).ok()
}

//! This node as a requester: fetching an examination from its holder, checked and resumable.
//!
//! Objects lie in the pixel store's partial area until they are whole; a fetch that was killed goes on from there.
//! What arrives is filed as a copy of the holder's, never as this hospital's own examination, and is not registered.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use tessera_consensus::wire::encode;
use tessera_consensus::{Lane, SiteId, UnixMillis};
use tessera_federation::DisclosureId;
use tessera_federation::history::FoundStudy;
use tessera_federation::net::{Fetch, ObjectSink, fetch_through};
use tessera_federation::outbox::Draft;
use tessera_federation::retrieve::groups::{GroupHash, GroupSet};
use tessera_federation::retrieve::wire::v1::{Basis, RetrievalId, StudyRef};
use tessera_federation::retrieve::{Failure, Have, Intent, ObjectPlace, Selection, Summary};
use tessera_federation::wire::Format;
use tessera_federation::wire::v1::{self, Manifest, ObjectContent, ReceiptPublic, ReceiptSide};
use tessera_policy::{Identifier, Purpose};
use tessera_storage::engine::Batch;
use tessera_storage::pixels::{ObjectHash, Partial, group_count};

use super::registrar::matter_of_nothing;
use super::{Member, locked};
use crate::archive::Archive;
use crate::archive::catalogue;
use crate::archive::ingest::{Origin, now_ms};
use crate::control::server::Reporter;
use crate::control::wire::{FetchCall, FetchDone, Progress};
use crate::dicom::identifiers::Uid;
use crate::dicom::part10::file_head;
use crate::http::HolderRefused;

/// Attempts while the line breaks; what has arrived stays.
const ATTEMPTS: u32 = 5;

impl Member {
    pub async fn fetch(self: &Arc<Self>, call: FetchCall, reporter: Reporter) -> anyhow::Result<FetchDone> {
        let begun = Instant::now();
        // Two at once would write the same partial objects. Who comes second finds what the first has brought.
        let turn = self.fetch_turn(&call.study);
        let _turn = turn.lock().await;
        let identifier = Identifier::parse(&call.id)?;
        let person = self.person(&identifier, false).await?;
        let named = |study: &&FoundStudy| {
            study.details.shown.as_ref().is_some_and(|shown| shown.study_uid.as_str() == call.study)
        };
        let found = person.found.current().into_iter().find(named).cloned();
        let found = found.with_context(|| format!("{identifier} has no study {} in the ledger", call.study))?;
        let site = found.details.site.clone();
        ensure!(!self.config.site.iter().any(|own| own.id == site), "the study is this hospital's own");
        let holder = self.node_of(&site)?.with_context(|| format!("no active node speaks for {site}"))?;
        let sink = Arc::new(Sink::new(self.clone(), site.clone(), reporter));
        let next = || Fetch {
            me: self.identity(),
            intent: self.intent(&call, &found, &holder).expect("the same call made an intent before"),
            sink: sink.clone(),
            now: Arc::new(|| UnixMillis(now_ms())),
        };
        self.intent(&call, &found, &holder)?;
        let summary = match fetch_through(self.peers()?.net(), ATTEMPTS, next).await {
            Ok(summary) => summary,
            Err(Failure::Refused(signed)) => {
                bail!(HolderRefused(format!("refused by {}: {}", self.site_name(&site)?, signed.refusal)))
            }
            Err(failure) => bail!("{failure}"),
        };
        ensure!(summary.missing.is_empty(), "the holder could not send {} objects", summary.missing.len());
        self.anchor(&summary)?;
        let elapsed_ms = begun.elapsed().as_millis() as u64;
        let files = match &call.to {
            Some(directory) => export(&self.archive, &call.study, directory).await?,
            None => Vec::new(),
        };
        Ok(FetchDone {
            study: call.study,
            holder: self.site_name(&site)?,
            disclosure: summary.disclosure.to_string(),
            objects: summary.held.into(),
            bytes: summary.received_bytes + summary.reused_bytes,
            resumed_bytes: summary.reused_bytes,
            elapsed_ms,
            files,
        })
    }

    /// Held while a study is fetched. A caller who went away leaves its fetch running.
    fn fetch_turn(&self, study: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut fetching = locked(&self.fetching);
        fetching.retain(|_, turn| turn.strong_count() > 0);
        let known = fetching.get(study).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let turn = Arc::default();
            fetching.insert(study.to_owned(), Arc::downgrade(&turn));
            turn
        })
    }

    fn intent(
        &self,
        call: &FetchCall,
        found: &FoundStudy,
        holder: &tessera_consensus::kernel::NodeRecord,
    ) -> anyhow::Result<Intent> {
        let site = self.config.default_site().id.clone();
        let purpose: Purpose = call.purpose.parse().map_err(|_| anyhow::anyhow!("{} is no purpose", call.purpose))?;
        let shown = found.details.shown.as_ref().context("the record shows no study")?;
        let certificate =
            self.replica.certificate().context("this node has not caught up yet; try again in a moment")?;
        Ok(Intent {
            id: RetrievalId::from_bytes(rand::random()),
            holder: holder.join.node_id(),
            holder_key: holder.join.join.keys.command,
            site: site.clone(),
            user: self.asserted(&call.user)?,
            study: StudyRef {
                site: found.details.site.clone(),
                record: found.details.record,
                revision: found.details.revision,
                study_uid: shown.study_uid.clone(),
                commitment: found.details.manifest,
            },
            purpose,
            basis: Basis::default(),
            break_glass: None,
            seen: self.seen().context("this node has not caught up yet; try again in a moment")?,
            note: Some(certificate.signed().to_note()),
            selection: Selection::All,
        })
    }

    /// Both sides' receipts go into the ledger.
    fn anchor(&self, summary: &Summary) -> anyhow::Result<()> {
        let receipt = &summary.receipt.receipt;
        let public = ReceiptPublic {
            version: v1::VERSION,
            disclosure: summary.disclosure,
            side: ReceiptSide::Requester,
            objects: receipt.objects,
            bytes: receipt.bytes,
            transcript: receipt.transcript,
        };
        let draft = Draft {
            lane: Lane::Bulk,
            kind: v1::RECEIPT,
            public: public.to_bytes(),
            sealed: None,
            matter: matter_of_nothing(),
        };
        self.outbox.enqueue(vec![draft], Batch::new())?;
        self.wake_sender();
        Ok(())
    }
}

/// Writes a study's objects as DICOM files, one for each SOP instance.
async fn export(archive: &Arc<Archive>, study: &str, directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let (archive, study, directory) = (archive.clone(), study.to_owned(), directory.to_owned());
    let written = tokio::task::spawn_blocking(move || {
        std::fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        let objects = catalogue::objects_of(&**archive.engine(), &study, None)?;
        let mut files = Vec::with_capacity(objects.len());
        for object in objects {
            let path = directory.join(format!("{}.dcm", object.description.sop_instance));
            let class = Uid::parse(&object.description.sop_class)?;
            let instance = Uid::parse(&object.description.sop_instance)?;
            let syntax = Uid::parse(&object.receipt.transfer_syntax)?;
            let mut file = std::io::BufWriter::new(std::fs::File::create(&path)?);
            file.write_all(&file_head(&class, &instance, &syntax, None))?;
            std::io::copy(&mut archive.pixels().reader(&ObjectHash::blake3(object.hash))?, &mut file)?;
            file.flush()?;
            files.push(path);
        }
        anyhow::Ok(files)
    });
    written.await?
}

/// Where fetched objects go.
struct Sink {
    member: Arc<Member>,
    site: SiteId,
    reporter: Reporter,
    partials: Mutex<BTreeMap<ObjectHash, Arc<Partial>>>,
    progress: Mutex<Progress>,
    /// Objects of one group that wait to be kept; at most a window of them.
    whole: Mutex<BTreeMap<ObjectHash, Vec<u8>>>,
    syntaxes: Mutex<BTreeMap<ObjectHash, Uid>>,
}

impl Sink {
    fn new(member: Arc<Member>, site: SiteId, reporter: Reporter) -> Self {
        let progress = Progress { stage: "fetching".into(), ..Progress::default() };
        let (partials, whole, syntaxes) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { member, site, reporter, partials, progress: Mutex::new(progress), whole, syntaxes }
    }

    fn partial(&self, place: &ObjectPlace) -> Result<Arc<Partial>, String> {
        let known = locked(&self.partials).get(&object_hash(place)).cloned();
        known.ok_or_else(|| "a group came for an object that was not begun".into())
    }

    fn step(&self, change: impl FnOnce(&mut Progress)) {
        let mut progress = locked(&self.progress);
        change(&mut progress);
        self.reporter.step(progress.clone());
    }

    /// Files a durable object in the catalogue, as a copy.
    fn file(&self, place: &ObjectPlace) -> anyhow::Result<()> {
        let hash = object_hash(place);
        let syntax = locked(&self.syntaxes).get(&hash).cloned().context("an object that was not offered")?;
        let origin = Origin::Fetched { site: self.site.as_str().to_owned() };
        let archive = &self.member.archive;
        let receipt = archive.copy_receipt(origin, &syntax);
        let whole = locked(&self.whole).remove(&hash);
        if let Some(bytes) = whole {
            let done = archive.pixels().store_and_wait(&bytes, &encode(&receipt))?;
            ensure!(done.hash == hash, "a checked object has another hash");
            return archive.file_copy(&receipt, &syntax, hash, Some(done.id));
        }
        let known = locked(&self.partials).remove(&hash);
        match known.and_then(Arc::into_inner) {
            Some(partial) => {
                let done = partial.finish(&encode(&receipt))?;
                archive.file_copy(&receipt, &syntax, hash, Some(done.id))?;
            }
            None => archive.file_copy(&receipt, &syntax, hash, None)?,
        }
        Ok(())
    }
}

fn object_hash(place: &ObjectPlace) -> ObjectHash {
    ObjectHash::blake3(*place.hash.as_bytes())
}

impl ObjectSink for Sink {
    fn offered(&self, _: DisclosureId, manifest: &Manifest) -> Result<(), String> {
        let mut syntaxes = locked(&self.syntaxes);
        for object in &manifest.objects {
            if let ObjectContent::Verified { transfer_syntax, hash, .. } = &object.content {
                let uid = Uid::parse(transfer_syntax.as_str()).map_err(|error| error.to_string())?;
                syntaxes.insert(ObjectHash::blake3(*hash.as_bytes()), uid);
            }
        }
        let (objects, bytes) = (manifest.objects.len() as u64, manifest.bytes());
        self.step(|progress| (progress.objects_total, progress.bytes_total) = (objects, bytes));
        Ok(())
    }

    fn inspect(&self, places: &[ObjectPlace]) -> Result<Vec<Have>, String> {
        let pixels = self.member.archive.pixels();
        let mut have = Vec::with_capacity(places.len());
        for place in places {
            let hash = object_hash(place);
            if pixels.contains(&hash).map_err(|error| error.to_string())? {
                self.file(place).map_err(|error| format!("{error:#}"))?;
                self.step(|progress| progress.objects_done += 1);
                have.push(Have::All);
                continue;
            }
            let count = group_count(place.size);
            let arrived = pixels.partial_groups(&hash).filter(|groups| groups.len() as u64 == count);
            have.push(arrived.map_or(Have::Nothing, |groups| {
                Have::Groups(GroupSet::from_fn(groups.len() as u32, |group| groups[group as usize]))
            }));
        }
        Ok(have)
    }

    fn begin(&self, place: &ObjectPlace, hashes: &[GroupHash]) -> Result<(), String> {
        // An object of one group is whole when it comes: nothing of it could be resumed.
        if hashes.len() > 1 {
            let hash = object_hash(place);
            let pixels = self.member.archive.pixels();
            let partial = pixels.partial(&hash, place.size, hashes).map_err(|error| error.to_string())?;
            locked(&self.partials).insert(hash, Arc::new(partial));
        }
        Ok(())
    }

    fn write_group(&self, place: &ObjectPlace, group: u32, bytes: Vec<u8>) -> Result<(), String> {
        let length = bytes.len() as u64;
        if group_count(place.size) == 1 {
            locked(&self.whole).insert(object_hash(place), bytes);
        } else {
            self.partial(place)?.write_group(group.into(), &bytes).map_err(|error| error.to_string())?;
        }
        self.step(|progress| progress.bytes_done += length);
        Ok(())
    }

    fn keep(&self, place: &ObjectPlace) -> Result<(), String> {
        self.file(place).map_err(|error| format!("{error:#}"))?;
        self.step(|progress| progress.objects_done += 1);
        Ok(())
    }
}

//! This node as a requester: fetching an examination from its holder, checked and resumable.
//!
//! Objects lie in the pixel store's partial area until they are whole; a fetch that was killed goes on from there.
//! What arrives is a working copy of the holder's ([`crate::archive::copies`]), never this hospital's own examination,
//! and is not registered; it is shown only when all of it is here.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use tessera_consensus::wire::encode;
use tessera_consensus::{Lane, UnixMillis};
use tessera_federation::DisclosureId;
use tessera_federation::history::FoundStudy;
use tessera_federation::net::{Fetch, ObjectSink, fetch_through};
use tessera_federation::outbox::Draft;
use tessera_federation::retrieve::groups::{GroupHash, GroupSet};
use tessera_federation::retrieve::wire::v1::{Basis, RetrievalId, StudyRef};
use tessera_federation::retrieve::{Failure, Have, Intent, ObjectPlace, Selection, Summary};
use tessera_federation::wire::Format;
use tessera_federation::wire::v1::{self, Manifest, ManifestObject, ReceiptPublic, ReceiptSide};
use tessera_policy::{Identifier, Purpose};
use tessera_storage::engine::Batch;
use tessera_storage::pixels::{ObjectHash, Partial, group_count};

use super::history::Person;
use super::registrar::matter_of_nothing;
use super::{Member, locked};
use crate::archive::Archive;
use crate::archive::copies::{self, CopyId};
use crate::archive::ingest::now_ms;
use crate::control::server::Reporter;
use crate::control::wire::{FetchCall, FetchDone, Progress};
use crate::dicom::identifiers::Uid;
use crate::dicom::part10::file_head;
use crate::http::HolderRefused;

/// Attempts while the line breaks; what has arrived stays.
const ATTEMPTS: u32 = 5;

impl Member {
    /// Fetches when nobody else is at this study: two at once would write the same partial objects, and who comes second
    /// finds what the first has brought.
    pub async fn fetch_in_turn(self: &Arc<Self>, call: FetchCall, reporter: Reporter) -> anyhow::Result<FetchDone> {
        let turn = self.archive.turns().of(&call.study);
        let _turn = turn.lock().await;
        self.fetch(call, reporter).await
    }

    /// The study's turn is the caller's.
    pub async fn fetch(self: &Arc<Self>, call: FetchCall, reporter: Reporter) -> anyhow::Result<FetchDone> {
        let begun = Instant::now();
        let identifier = Identifier::parse(&call.id)?;
        let person = self.person(&identifier, false).await?;
        let found = self.found_elsewhere(&person, &call)?;
        let site = found.details.site.clone();
        let holder = self.node_of(&site)?.with_context(|| format!("no active node speaks for {site}"))?;
        let copy = CopyId { holder: site.clone(), record: found.details.record, revision: found.details.revision };
        let sink = Arc::new(Sink::new(self.clone(), copy.clone(), reporter));
        // What is revoked from here on closes the copy, whether or not the holder knew of it.
        let seen = self.seen().context("this node has not caught up yet; try again in a moment")?.size.0;
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
        self.open_copy(&copy, &person, &call, summary.disclosure, seen).await?;
        self.anchor(&summary)?;
        let elapsed_ms = begun.elapsed().as_millis() as u64;
        let files = match &call.to {
            Some(directory) => export(&self.archive, copy, directory).await?,
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

    /// The study that a call means: at the site that it names, or at the first other one that holds it.
    fn found_elsewhere(&self, person: &Person, call: &FetchCall) -> anyhow::Result<FoundStudy> {
        let named = |study: &&FoundStudy| {
            study.details.shown.as_ref().is_some_and(|shown| shown.study_uid.as_str() == call.study)
        };
        let found: Vec<&FoundStudy> = person.found.current().into_iter().filter(named).collect();
        ensure!(!found.is_empty(), "the ledger has no study {} under this number", call.study);
        let own = |study: &FoundStudy| self.config.site.iter().any(|own| own.id == study.details.site);
        let asked =
            |study: &FoundStudy| call.holder.as_ref().is_none_or(|holder| study.details.site.as_str() == holder);
        let at = call.holder.as_deref().unwrap_or("another site");
        let found = found.into_iter().find(|study| !own(study) && asked(study)).cloned();
        found.with_context(|| format!("the study is not at {at}; this hospital's own needs no fetch"))
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

/// Writes a copy's objects as DICOM files, one for each SOP instance.
async fn export(archive: &Arc<Archive>, copy: CopyId, directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let (archive, directory) = (archive.clone(), directory.to_owned());
    let written = tokio::task::spawn_blocking(move || {
        std::fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        let objects = copies::objects(&**archive.engine(), &copy, None)?;
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
    copy: CopyId,
    reporter: Reporter,
    /// As the ledger commits to it, once the holder has offered it.
    manifest: Mutex<Option<Arc<Manifest>>>,
    partials: Mutex<BTreeMap<ObjectHash, Arc<Partial>>>,
    progress: Mutex<Progress>,
    /// Objects of one group that wait to be kept; at most a window of them.
    whole: Mutex<BTreeMap<u32, Vec<u8>>>,
}

impl Sink {
    fn new(member: Arc<Member>, copy: CopyId, reporter: Reporter) -> Self {
        let progress = Progress { stage: "fetching".into(), ..Progress::default() };
        let (manifest, partials, whole) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { member, copy, reporter, manifest, partials, progress: Mutex::new(progress), whole }
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

    fn manifest(&self) -> anyhow::Result<Arc<Manifest>> {
        locked(&self.manifest).clone().context("an object before the offer")
    }

    fn offer(&self, manifest: &Manifest) -> anyhow::Result<()> {
        let (record, revision) = (self.copy.record, self.copy.revision);
        ensure!(
            (manifest.record, manifest.revision) == (record, revision),
            "the manifest is of another record or revision than the ledger's; tell the holder's operator"
        );
        self.member.archive.begin_copy(&self.copy, manifest)?;
        *locked(&self.manifest) = Some(Arc::new(manifest.clone()));
        Ok(())
    }

    /// Whether an object is here whole; then it is in the copy.
    fn is_here(&self, place: &ObjectPlace) -> anyhow::Result<bool> {
        let archive = &self.member.archive;
        if !archive.pixels().contains(&object_hash(place))? {
            return Ok(false);
        }
        let manifest = self.manifest()?;
        let listed = listed(&manifest, place)?;
        let (series, sop) = (listed.series_uid.as_str(), listed.sop_instance.as_str());
        let known = copies::object(&**archive.engine(), &self.copy, series, sop)?;
        if known.is_none_or(|known| known.hash != *place.hash.as_bytes()) {
            archive.copy_stored(&self.copy, manifest.study_uid.as_str(), listed, None)?;
        }
        Ok(true)
    }

    /// Takes an object that has come into the copy; returns when it is durable.
    fn file(&self, place: &ObjectPlace) -> anyhow::Result<()> {
        let archive = &self.member.archive;
        let manifest = self.manifest()?;
        let (listed, study) = (listed(&manifest, place)?, manifest.study_uid.as_str());
        let whole = locked(&self.whole).remove(&place.object);
        if let Some(bytes) = whole {
            return archive.copy_whole(&self.copy, study, listed, &bytes);
        }
        let known = locked(&self.partials).remove(&object_hash(place));
        let receipt = match known.and_then(Arc::into_inner) {
            Some(partial) => Some(partial.finish(&encode(&archive.copy_receipt(&self.copy, listed)?))?.id),
            None => None,
        };
        archive.copy_stored(&self.copy, study, listed, receipt)
    }
}

fn listed<'a>(manifest: &'a Manifest, place: &ObjectPlace) -> anyhow::Result<&'a ManifestObject> {
    manifest.objects.get(place.object as usize).context("an object that the manifest does not list")
}

fn object_hash(place: &ObjectPlace) -> ObjectHash {
    ObjectHash::blake3(*place.hash.as_bytes())
}

impl ObjectSink for Sink {
    fn offered(&self, _: DisclosureId, manifest: &Manifest) -> Result<(), String> {
        self.offer(manifest).map_err(|error| format!("{error:#}"))?;
        let (objects, bytes) = (manifest.objects.len() as u64, manifest.bytes());
        self.step(|progress| (progress.objects_total, progress.bytes_total) = (objects, bytes));
        Ok(())
    }

    fn inspect(&self, places: &[ObjectPlace]) -> Result<Vec<Have>, String> {
        let pixels = self.member.archive.pixels();
        let mut have = Vec::with_capacity(places.len());
        for place in places {
            if self.is_here(place).map_err(|error| format!("{error:#}"))? {
                self.step(|progress| progress.objects_done += 1);
                have.push(Have::All);
                continue;
            }
            let count = group_count(place.size);
            let arrived = pixels.partial_groups(&object_hash(place)).filter(|groups| groups.len() as u64 == count);
            have.push(arrived.map_or(Have::Nothing, |groups| {
                Have::Groups(GroupSet::from_fn(groups.len() as u32, |group| groups[group as usize]))
            }));
        }
        Ok(have)
    }

    fn begin(&self, place: &ObjectPlace, hashes: &[GroupHash]) -> Result<(), String> {
        // An object of one group is whole when it comes: nothing of it could be resumed.
        let hash = object_hash(place);
        // An earlier attempt of this fetch may have it open already.
        if hashes.len() > 1 && !locked(&self.partials).contains_key(&hash) {
            let pixels = self.member.archive.pixels();
            let partial = pixels.partial(&hash, place.size, hashes).map_err(|error| error.to_string())?;
            locked(&self.partials).insert(hash, Arc::new(partial));
        }
        Ok(())
    }

    fn write_group(&self, place: &ObjectPlace, group: u32, bytes: Vec<u8>) -> Result<(), String> {
        let length = bytes.len() as u64;
        if group_count(place.size) == 1 {
            locked(&self.whole).insert(place.object, bytes);
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

//! This node as a requester: fetching an examination from its holder, checked and resumable.
//!
//! Objects lie in the pixel store's partial area until they are whole; a fetch that was killed goes on from there.
//! What arrives is a working copy of the holder's ([`crate::archive::copies`]), never this hospital's own examination,
//! and is not registered; it is shown only when all of it is here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use tessera_consensus::wire::encode;
use tessera_federation::DisclosureId;
use tessera_federation::history::FoundStudy;
use tessera_federation::net::{Fetch, ObjectSink, fetch_through};
use tessera_federation::retrieve::groups::{GroupHash, GroupSet};
use tessera_federation::retrieve::wire::v1::{Basis, Reading, RefusalCode, RetrievalId, StudyRef};
use tessera_federation::retrieve::{Absent, Failure, Have, Intent, ObjectPlace, Selection, Summary};
use tessera_federation::wire::v1::{Manifest, ManifestObject};
use tessera_policy::{Identifier, Purpose};
use tessera_storage::pixels::{ObjectHash, Partial, group_count};

use super::copies::Fetched;
use super::export::export;
use super::history::Person;
use super::lookups::{Asked, Occasion};
use super::{Member, clock, locked};
use crate::archive::copies::{self, CopyId};
use crate::control::server::Reporter;
use crate::control::wire::{FetchCall, FetchDone, Progress};
use crate::http::HolderRefused;

/// Attempts while the line breaks, within 8 s if it is gone for good; what has arrived stays.
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
        let person = self.person(&identifier, Asked { occasion: Occasion::Fetch, user: &call.user }).await?;
        let found = self.found_elsewhere(&person, &call)?;
        let site = found.details.site.clone();
        let holder = self.node_of(&site)?.with_context(|| format!("no active node speaks for {site}"))?;
        let copy = CopyId { holder: site.clone(), record: found.details.record, revision: found.details.revision };
        // A holder that is behind tries to catch up before it answers: seconds, in which somebody waits.
        reporter.step(Progress { stage: format!("asking {}", self.site_name(&site)?), ..Progress::default() });
        let sink = Arc::new(Sink::new(self.clone(), copy.clone(), reporter));
        // What is revoked from here on closes the copy, whether or not the holder knew of it.
        let seen = self.seen().context("this node has not caught up yet; try again in a moment")?.size.0;
        self.ask_nobody_what_was_taken_back(&person, &found, &call)?;
        // Dated by the clock of the beginning, and patient by one that nobody sets.
        let (date, steady) = (self.recorded_now(), clock::steady());
        let next = || Fetch {
            me: self.identity(),
            intent: self.intent(&call, &found, &holder).expect("the same call made an intent before"),
            sink: sink.clone(),
            now: Arc::new(move || date.plus_ms(clock::steady().since(steady))),
        };
        self.intent(&call, &found, &holder)?;
        let summary = match fetch_through(self.peers()?.net(), ATTEMPTS, next).await {
            Ok(summary) => summary,
            Err(Failure::Refused(signed)) => {
                let (code, reasons) = (signed.refusal.code, signed.refusal.reasons.clone());
                bail!(HolderRefused { code, by: self.site_name(&site)?, why: code.advice().to_owned(), reasons })
            }
            Err(failure) => {
                let name = self.site_name(&site)?;
                if failure.is_holders_fault() {
                    self.suspect(holder.join.node_id(), &format_args!("study {}: {failure}", found.details.record));
                    bail!("{name}: {failure}. Nothing of the study is shown; what came before and was right is kept");
                }
                bail!("{name}: {failure}")
            }
        };
        self.keep_receipt(&summary.receipt).await?;
        ensure!(summary.missing.is_empty(), lacking(&self.site_name(&site)?, &summary));
        self.open_copy(&copy, &person, &call, summary.disclosure, seen).await?;
        let record = copies::copy(&**self.archive.engine(), &copy)?.context("the copy was given up meanwhile")?;
        if let Some(why) = self.copy_closed(&record, Some(purpose(&call)?))? {
            bail!(self.refused_here("the study was fetched, and closed since".into(), vec![why]));
        }
        let elapsed_ms = begun.elapsed().as_millis() as u64;
        let files = match &call.to {
            Some(directory) => {
                let (archive, directory) = (self.archive.clone(), directory.clone());
                tokio::task::spawn_blocking(move || export(&archive, &copy, &directory)).await??
            }
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

    /// What the patient took back at this very hospital the holder need not know of: without another consent it is
    /// not even asked. In this version nothing but consents opens another site's images.
    fn ask_nobody_what_was_taken_back(
        &self,
        person: &Person,
        found: &FoundStudy,
        call: &FetchCall,
    ) -> anyhow::Result<()> {
        let purpose = purpose(call)?;
        let study = &found.details.shown.as_ref().context("the record shows no study")?.study_uid;
        let fetched = Fetched { holder: &found.details.site, study, purpose, at_ms: self.recorded_now().0 };
        match self.taken_back_here(&person.found, &fetched)? {
            None => Ok(()),
            Some(consent) => {
                let why = "the holder was not asked".to_owned();
                let reason =
                    format!("the patient took consent {consent} back at this hospital, and no other allows it");
                bail!(self.refused_here(why, vec![reason]))
            }
        }
    }

    /// A refusal by this hospital's own rules.
    fn refused_here(&self, why: String, reasons: Vec<String>) -> HolderRefused {
        let by = self.config.default_site().legal_name.clone();
        HolderRefused { code: RefusalCode::DENIED, by, why, reasons }
    }

    fn intent(
        &self,
        call: &FetchCall,
        found: &FoundStudy,
        holder: &tessera_consensus::kernel::NodeRecord,
    ) -> anyhow::Result<Intent> {
        let site = self.config.default_site().id.clone();
        let purpose = purpose(call)?;
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
}

pub(super) fn purpose(call: &FetchCall) -> anyhow::Result<Purpose> {
    call.purpose.parse().map_err(|_| anyhow::anyhow!("{} is no purpose", call.purpose))
}

/// What a holder could not send, by name, and what helps.
fn lacking(holder: &str, summary: &Summary) -> String {
    const NAMED_MAX: usize = 5;
    let named = |absent: &Absent| format!("{} ({})", absent.sop_instance, absent.code.advice());
    let mut named: Vec<String> = summary.missing.iter().take(NAMED_MAX).map(named).collect();
    if summary.missing.len() > NAMED_MAX {
        named.push(format!("and {} more", summary.missing.len() - NAMED_MAX));
    }
    format!(
        "{holder} could not send {} of the study's {} objects: {}. Nothing of the study is shown; the {} that came are \
         kept for the next attempt. Ask its operator (its `tessera status` names what is damaged), or another hospital \
         that holds the study",
        summary.missing.len(),
        summary.held as usize + summary.missing.len(),
        named.join(", "),
        summary.held
    )
}

/// Where fetched objects go.
struct Sink {
    member: Arc<Member>,
    copy: CopyId,
    reporter: Reporter,
    /// As the ledger commits to it, once the holder has offered it.
    manifest: Mutex<Option<Arc<Manifest>>>,
    /// How the holder reads some of the objects.
    readings: Mutex<Vec<Reading>>,
    partials: Mutex<BTreeMap<ObjectHash, Arc<Partial>>>,
    progress: Mutex<Progress>,
    /// Objects of one group that wait to be kept; at most a window of them.
    whole: Mutex<BTreeMap<u32, Vec<u8>>>,
}

impl Sink {
    fn new(member: Arc<Member>, copy: CopyId, reporter: Reporter) -> Self {
        let progress = Progress { stage: "fetching".into(), ..Progress::default() };
        let (manifest, readings) = (Mutex::default(), Mutex::default());
        let (partials, whole) = (Mutex::default(), Mutex::default());
        Self { member, copy, reporter, manifest, readings, partials, progress: Mutex::new(progress), whole }
    }

    /// The holder's setting for the device that an object came from.
    fn character_set(&self, place: &ObjectPlace) -> Option<String> {
        let readings = locked(&self.readings);
        let reading = readings.iter().find(|reading| reading.covers(place.object));
        reading.map(|reading| reading.character_set.clone())
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
            let set = self.character_set(place);
            archive.copy_stored(&self.copy, manifest.study_uid.as_str(), listed, set.as_deref(), None)?;
        }
        Ok(true)
    }

    /// Takes an object that has come into the copy; returns when it is durable.
    fn file(&self, place: &ObjectPlace) -> anyhow::Result<()> {
        let archive = &self.member.archive;
        let manifest = self.manifest()?;
        let (listed, study) = (listed(&manifest, place)?, manifest.study_uid.as_str());
        let set = self.character_set(place);
        let whole = locked(&self.whole).remove(&place.object);
        if let Some(bytes) = whole {
            return archive.copy_whole(&self.copy, study, listed, set.as_deref(), &bytes);
        }
        let known = locked(&self.partials).remove(&object_hash(place));
        let receipt = match known.and_then(Arc::into_inner) {
            Some(partial) => {
                let receipt = archive.copy_receipt(&self.copy, listed, set.as_deref())?;
                Some(partial.finish(&encode(&receipt))?.id)
            }
            None => None,
        };
        archive.copy_stored(&self.copy, study, listed, set.as_deref(), receipt)
    }
}

fn listed<'a>(manifest: &'a Manifest, place: &ObjectPlace) -> anyhow::Result<&'a ManifestObject> {
    manifest.objects.get(place.object as usize).context("an object that the manifest does not list")
}

fn object_hash(place: &ObjectPlace) -> ObjectHash {
    ObjectHash::blake3(*place.hash.as_bytes())
}

impl ObjectSink for Sink {
    fn offered(&self, _: DisclosureId, manifest: &Manifest, readings: Vec<Reading>) -> Result<(), String> {
        *locked(&self.readings) = readings;
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

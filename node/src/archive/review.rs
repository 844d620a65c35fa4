//! What the command line asks about what was put aside: a list, one item, decisions made and to be made.
//! Names and numbers of patients are shown: the control socket is for people of this site.
//! Not here: what a decision does, which is [`super::releasing`]'s.

use std::collections::BTreeSet;
use std::fs::File;
use std::sync::Arc;

use anyhow::Context;
use tessera_storage::pixels::ObjectHash;

use super::Archive;
use super::catalogue::{self, Description, ObjectRecord, Quarantine, Standing};
use super::quarantine::{self, Became, Decision, Ground, Item, ItemId, Selection, Why};
use super::releasing::Action;
use crate::control::server::Reporter;
use crate::control::wire::{
    DecisionShown, Progress, QuarantineDecideCall, QuarantineDecideDone, QuarantineDecisionsCall,
    QuarantineDecisionsDone, QuarantineListCall, QuarantineListDone, QuarantineShowCall, QuarantineShowDone,
    QuarantineShown,
};
use crate::member::rfc3339;

/// Items that one call shows, or decides about.
pub const ITEMS_MAX: usize = 10_000;

fn ids(texts: &[String]) -> anyhow::Result<BTreeSet<ItemId>> {
    let parsed: Result<BTreeSet<_>, String> = texts.iter().map(|text| ItemId::parse(text)).collect();
    let ids = parsed.map_err(anyhow::Error::msg)?;
    anyhow::ensure!(ids.len() <= ITEMS_MAX, "at most {ITEMS_MAX} items at a time");
    Ok(ids)
}

impl Archive {
    pub async fn aside(self: &Arc<Self>, call: QuarantineListCall) -> anyhow::Result<QuarantineListDone> {
        let selection = match (call.all_from, call.items.is_empty()) {
            (Some(title), true) => Selection::From(title),
            (Some(_), false) => anyhow::bail!("name items or a sender, not both"),
            (None, true) => Selection::All,
            (None, false) => Selection::Items(ids(&call.items)?),
        };
        let archive = self.clone();
        let limit = (call.limit as usize).min(ITEMS_MAX);
        let selected = move || quarantine::selected(&*archive.engine, &selection, limit);
        let (items, count) = tokio::task::spawn_blocking(selected).await??;
        Ok(QuarantineListDone { count, items: items.iter().map(shown).collect() })
    }

    pub async fn look(self: &Arc<Self>, call: QuarantineShowCall) -> anyhow::Result<QuarantineShowDone> {
        let archive = self.clone();
        tokio::task::spawn_blocking(move || {
            let item = archive.items(&[call.item])?.pop().context("nothing of that number is put aside")?;
            if let Some(to) = &call.to {
                let named = || to.display().to_string();
                archive.write_file(&item.record, to).with_context(named)?;
                let directory = to.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all());
                directory.with_context(named)?;
            }
            archive.shown_whole(&item)
        })
        .await?
    }

    fn items(&self, texts: &[String]) -> anyhow::Result<Vec<Item>> {
        Ok(quarantine::selected(&*self.engine, &Selection::Items(ids(texts)?), ITEMS_MAX)?.0)
    }

    fn shown_whole(&self, item: &Item) -> anyhow::Result<QuarantineShowDone> {
        let record = &item.record;
        let current = catalogue::object(&*self.engine, &record.description.sop_instance)?;
        Ok(QuarantineShowDone {
            item: shown(item),
            series_uid: record.description.series.clone(),
            transfer_syntax: record.receipt.transfer_syntax.clone(),
            hash: ObjectHash::blake3(record.hash).to_string(),
            called_ae: record.receipt.called_ae.clone(),
            differs: match (item.why, &current) {
                (Why::Variant, Some(current)) => differences(current, record),
                _ => Vec::new(),
            },
            release: self.release_would(item)?,
        })
    }

    fn release_would(&self, item: &Item) -> anyhow::Result<String> {
        if item.why == Why::Variant {
            return Ok(
                "it takes the place of the object with its UID, in a new revision of the study; that object is \
                       kept as superseded"
                    .into(),
            );
        }
        Ok(match catalogue::standing_by_content(&*self.engine, &item.record)? {
            Standing::New => "it is filed in its study".into(),
            Standing::Known => "nothing changes, its bytes are in the archive already; it leaves the list".into(),
            Standing::Variant => "it becomes a variant of an object that is in the archive".into(),
            Standing::Quarantined(why) => format!("not possible: {}", why.sentence()),
        })
    }

    pub async fn decide_on(
        self: &Arc<Self>,
        call: QuarantineDecideCall,
        reporter: Reporter,
    ) -> anyhow::Result<QuarantineDecideDone> {
        let ground = Ground::new(&call.by, &call.reason).map_err(anyhow::Error::msg)?;
        let action = if call.release { Action::Release } else { Action::Discard };
        let archive = self.clone();
        let done = tokio::task::spawn_blocking(move || archive.decide_all(&call.items, action, &ground, &reporter));
        done.await?
    }

    fn decide_all(
        &self,
        numbers: &[String],
        action: Action,
        ground: &Ground,
        reporter: &Reporter,
    ) -> anyhow::Result<QuarantineDecideDone> {
        let mut done = QuarantineDecideDone::default();
        let mut items = self.items(numbers)?;
        // As they came, so that the first of several resends is the one that is filed.
        items.reverse();
        let here: BTreeSet<ItemId> = items.iter().map(Item::id).collect();
        for id in ids(numbers)?.into_iter().filter(|id| !here.contains(id)) {
            done.refused.push((id.as_str().to_owned(), "it is not put aside".into()));
        }
        let total = items.len() as u64;
        let mut count = 0;
        self.decide(&items, action, ground, |item, became| {
            match became {
                Ok(Became::Filed) => done.filed += 1,
                Ok(Became::KnownAlready) => done.known_already += 1,
                Ok(Became::Variant) => done.variants += 1,
                Ok(Became::InPlaceOf(_)) => done.replaced += 1,
                Ok(Became::Discarded) => done.discarded += 1,
                Err(error) => done.refused.push((item.id().as_str().to_owned(), error.to_string())),
            }
            count += 1;
            let stage = if action == Action::Release { "releasing" } else { "discarding" };
            let (objects_done, objects_total) = (count, total);
            reporter.step(Progress { stage: stage.into(), objects_done, objects_total, ..Progress::default() });
        })?;
        let QuarantineDecideDone { filed, known_already, variants, replaced, discarded, refused } = &done;
        let stay = refused.len();
        tracing::info!(by = ground.by, filed, known_already, variants, replaced, discarded, stay, "put aside: decided");
        Ok(done)
    }

    pub async fn decided(self: &Arc<Self>, call: QuarantineDecisionsCall) -> anyhow::Result<QuarantineDecisionsDone> {
        let archive = self.clone();
        let limit = (call.limit as usize).min(ITEMS_MAX);
        let (decisions, count) =
            tokio::task::spawn_blocking(move || quarantine::decisions(&*archive.engine, limit)).await??;
        let decisions = decisions.into_iter().map(|(id, decision)| decision_shown(&id, &decision));
        Ok(QuarantineDecisionsDone { count, decisions: decisions.collect() })
    }
}

fn shown(item: &Item) -> QuarantineShown {
    shown_as(&item.id(), item.why, &item.record)
}

fn shown_as(id: &ItemId, why: Why, record: &ObjectRecord) -> QuarantineShown {
    let (d, receipt) = (&record.description, &record.receipt);
    QuarantineShown {
        item: id.as_str().to_owned(),
        received: rfc3339(receipt.received_ms),
        sender: match receipt.calling_ae.as_str() {
            "" => "an import".into(),
            title => format!("{title} at {}", receipt.address),
        },
        sop_instance: d.sop_instance.clone(),
        study_uid: d.study.clone(),
        why: match why {
            Why::Quarantined(Quarantine::Damaged) => why.sentence().to_owned(),
            _ if record.is_damaged => format!("{}; {}", why.sentence(), Quarantine::Damaged.sentence()),
            _ => why.sentence().to_owned(),
        },
        bytes: record.size,
        patient: format!("{}/{}", d.issuer, d.patient_id),
        patient_name: d.patient_name.clone(),
        study_date: d.study_date.clone(),
        modality: d.modality.clone(),
        description: d.study_description.clone(),
    }
}

fn decision_shown(id: &ItemId, decision: &Decision) -> DecisionShown {
    let became = match decision.became {
        Became::Filed => "released into its study".into(),
        Became::KnownAlready => "released; its bytes were in the archive already".into(),
        Became::Variant => "released, and became a variant".into(),
        Became::InPlaceOf(hash) => format!("released in the place of {}", ObjectHash::blake3(hash)),
        Became::Discarded => "discarded".into(),
    };
    let item = shown_as(id, decision.why, &decision.record);
    let Ground { by, reason } = decision.ground.clone();
    DecisionShown { decided: rfc3339(decision.decided_ms), by, reason, became, item }
}

/// What a reviewer looks at: the words of both, where they differ, and their sizes.
fn differences(current: &ObjectRecord, variant: &ObjectRecord) -> Vec<(String, String, String)> {
    type Field = fn(&Description) -> &str;
    let fields: [(&str, Field); 16] = [
        ("patient's name", |d| &d.patient_name),
        ("sex", |d| &d.sex),
        ("birth date", |d| &d.birth_date),
        ("study date", |d| &d.study_date),
        ("study time", |d| &d.study_time),
        ("study description", |d| &d.study_description),
        ("accession number", |d| &d.accession),
        ("referring physician", |d| &d.referring_physician),
        ("institution", |d| &d.institution),
        ("modality", |d| &d.modality),
        ("body part", |d| &d.body_part),
        ("series", |d| &d.series),
        ("series description", |d| &d.series_description),
        ("instance number", |d| &d.instance_number),
        ("manufacturer", |d| &d.manufacturer),
        ("device", |d| &d.device_model),
    ];
    let (there, here) = (&current.description, &variant.description);
    let words = fields.iter().map(|(what, of)| ((*what).to_owned(), of(there).to_owned(), of(here).to_owned()));
    let size = |d: &Description| format!("{} x {} x {}", d.columns, d.rows, d.frames);
    let others = [
        ("columns x rows x frames".to_owned(), size(there), size(here)),
        (
            "transfer syntax".to_owned(),
            current.receipt.transfer_syntax.clone(),
            variant.receipt.transfer_syntax.clone(),
        ),
        ("bytes".to_owned(), current.size.to_string(), variant.size.to_string()),
    ];
    words.chain(others).filter(|(_, there, here)| there != here).collect()
}

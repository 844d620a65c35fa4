//! A search request: its parameters (PS3.18 section 8.3.4) as checked conditions.
//!
//! A parameter that is no attribute at all is refused, since leaving it out would answer another question. An attribute that
//! the catalogue does not have is left out, as the standard wants, and so are parameters that say what headers say; the
//! answer tells.

use super::attributes::{
    self, Attribute, ISSUER_OF_PATIENT_ID, Level, MODALITIES_IN_STUDY, MODALITY, PATIENT_ID, TagNumber,
};
use super::matching::{DateRange, Rule, list};
use crate::archive::catalogue::Description;
use crate::http::error::HttpError;
use crate::http::fetching::Cause;

/// Results of one answer; further ones by `offset`.
pub const RESULTS_MAX: usize = 1000;
/// How far an answer may be behind the first result: what is skipped is read too. As many as are searched.
pub const OFFSET_MAX: usize = 20_000;

#[derive(Debug, Clone)]
pub struct Condition {
    pub tag: TagNumber,
    pub rule: Rule,
}

/// A search.
#[derive(Clone)]
pub struct Query {
    pub conditions: Vec<Condition>,
    pub limit: usize,
    pub offset: usize,
    /// Attributes that could not be matched, for the warning.
    pub left_out: Vec<String>,
    /// Attributes that the answer should have and the catalogue does not.
    pub not_kept: Vec<String>,
    pub cause: Cause,
}

impl Query {
    pub fn parse(parameters: &[(String, String)]) -> Result<Self, HttpError> {
        let fuzzy = parameters.iter().any(|(name, value)| name == "fuzzymatching" && value == "true");
        let mut query = Self {
            conditions: Vec::new(),
            limit: RESULTS_MAX,
            offset: 0,
            left_out: Vec::new(),
            not_kept: Vec::new(),
            cause: Cause::default(),
        };
        for (name, value) in parameters {
            query.parameter(name, value, fuzzy)?;
        }
        Ok(query)
    }

    fn parameter(&mut self, name: &str, value: &str, fuzzy: bool) -> Result<(), HttpError> {
        let number = || {
            let wrong = || HttpError::BadRequest(format!("{name} is a number, such as {name}=50"));
            value.parse::<usize>().map_err(|_| wrong())
        };
        match name {
            "limit" => self.limit = number()?.min(RESULTS_MAX),
            "offset" => self.offset = number()?,
            "fuzzymatching" => {}
            "includefield" => self.include(value),
            // The standard's other ways to say what headers say (PS3.18 section 8.3.3).
            "accept" | "charset" => self.left_out.push(name.to_owned()),
            "patient" => self.cause.patient = value.to_owned(),
            "purpose" => self.cause.purpose = value.to_owned(),
            "user" => self.cause.user = value.to_owned(),
            "holder" => self.cause.holder = Some(value.to_owned()),
            _ => self.attribute(name, value, fuzzy)?,
        }
        if self.offset > OFFSET_MAX {
            let text = format!("offset is at most {OFFSET_MAX}; ask for a range of StudyDate instead");
            return Err(HttpError::BadRequest(text));
        }
        Ok(())
    }

    fn attribute(&mut self, name: &str, value: &str, fuzzy: bool) -> Result<(), HttpError> {
        // An attribute of a sequence's items: none of them is in the catalogue.
        if name.contains('.') && name.split('.').all(|part| attributes::tag_of(part).is_some()) {
            self.left_out.push(name.to_owned());
            return Ok(());
        }
        let Some(tag) = attributes::tag_of(name) else {
            let text = format!("{name:?} is no DICOM attribute; use a keyword (PatientID) or a tag (00100020)");
            return Err(HttpError::BadRequest(text));
        };
        // An empty value matches everything (PS3.4 C.2.2.2.3).
        if value.trim().is_empty() || value == "*" {
            return Ok(());
        }
        if tag == MODALITIES_IN_STUDY {
            self.conditions.push(Condition { tag, rule: Rule::OneOf(list(value)) });
            return Ok(());
        }
        let Some(known) = attributes::attribute(tag) else {
            self.left_out.push(name.to_owned());
            return Ok(());
        };
        let rule = attributes::rule(tag, known.vr, value.trim(), fuzzy);
        let rule = rule.map_err(|why| HttpError::BadRequest(format!("{name} can't be matched: {why}")))?;
        self.conditions.push(Condition { tag, rule });
        Ok(())
    }

    /// Notes what of a list of attributes the answer won't have.
    fn include(&mut self, value: &str) {
        let is_kept = |name: &str| name == "all" || attributes::tag_of(name).is_some_and(attributes::is_kept);
        self.not_kept.extend(list(value).into_iter().filter(|name| !is_kept(name)));
    }

    /// Restricts the search to what the path names.
    pub fn within(&mut self, tag: TagNumber, uid: &str) {
        self.conditions.push(Condition { tag, rule: Rule::OneOf([uid.to_owned()].into()) });
    }

    pub fn rule(&self, tag: TagNumber) -> Option<&Rule> {
        self.conditions.iter().find(|condition| condition.tag == tag).map(|condition| &condition.rule)
    }

    pub fn exact(&self, tag: TagNumber) -> Option<&str> {
        self.rule(tag).and_then(Rule::exact)
    }

    pub fn dates(&self) -> Option<&DateRange> {
        match self.rule(attributes::STUDY_DATE) {
            Some(Rule::Dates(range)) => Some(range),
            _ => None,
        }
    }

    /// Whether all conditions up to `level` hold; those on other levels are for others to check.
    pub fn holds(&self, description: &Description, level: Level) -> bool {
        self.at(level).all(|(condition, attribute)| condition.rule.matches(&attribute.value(description)))
    }

    /// As `holds`, for an answer that was found by the patient's number already.
    pub fn holds_besides_patient(&self, description: &Description, level: Level) -> bool {
        let mut others =
            self.at(level).filter(|(condition, _)| !matches!(condition.tag, PATIENT_ID | ISSUER_OF_PATIENT_ID));
        others.all(|(condition, attribute)| condition.rule.matches(&attribute.value(description)))
    }

    /// Whether a study with these modalities is asked for; a series' Modality counts, since users put it there.
    pub fn holds_modalities<'a>(&self, modalities: impl Iterator<Item = &'a String> + Clone) -> bool {
        let rules = [MODALITIES_IN_STUDY, MODALITY].into_iter().filter_map(|tag| self.rule(tag));
        rules.into_iter().all(|rule| modalities.clone().any(|modality| rule.matches(modality)))
    }

    fn at(&self, level: Level) -> impl Iterator<Item = (&Condition, &'static Attribute)> {
        let known = |condition: &Condition| attributes::attribute(condition.tag);
        let conditions = self.conditions.iter().filter_map(move |c| known(c).map(|attribute| (c, attribute)));
        conditions.filter(move |(_, attribute)| attribute.level == level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Query, String> {
        let pairs: Vec<_> = pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        Query::parse(&pairs).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_wrong_is_said() {
        let table = [
            ("limit", "x", "limit is a number"),
            ("offset", "20001", "at most 20000"),
            ("PatientsName", "A", "no DICOM attribute"),
            ("00400275.Nothing", "A", "no DICOM attribute"),
            ("StudyTime", "10:15", "HHMMSS"),
            ("StudyDate", "2026", "YYYYMMDD"),
        ];
        for (name, value, expected) in table {
            let error = parse(&[(name, value)]).err().unwrap_or_default();
            assert!(error.contains(expected), "{name}: {error}");
        }
    }

    #[test]
    fn conditions_are_gathered() {
        let query = parse(&[
            ("00100020", "H-1"),
            ("IssuerOfPatientID", "HOSP-A"),
            ("PatientName", ""),
            ("limit", "5000"),
            ("includefield", "all"),
            ("PatientWeight", "70"),
            ("00400275.00400009", "SPS-1"),
            ("RequestAttributesSequence.ScheduledProcedureStepID", "SPS-1"),
            ("accept", "application/dicom+json"),
            ("includefield", "00081030,PatientWeight"),
            ("includefield", "NumberOfStudyRelatedSeries"),
        ])
        .expect("a query");
        assert_eq!((query.exact(PATIENT_ID), query.exact(ISSUER_OF_PATIENT_ID)), (Some("H-1"), Some("HOSP-A")));
        assert_eq!((query.conditions.len(), query.limit), (2, RESULTS_MAX));
        let sequence = "RequestAttributesSequence.ScheduledProcedureStepID";
        assert_eq!(query.left_out, ["PatientWeight", "00400275.00400009", sequence, "accept"]);
        assert_eq!(query.not_kept, ["PatientWeight"]);
        assert_eq!(parse(&[("PatientID", "H*")]).expect("a query").exact(PATIENT_ID), None);
    }

    #[test]
    fn an_old_search_by_an_exact_name_of_the_patient_still_uses_its_level() {
        let query = parse(&[("Modality", "CT"), ("PatientID", "H-1")]).expect("a query");
        let d = Description { patient_id: "H-1".into(), modality: "MR".into(), ..Default::default() };
        assert!(query.holds(&d, Level::Study) && !query.holds(&d, Level::Series));
        let other = Description { patient_id: "H-2".into(), ..Default::default() };
        assert!(!query.holds(&other, Level::Study) && query.holds_besides_patient(&other, Level::Study));
    }
}

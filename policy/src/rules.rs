//! Rule bases of several levels, parsed, validated and combined.
//!
//! Each level (national, provincial, federation, site) is a Cedar policy set of its own, and every level that has
//! rules must allow: so a level can only tighten what the others leave open. A rule base is opaque bytes to the
//! replicated machine; whoever approves one and whoever applies one parses it here first.
//!
//! Invariants:
//! 1. A rule base that parses has been validated against the schema in strict mode, without warnings, and each of
//!    its rules has a unique name.
//! 2. No level with rules, an evaluation error, or a request that does not fit the schema: the answer is no. Cedar
//!    skips a rule that fails to evaluate, and a skipped prohibition would open what it should close.
//! 3. A level without rules is neutral only if it says so in the words of [`NEUTRAL_LEVEL`]; an empty or truncated
//!    file is refused.

use crate::decision::{Basis, Decision, Request};
use crate::evaluation::{EvaluationFault, Question, Vocabulary};
use crate::facts::ConsentFacts;
use crate::{BasisKind, Level, NumberedError, Reason, ReasonCode, RuleId, RuleIdError};
use cedar_policy::ffi::DetailedError;
use cedar_policy::{Authorizer, Effect, Policy, PolicyId, PolicySet, Response, Schema, ValidationMode, Validator};
use std::collections::{BTreeMap, BTreeSet};

/// The rule base that a federation starts with, at [`Level::Federation`].
pub const FEDERATION_DEFAULT: &str = include_str!("../rules/federation-default.cedar");
/// What rules can speak of.
pub const SCHEMA: &str = include_str!("../rules/schema.cedarschema");
/// The whole text of a level that deliberately has no rules.
pub const NEUTRAL_LEVEL: &str = "// no rules at this level";
/// Largest rule base of one level.
pub const RULE_BASE_BYTES_MAX: usize = 256 * 1024;
/// Most rules of one level.
pub const RULES_MAX: usize = 1_000;

/// Why a rule base is refused.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    #[error("no level has rules; at least the federation's rule base is needed")]
    NoRules,
    #[error("the {level} level is given twice; give it once")]
    LevelTwice { level: Level },
    #[error("the {level} rule base has {bytes} bytes, at most {RULE_BASE_BYTES_MAX} are allowed")]
    TooLong { level: Level, bytes: usize },
    #[error("the {level} rule base has {count} rules, at most {RULES_MAX} are allowed")]
    TooMany { level: Level, count: usize },
    #[error("the {level} rule base has no rules; if that is meant, its text must be exactly \"{NEUTRAL_LEVEL}\"")]
    Empty { level: Level },
    #[error("the {level} rule base does not parse: {detail}")]
    Syntax { level: Level, detail: String },
    #[error("the {level} rule base has templates; write each rule out")]
    Template { level: Level },
    #[error("a rule of the {level} rule base has no @id; give every rule one")]
    IdMissing { level: Level },
    #[error("the {level} rule base: {source}")]
    IdForm { level: Level, source: RuleIdError },
    #[error("the {level} rule base has two rules named {rule}; every @id must be unique")]
    IdTwice { level: Level, rule: RuleId },
    #[error("rule {rule} of the {level} rule base: {source}")]
    Annotation { level: Level, rule: RuleId, source: NumberedError },
    #[error("the {level} rule base does not fit the schema: {detail}")]
    Schema { level: Level, detail: String },
    #[error("the schema shipped with this program does not parse: {detail}")]
    ShippedSchema { detail: String },
}

/// What a rule's annotations say of it.
#[derive(Debug)]
enum Meaning {
    Permit(BasisKind),
    Forbid(ReasonCode),
}

#[derive(Debug)]
struct LevelRules {
    policies: PolicySet,
    meanings: BTreeMap<RuleId, Meaning>,
}

/// The rules of all levels, ready to decide.
#[derive(Debug)]
pub struct Rules {
    levels: BTreeMap<Level, LevelRules>,
    vocabulary: Vocabulary,
}

impl Rules {
    /// Parses and validates the rule bases. A level that is not listed has no say.
    pub fn parse(levels: &[(Level, &str)]) -> Result<Self, RulesError> {
        let shipped = |detail: String| RulesError::ShippedSchema { detail };
        let (schema, _) = Schema::from_cedarschema_str(SCHEMA).map_err(|error| shipped(error.to_string()))?;
        let mut seen = BTreeSet::new();
        let mut parsed = BTreeMap::new();
        for &(level, text) in levels {
            if !seen.insert(level) {
                return Err(RulesError::LevelTwice { level });
            }
            if let Some(rules) = parse_level(level, text, &schema)? {
                parsed.insert(level, rules);
            }
        }
        if parsed.is_empty() {
            return Err(RulesError::NoRules);
        }
        let vocabulary = Vocabulary::new(schema).map_err(|fault| shipped(fault.to_string()))?;
        Ok(Self { levels: parsed, vocabulary })
    }

    /// The shipped federation rule base alone.
    pub fn federation_default() -> Result<Self, RulesError> {
        Self::parse(&[(Level::Federation, FEDERATION_DEFAULT)])
    }

    /// The levels that have a say.
    pub fn levels(&self) -> impl Iterator<Item = Level> + '_ {
        self.levels.keys().copied()
    }

    /// Decides. Refusing is the default.
    pub fn decide(&self, request: &Request) -> Decision {
        match self.vocabulary.question(request) {
            Ok(question) => self.combine(&question),
            Err(EvaluationFault { .. }) => Decision::Deny { reasons: vec![Reason::of(ReasonCode::RuleError)] },
        }
    }

    /// All levels must allow; those that don't all say why.
    fn combine(&self, question: &Question) -> Decision {
        let mut basis = Vec::new();
        let mut reasons = BTreeSet::new();
        for (&level, rules) in &self.levels {
            let response = Authorizer::new().is_authorized(&question.request, &rules.policies, &question.entities);
            match rules.read(level, &response, &question.facts) {
                Ok(permits) => basis.extend(permits),
                Err(refusals) => reasons.extend(refusals),
            }
        }
        if reasons.is_empty() && !basis.is_empty() {
            return Decision::Allow { basis };
        }
        if reasons.iter().any(|reason| reason.code == ReasonCode::NoBasis) {
            reasons.extend(question.facts.shortfalls().map(Reason::of));
        }
        Decision::Deny { reasons: reasons.into_iter().collect() }
    }
}

impl LevelRules {
    /// What one level says: the rules that allow, or the reasons against.
    fn read(&self, level: Level, response: &Response, facts: &ConsentFacts) -> Result<Vec<Basis>, Vec<Reason>> {
        if response.diagnostics().errors().next().is_some() {
            return Err(vec![Reason { code: ReasonCode::RuleError, level: Some(level), rule: None }]);
        }
        let mut permits = Vec::new();
        let mut refusals = Vec::new();
        for id in response.diagnostics().reason() {
            let known = RuleId::parse(id.as_ref()).ok().and_then(|rule| self.meanings.get_key_value(&rule));
            match known {
                Some((rule, &Meaning::Permit(kind))) => {
                    permits.push(Basis { level, rule: rule.clone(), kind, consents: facts.consents_behind(kind) });
                }
                Some((rule, &Meaning::Forbid(code))) => {
                    refusals.push(Reason { code, level: Some(level), rule: Some(rule.clone()) });
                }
                None => refusals.push(Reason { code: ReasonCode::RuleError, level: Some(level), rule: None }),
            }
        }
        let allowed = response.decision() == cedar_policy::Decision::Allow;
        if allowed && refusals.is_empty() && !permits.is_empty() {
            // Cedar lists the deciding rules in no particular order.
            permits.sort_by(|a, b| a.rule.cmp(&b.rule));
            return Ok(permits);
        }
        if refusals.is_empty() {
            refusals.push(Reason { code: ReasonCode::NoBasis, level: Some(level), rule: None });
        }
        Err(refusals)
    }
}

/// One level's rules, or nothing for a level that is deliberately without.
fn parse_level(level: Level, text: &str, schema: &Schema) -> Result<Option<LevelRules>, RulesError> {
    if text.len() > RULE_BASE_BYTES_MAX {
        return Err(RulesError::TooLong { level, bytes: text.len() });
    }
    if text.trim() == NEUTRAL_LEVEL {
        return Ok(None);
    }
    let unnamed: PolicySet = text
        .parse()
        .map_err(|error| RulesError::Syntax { level, detail: located(text, &DetailedError::from(&error)) })?;
    if unnamed.templates().next().is_some() {
        return Err(RulesError::Template { level });
    }
    match unnamed.policies().count() {
        0 => return Err(RulesError::Empty { level }),
        1..=RULES_MAX => {}
        count => return Err(RulesError::TooMany { level, count }),
    }
    let mut policies = PolicySet::new();
    let mut meanings = BTreeMap::new();
    for policy in unnamed.policies() {
        let rule = rule_id(level, policy)?;
        let meaning = meaning(level, &rule, policy)?;
        let renamed = policy.new_id(PolicyId::new(rule.as_str()));
        if policies.add(renamed).is_err() || meanings.contains_key(&rule) {
            return Err(RulesError::IdTwice { level, rule });
        }
        meanings.insert(rule, meaning);
    }
    validate(level, text, &policies, schema)?;
    Ok(Some(LevelRules { policies, meanings }))
}

fn rule_id(level: Level, policy: &Policy) -> Result<RuleId, RulesError> {
    let id = policy.annotation("id").ok_or(RulesError::IdMissing { level })?;
    RuleId::parse(id).map_err(|source| RulesError::IdForm { level, source })
}

fn meaning(level: Level, rule: &RuleId, policy: &Policy) -> Result<Meaning, RulesError> {
    let refuse = |source| RulesError::Annotation { level, rule: rule.clone(), source };
    match policy.effect() {
        Effect::Permit => match policy.annotation("basis") {
            Some(name) => name.parse().map(Meaning::Permit).map_err(refuse),
            None => Ok(Meaning::Permit(BasisKind::Agreed)),
        },
        Effect::Forbid => match policy.annotation("reason") {
            Some(name) => name.parse().map(Meaning::Forbid).map_err(refuse),
            None => Ok(Meaning::Forbid(ReasonCode::RuleForbids)),
        },
    }
}

/// Warnings count as errors: they point at rules that can never apply, or that read differently from what they are.
fn validate(level: Level, text: &str, policies: &PolicySet, schema: &Schema) -> Result<(), RulesError> {
    let result = Validator::new(schema.clone()).validate(policies, ValidationMode::Strict);
    let errors = result.validation_errors().map(DetailedError::from);
    let warnings = result.validation_warnings().map(DetailedError::from);
    let found: Vec<String> = errors.chain(warnings).map(|error| located(text, &error)).collect();
    if found.is_empty() { Ok(()) } else { Err(RulesError::Schema { level, detail: found.join("; ") }) }
}

/// The message with the line that it speaks of.
fn located(text: &str, error: &DetailedError) -> String {
    let offset = error.source_locations.iter().map(|label| label.loc.start).min();
    let help = error.help.as_ref().map(|help| format!(" ({help})")).unwrap_or_default();
    match offset.and_then(|offset| text.get(..offset)) {
        Some(before) => format!("line {}: {}{help}", before.matches('\n').count() + 1, error.message),
        None => format!("{}{help}", error.message),
    }
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;

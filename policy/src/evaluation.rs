//! From a request to the question that Cedar answers: entities, context, and nothing else.
//!
//! The shapes are those of `rules/schema.cedarschema`, against which every question is checked before it is asked.
//! Whatever fails here is refused by the caller.

use crate::decision::{
    Action, BreakGlass, Circumstances, Confirmation, Freshness, Ground, GroundStanding, Request, Resource, StudyFacts,
};
use crate::facts::ConsentFacts;
use crate::{EvidenceClass, SiteId, UserAssertion};
use cedar_policy::{Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, RestrictedExpression, Schema};
use std::collections::{BTreeMap, BTreeSet};

/// A request that does not fit the schema, such as a lookup of a single study.
#[derive(Debug, thiserror::Error)]
#[error("the request does not fit the schema: {detail}")]
pub(crate) struct EvaluationFault {
    detail: String,
}

impl EvaluationFault {
    fn new(error: impl std::fmt::Display) -> Self {
        Self { detail: error.to_string() }
    }
}

/// A request in Cedar's terms, with the facts that were counted for it.
pub(crate) struct Question {
    pub(crate) request: cedar_policy::Request,
    pub(crate) entities: Entities,
    pub(crate) facts: ConsentFacts,
}

/// Names of the schema's entity types, as the schema spells them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Type {
    Site,
    User,
    Study,
    Index,
    Role,
    Title,
    Purpose,
    Visibility,
    ReleaseState,
    Mark,
    Evidence,
    Duty,
    Action,
}

const TYPES: [(Type, &str); 13] = [
    (Type::Site, "Site"),
    (Type::User, "User"),
    (Type::Study, "Study"),
    (Type::Index, "Index"),
    (Type::Role, "Role"),
    (Type::Title, "Title"),
    (Type::Purpose, "Purpose"),
    (Type::Visibility, "Visibility"),
    (Type::ReleaseState, "ReleaseState"),
    (Type::Mark, "Mark"),
    (Type::Evidence, "Evidence"),
    (Type::Duty, "Duty"),
    (Type::Action, "Action"),
];

/// The schema and the parsed names of its types.
#[derive(Debug)]
pub(crate) struct Vocabulary {
    schema: Schema,
    types: BTreeMap<Type, EntityTypeName>,
}

type Fields = Vec<(String, RestrictedExpression)>;

impl Vocabulary {
    pub(crate) fn new(schema: Schema) -> Result<Self, EvaluationFault> {
        let types = TYPES
            .into_iter()
            .map(|(kind, name)| Ok((kind, name.parse().map_err(EvaluationFault::new)?)))
            .collect::<Result<_, EvaluationFault>>()?;
        Ok(Self { schema, types })
    }

    /// Puts a request into Cedar's terms.
    pub(crate) fn question(&self, request: &Request) -> Result<Question, EvaluationFault> {
        let facts = match &request.resource {
            Resource::Study(study) => ConsentFacts::count(&request.requester, study, &request.circumstances),
            Resource::Index => ConsentFacts::default(),
        };
        let user = self.user(&request.principal)?;
        let resource = self.resource(&request.resource)?;
        let context = self.context(request, &facts)?;
        let cedar_request = cedar_policy::Request::new(
            user.uid(),
            self.uid(Type::Action, Action::as_str(request.action))?,
            resource.uid(),
            context,
            Some(&self.schema),
        )
        .map_err(EvaluationFault::new)?;
        let mut sites = BTreeSet::from([request.principal.site(), &request.requester]);
        if let Resource::Study(study) = &request.resource {
            sites.insert(&study.holder);
        }
        let sites = sites.into_iter().map(|site| Ok(Entity::new_no_attrs(self.site(site)?, [].into())));
        let mut entities = sites.collect::<Result<Vec<_>, EvaluationFault>>()?;
        entities.extend([user, resource]);
        let entities = Entities::from_entities(entities, Some(&self.schema)).map_err(EvaluationFault::new)?;
        Ok(Question { request: cedar_request, entities, facts })
    }

    fn uid(&self, kind: Type, id: &str) -> Result<EntityUid, EvaluationFault> {
        let name = self.types.get(&kind).ok_or_else(|| EvaluationFault::new("unknown entity type"))?;
        Ok(EntityUid::from_type_name_and_id(name.clone(), EntityId::new(id)))
    }

    fn site(&self, site: &SiteId) -> Result<EntityUid, EvaluationFault> {
        self.uid(Type::Site, site.as_str())
    }

    fn value(&self, kind: Type, id: &str) -> Result<RestrictedExpression, EvaluationFault> {
        self.uid(kind, id).map(RestrictedExpression::new_entity_uid)
    }

    fn set<'a>(
        &self,
        kind: Type,
        ids: impl IntoIterator<Item = &'a str>,
    ) -> Result<RestrictedExpression, EvaluationFault> {
        let values: Vec<_> = ids.into_iter().map(|id| self.value(kind, id)).collect::<Result<_, _>>()?;
        Ok(RestrictedExpression::new_set(values))
    }

    fn user(&self, principal: &UserAssertion) -> Result<Entity, EvaluationFault> {
        let site = self.site(principal.site())?;
        let uid = self.uid(Type::User, &format!("{}/{}", principal.site(), principal.user()))?;
        let mut attributes = BTreeMap::from([
            ("site".to_owned(), RestrictedExpression::new_entity_uid(site.clone())),
            ("role".to_owned(), self.value(Type::Role, principal.role().as_str())?),
        ]);
        if let Some(title) = principal.title() {
            attributes.insert("title".to_owned(), self.value(Type::Title, title.as_str())?);
        }
        Entity::new(uid, attributes.into_iter().collect(), [site].into()).map_err(EvaluationFault::new)
    }

    fn resource(&self, resource: &Resource) -> Result<Entity, EvaluationFault> {
        match resource {
            Resource::Study(study) => self.study(study),
            Resource::Index => Ok(Entity::new_no_attrs(self.uid(Type::Index, "index")?, [].into())),
        }
    }

    fn study(&self, study: &StudyFacts) -> Result<Entity, EvaluationFault> {
        let holder = self.site(&study.holder)?;
        let modalities = study.modalities.iter().map(|m| RestrictedExpression::new_string(m.as_str().to_owned()));
        let attributes = BTreeMap::from([
            ("holder".to_owned(), RestrictedExpression::new_entity_uid(holder.clone())),
            ("modalities".to_owned(), RestrictedExpression::new_set(modalities)),
            ("visibility".to_owned(), self.value(Type::Visibility, study.visibility.as_str())?),
            ("state".to_owned(), self.value(Type::ReleaseState, study.state.as_str())?),
            ("marks".to_owned(), self.set(Type::Mark, study.marks.iter().map(|mark| mark.as_str()))?),
            ("rejected".to_owned(), RestrictedExpression::new_bool(study.rejected.is_some())),
        ]);
        let uid = self.uid(Type::Study, study.study.as_str())?;
        Entity::new(uid, attributes.into_iter().collect(), [holder].into()).map_err(EvaluationFault::new)
    }

    fn context(&self, request: &Request, facts: &ConsentFacts) -> Result<Context, EvaluationFault> {
        let Circumstances { purpose, ground, contract_purposes, break_glass, freshness, .. } = &request.circumstances;
        let contract = contract_purposes.iter().map(|purpose| purpose.as_str());
        let mut fields = vec![
            ("requester".to_owned(), RestrictedExpression::new_entity_uid(self.site(&request.requester)?)),
            ("purpose".to_owned(), self.value(Type::Purpose, purpose.as_str())?),
            ("consent".to_owned(), self.consent(facts)?),
            ("contract".to_owned(), self.set(Type::Purpose, contract)?),
            ("freshness".to_owned(), freshness_record(freshness)?),
        ];
        if let Some(ground) = ground {
            fields.push(("ground".to_owned(), self.ground(ground)?));
        }
        if let Some(break_glass) = break_glass {
            fields.push(("break_glass".to_owned(), break_glass_record(break_glass, &request.principal)?));
        }
        Context::from_pairs(fields).map_err(EvaluationFault::new)
    }

    fn consent(&self, facts: &ConsentFacts) -> Result<RestrictedExpression, EvaluationFault> {
        let evidence =
            |classes: BTreeSet<EvidenceClass>| self.set(Type::Evidence, classes.iter().map(|class| class.as_str()));
        record(vec![
            boolean("from_patient", facts.is_from_patient()),
            ("at_holder".to_owned(), evidence(facts.at_holder())?),
            ("elsewhere".to_owned(), evidence(facts.elsewhere())?),
            boolean("named_from_patient", facts.named_from_patient()),
            ("named_at_holder".to_owned(), evidence(facts.named_at_holder())?),
            boolean("denied", facts.denied()),
        ])
    }

    fn ground(&self, ground: &Ground) -> Result<RestrictedExpression, EvaluationFault> {
        record(vec![
            ("duty".to_owned(), self.value(Type::Duty, ground.duty.as_str())?),
            boolean("active", ground.standing != GroundStanding::Ended),
            boolean("accepted", ground.standing == GroundStanding::Accepted),
        ])
    }
}

fn break_glass_record(
    break_glass: &BreakGlass,
    principal: &UserAssertion,
) -> Result<RestrictedExpression, EvaluationFault> {
    let confirmed = match &break_glass.confirmation {
        Some(Confirmation::SecondFactor) => true,
        // Nobody is the own second person.
        Some(Confirmation::SecondPerson(person)) => person != principal.user(),
        None => false,
    };
    record(vec![
        boolean("confirmed", confirmed),
        long("unreviewed", i64::from(break_glass.unreviewed_cases)),
        long("unreviewed_max", i64::from(break_glass.unreviewed_cases_max)),
    ])
}

/// An age too large for a Cedar number stays above every limit.
fn freshness_record(freshness: &Freshness) -> Result<RestrictedExpression, EvaluationFault> {
    let limit = i64::try_from(freshness.limit.as_u64()).unwrap_or(i64::MAX).min(i64::MAX - 1);
    let mut fields = vec![long("limit_ms", limit)];
    if let Some(age) = freshness.age {
        fields.push(long("age_ms", i64::try_from(age.as_u64()).unwrap_or(i64::MAX)));
    }
    record(fields)
}

fn boolean(name: &str, value: bool) -> (String, RestrictedExpression) {
    (name.to_owned(), RestrictedExpression::new_bool(value))
}

fn long(name: &str, value: i64) -> (String, RestrictedExpression) {
    (name.to_owned(), RestrictedExpression::new_long(value))
}

fn record(fields: Fields) -> Result<RestrictedExpression, EvaluationFault> {
    RestrictedExpression::new_record(fields).map_err(EvaluationFault::new)
}

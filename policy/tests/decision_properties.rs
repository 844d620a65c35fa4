//! Properties of decisions, over random requests.
//!
//! Each says that some change never turns a refusal into a permission: another level, another denial, a revocation,
//! knowledge lost. And that an answer always says why.

mod cases;

use cases::*;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::test_runner::FileFailurePersistence;
use std::sync::LazyLock;
use tessera_policy::*;

const ALLOW_ALL: &str = "@id(\"all\") permit (principal, action, resource);";
const ONLY_CT: &str = "@id(\"ct\") permit (principal, action in Action::\"disclose\", resource)
    when { resource.modalities.contains(\"CT\") };";
const NO_NURSES: &str = "@id(\"all\") permit (principal, action, resource);
    @id(\"no-nurses\") forbid (principal, action, resource) when { principal.role == Role::\"nurse\" };";

static DEFAULT: LazyLock<Rules> = LazyLock::new(|| Rules::federation_default().unwrap());

/// The default, and other levels beside it: (without the additions, with them).
static STACKS: LazyLock<Vec<(Rules, Rules)>> = LazyLock::new(|| {
    let federation = (Level::Federation, FEDERATION_DEFAULT);
    let site = |text| (Level::Site, text);
    let national = |text| (Level::National, text);
    [
        (vec![federation], vec![site(ALLOW_ALL)]),
        (vec![federation], vec![site(ONLY_CT)]),
        (vec![federation], vec![site(NO_NURSES), national(ALLOW_ALL)]),
        (vec![federation, site(NO_NURSES)], vec![national(ONLY_CT)]),
        (vec![federation], vec![national(NEUTRAL_LEVEL)]),
        (vec![site(ALLOW_ALL)], vec![federation]),
        (vec![national(ONLY_CT)], vec![site(ALLOW_ALL)]),
    ]
    .into_iter()
    .map(|(few, more)| {
        let all = [few.clone(), more].concat();
        (Rules::parse(&few).unwrap(), Rules::parse(&all).unwrap())
    })
    .collect()
});

fn sites() -> impl Strategy<Value = SiteId> {
    select(vec![holder(), requester(), third_party()])
}

fn standings() -> impl Strategy<Value = Standing> {
    select(vec![Standing::Recorded, Standing::Certified])
}

fn consents() -> impl Strategy<Value = KnownConsent> {
    let grantee = prop_oneof![Just(Grantee::AllTreatingSites), sites().prop_map(Grantee::Site)];
    let studies = prop_oneof![
        Just(StudyScope::All),
        select(vec!["1.2.3", "1.2.826.0.1.3680043.10.1"])
            .prop_map(|uid| StudyScope::Studies([Uid::parse(uid).unwrap()].into())),
    ];
    let purposes = subsequence(Purpose::ALL, 1..=Purpose::ALL.len());
    let not_after = select(vec![None, Some(UnixMillis::new(1)), Some(NOW)]);
    let terms = (select(ConsentDecision::ALL), grantee, studies, purposes, not_after).prop_map(
        |(decision, grantee, studies, purposes, not_after)| {
            let purposes = PurposeScope::Only(purposes.into_iter().collect());
            ConsentTerms::new(decision, grantee, studies, purposes, not_after).unwrap()
        },
    );
    let evidence = proptest::option::weighted(0.9, select(EvidenceClass::ALL));
    (any::<[u8; 16]>(), sites(), evidence, terms, standings(), proptest::option::weighted(0.2, standings())).prop_map(
        |(id, author, evidence, terms, standing, revocation)| {
            let id = ConsentId::from_bytes(id);
            KnownConsent { id, author, evidence, terms, standing, revocation }
        },
    )
}

fn studies() -> impl Strategy<Value = StudyFacts> {
    let marks = prop_oneof![3 => Just(Vec::new()), 1 => subsequence(SensitiveMark::ALL, 1..=2)];
    let state = prop_oneof![3 => Just(ReleaseState::Released), 1 => select(ReleaseState::ALL)];
    let visibility = prop_oneof![3 => Just(VisibilityClass::Open), 1 => select(VisibilityClass::ALL)];
    let rejected = proptest::option::weighted(0.05, select(RejectionReason::ALL));
    let modality = select(vec!["CT", "MR"]).prop_map(|code| Modality::parse(code).unwrap());
    (marks, state, visibility, rejected, modality).prop_map(|(marks, state, visibility, rejected, modality)| {
        let marks = marks.into_iter().collect();
        StudyFacts { modalities: [modality].into(), visibility, state, marks, rejected, ..study() }
    })
}

fn emergencies() -> impl Strategy<Value = Option<BreakGlass>> {
    let confirmation = select(vec![None, Some(Confirmation::SecondFactor)]);
    let opened = (confirmation, 0..7_u32).prop_map(|(confirmation, unreviewed_cases)| BreakGlass {
        confirmation,
        unreviewed_cases,
        ..break_glass()
    });
    proptest::option::weighted(0.2, opened)
}

fn circumstances() -> impl Strategy<Value = Circumstances> {
    let standing = select(vec![GroundStanding::Ended, GroundStanding::Claimed, GroundStanding::Accepted]);
    let ground = (select(Duty::ALL), standing).prop_map(|(duty, standing)| Ground { duty, standing });
    let purpose = prop_oneof![Just(Purpose::Treatment), Just(Purpose::Emergency), select(Purpose::ALL)];
    let age = select(vec![None, Some(0), Some(600_000), Some(600_001), Some(u64::MAX)]);
    let limit = select(vec![600_000, u64::MAX]);
    let contract = prop_oneof![2 => Just(Vec::new()), 1 => subsequence(Purpose::ALL, 0..=Purpose::ALL.len())];
    let consents = proptest::collection::vec(consents(), 0..4);
    (purpose, proptest::option::of(ground), consents, contract, emergencies(), age, limit).prop_map(
        |(purpose, ground, consents, contract, break_glass, age, limit)| Circumstances {
            purpose,
            ground,
            consents,
            contract_purposes: contract.into_iter().collect(),
            break_glass,
            freshness: Freshness { age: age.map(DurationMs::new), limit: DurationMs::new(limit) },
            now: NOW,
        },
    )
}

fn requests() -> impl Strategy<Value = Request> {
    let role = prop_oneof![Just(Role::Physician), select(Role::ALL)];
    let site = prop_oneof![4 => Just(requester()), 1 => sites()];
    let resource = prop_oneof![9 => studies().prop_map(Resource::Study), 1 => Just(Resource::Index)];
    let action = prop_oneof![3 => Just(Action::Fetch), 1 => select(Action::ALL)];
    (role, site.clone(), site, action, resource, circumstances()).prop_map(
        |(role, users_site, requester, action, resource, circumstances)| Request {
            principal: user(users_site, role),
            requester,
            action,
            resource,
            circumstances,
        },
    )
}

/// After the change, nothing is allowed that was not before.
fn never_opens(before: &Request, change: impl FnOnce(&mut Request)) -> Result<(), TestCaseError> {
    let mut after = before.clone();
    change(&mut after);
    let opened = DEFAULT.decide(&after).is_allowed() && !DEFAULT.decide(before).is_allowed();
    prop_assert!(!opened, "opened by {after:?}");
    Ok(())
}

/// Found failures are kept beside this file and tried first.
fn config() -> ProptestConfig {
    let beside = FileFailurePersistence::WithSource("regressions");
    ProptestConfig { failure_persistence: Some(Box::new(beside)), ..ProptestConfig::with_cases(1_000) }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn another_level_never_opens(request in requests()) {
        for (few, more) in STACKS.iter() {
            if more.decide(&request).is_allowed() {
                prop_assert!(few.decide(&request).is_allowed());
            }
        }
    }

    #[test]
    fn another_denial_never_opens(request in requests(), denied in consents()) {
        never_opens(&request, |request| request.circumstances.consents.push(denial()))?;
        if denied.terms.decision() == ConsentDecision::Deny {
            never_opens(&request, |request| request.circumstances.consents.push(denied))?;
        }
    }

    #[test]
    fn revoking_a_grant_never_opens(request in requests(), at in any::<prop::sample::Index>(), standing in standings()) {
        let grants = |consent: &&mut KnownConsent| consent.terms.decision() == ConsentDecision::Grant;
        never_opens(&request, |request| {
            let mut grants: Vec<_> = request.circumstances.consents.iter_mut().filter(grants).collect();
            if !grants.is_empty() {
                let at = at.index(grants.len());
                grants[at].revocation = Some(standing);
            }
        })?;
    }

    #[test]
    fn an_uncertified_revocation_of_a_denial_changes_nothing(request in requests()) {
        let mut before = request;
        before.circumstances.consents.push(denial());
        let mut after = before.clone();
        for consent in &mut after.circumstances.consents {
            if consent.terms.decision() == ConsentDecision::Deny && consent.revocation.is_none() {
                consent.revocation = Some(Standing::Recorded);
            }
        }
        prop_assert_eq!(DEFAULT.decide(&before), DEFAULT.decide(&after));
    }

    #[test]
    fn knowing_less_never_opens(request in requests(), age_ms: u64) {
        never_opens(&request, |request| request.circumstances.freshness.age = None)?;
        never_opens(&request, |request| {
            let age = request.circumstances.freshness.age;
            request.circumstances.freshness.age = age.map(|age| age.max(DurationMs::new(age_ms)));
        })?;
        never_opens(&request, |request| {
            for consent in &mut request.circumstances.consents {
                if consent.terms.decision() == ConsentDecision::Grant {
                    consent.standing = Standing::Recorded;
                }
            }
        })?;
    }

    /// What the requester alone recorded, without the patient's own proof, changes no answer.
    #[test]
    fn a_grant_by_the_requester_alone_opens_nothing(
        request in requests().prop_filter("another site asks", |request| request.requester != holder()),
        recorded in consents(),
        evidence in select(vec![None, Some(EvidenceClass::StaffAttestation), Some(EvidenceClass::SignedForm)]),
    ) {
        never_opens(&request, |request| {
            let author = request.requester.clone();
            request.circumstances.consents.push(KnownConsent { author, evidence, ..recorded });
        })?;
    }

    /// Across sites, what is not break-glass needs trusted time within the limit.
    #[test]
    fn stale_knowledge_shows_nothing(request in requests()) {
        let crosses = matches!(&request.resource, Resource::Study(study) if study.holder != *request.principal.site());
        let Freshness { age, limit } = request.circumstances.freshness;
        if crosses && request.circumstances.break_glass.is_none() && age.is_none_or(|age| age > limit) {
            prop_assert!(!DEFAULT.decide(&request).is_allowed());
        }
    }

    #[test]
    fn answers_say_why_and_repeat(request in requests()) {
        let decision = DEFAULT.decide(&request);
        match &decision {
            Decision::Allow { basis } => {
                prop_assert!(!basis.is_empty());
                for one in basis {
                    let by_consent = one.kind == BasisKind::PatientConsent || one.kind == BasisKind::HolderConsent;
                    prop_assert!(!by_consent || !one.consents.is_empty(), "{one:?}");
                }
            }
            Decision::Deny { reasons } => prop_assert!(!reasons.is_empty()),
        }
        prop_assert_eq!(DEFAULT.decide(&request), decision);
    }
}

/// Freshness beyond what a Cedar number can hold is still too old.
#[test]
fn the_largest_age_is_stale_under_the_largest_limit() {
    let mut request = request();
    request.circumstances.consents.push(grant(&[Purpose::Treatment]));
    let limit = DurationMs::new(u64::MAX);
    for (age, allowed) in [(0, true), (i64::MAX as u64 - 1, true), (i64::MAX as u64, false), (u64::MAX, false)] {
        request.circumstances.freshness = Freshness { age: Some(DurationMs::new(age)), limit };
        assert_eq!(DEFAULT.decide(&request).is_allowed(), allowed, "{age}");
    }
}

/// The demonstration: refused, opened by the patient's confirmation, closed by the revocation.
#[test]
fn refused_then_granted_then_revoked() {
    let mut request = request();
    assert_eq!(summary(&DEFAULT.decide(&request)), "deny no-basis");
    request.circumstances.consents.push(grant(&[Purpose::Treatment]));
    let Decision::Allow { basis } = DEFAULT.decide(&request) else { panic!("the patient confirmed") };
    assert_eq!(basis.len(), 1);
    assert_eq!((basis[0].rule.as_str(), basis[0].kind), ("patient-consent", BasisKind::PatientConsent));
    assert_eq!(basis[0].consents, [ConsentId::from_bytes([1; 16])]);
    request.circumstances.consents[0].revocation = Some(Standing::Recorded);
    assert_eq!(summary(&DEFAULT.decide(&request)), "deny grant-revoked, no-basis");
    request
        .circumstances
        .consents
        .push(KnownConsent { id: ConsentId::from_bytes([3; 16]), ..grant(&[Purpose::Treatment]) });
    assert_eq!(summary(&DEFAULT.decide(&request)), "ALLOW patient-consent");
}

/// A request that does not fit the schema is refused, not guessed at.
#[test]
fn a_lookup_of_a_study_is_refused() {
    let mut request = request();
    request.action = Action::Lookup;
    assert_eq!(summary(&DEFAULT.decide(&request)), "deny rule-error");
    request.action = Action::Fetch;
    request.resource = Resource::Index;
    assert_eq!(summary(&DEFAULT.decide(&request)), "deny rule-error");
}

/// Cedar skips a rule that fails; a skipped prohibition must not open anything.
#[test]
fn a_rule_that_fails_refuses() {
    let overflow = "@id(\"all\") permit (principal, action, resource);
        @id(\"overflow\") forbid (principal, action, resource) when { context.freshness.limit_ms * 2 > 0 && false };";
    let overflow = overflow.replace(" && false", " && context.consent.denied");
    let rules = Rules::parse(&[(Level::Site, &overflow)]).unwrap();
    let mut request = request();
    assert!(rules.decide(&request).is_allowed());
    request.circumstances.freshness.limit = DurationMs::new(u64::MAX);
    assert_eq!(summary(&rules.decide(&request)), "deny rule-error");
}

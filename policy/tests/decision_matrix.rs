//! Every role, purpose, kind of resource and situation against the shipped rule base, as one golden text.
//!
//! `tests/golden/decision_matrix.txt` is what a reviewer reads when the rules change. To write it anew:
//! `TESSERA_GOLDEN=write cargo test -p tessera-policy --test decision_matrix`, then read the difference.

mod cases;

use cases::*;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use tessera_policy::*;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/decision_matrix.txt");

type Change = fn(&mut Request);
type StudyChange = fn(&mut StudyFacts);

const RESOURCES: &[(&str, StudyChange)] = &[
    ("open, released", |_| {}),
    ("existence only", |study| study.visibility = VisibilityClass::ExistenceOnly),
    ("marked sensitive", |study| study.marks = BTreeSet::from([SensitiveMark::Psychiatry])),
    ("hidden and marked sensitive", |study| {
        study.visibility = VisibilityClass::Hidden;
        study.marks = BTreeSet::from([SensitiveMark::Hiv]);
    }),
    ("complete, not released", |study| study.state = ReleaseState::Complete),
    ("receiving", |study| study.state = ReleaseState::Receiving),
    ("withdrawn", |study| study.state = ReleaseState::Withdrawn),
    ("rejected", |study| study.rejected = Some(RejectionReason::Quality)),
];

/// A grant for exactly the purpose that is asked, changed in one respect.
fn with_grant(request: &mut Request, change: fn(&mut KnownConsent)) {
    let mut consent = grant(&[request.circumstances.purpose]);
    change(&mut consent);
    request.circumstances.consents.push(consent);
}

fn naming_the_study(consent: &mut KnownConsent, purpose: Purpose) {
    let studies = StudyScope::Studies(BTreeSet::from([study_uid()]));
    consent.terms = terms(ConsentDecision::Grant, Grantee::Site(requester()), studies, &[purpose]);
}

fn ground(duty: Duty, standing: GroundStanding) -> Option<Ground> {
    Some(Ground { duty, standing })
}

const SITUATIONS: &[(&str, Change)] = &[
    ("no consent", |_| {}),
    ("grant with the patient's confirmation", |r| with_grant(r, |_| {})),
    ("grant with the patient's confirmation that names the examination", |r| {
        let purpose = r.circumstances.purpose;
        with_grant(r, |_| {});
        r.circumstances.consents.iter_mut().for_each(|consent| naming_the_study(consent, purpose));
    }),
    ("grant to all treating sites with the patient's confirmation", |r| {
        let mut consent = grant(&[r.circumstances.purpose]);
        consent.terms =
            terms(ConsentDecision::Grant, Grantee::AllTreatingSites, StudyScope::All, &[r.circumstances.purpose]);
        r.circumstances.consents.push(consent);
    }),
    ("signed form recorded by the requester alone", |r| {
        with_grant(r, |consent| consent.evidence = Some(EvidenceClass::SignedForm));
    }),
    ("staff attestation recorded by a third site", |r| {
        with_grant(r, |consent| {
            consent.author = third_party();
            consent.evidence = Some(EvidenceClass::StaffAttestation);
        });
    }),
    ("signed form recorded by the holder", |r| {
        with_grant(r, |consent| {
            consent.author = holder();
            consent.evidence = Some(EvidenceClass::SignedForm);
        });
    }),
    ("staff attestation recorded by the holder", |r| {
        with_grant(r, |consent| {
            consent.author = holder();
            consent.evidence = Some(EvidenceClass::StaffAttestation);
        });
    }),
    ("grant whose proof could not be verified", |r| with_grant(r, |consent| consent.evidence = None)),
    ("grant not certified", |r| with_grant(r, |consent| consent.standing = Standing::Recorded)),
    ("grant revoked, revocation not certified", |r| {
        with_grant(r, |consent| consent.revocation = Some(Standing::Recorded));
    }),
    ("grant revoked", |r| with_grant(r, |consent| consent.revocation = Some(Standing::Certified))),
    ("grant, and a denial not certified", |r| {
        with_grant(r, |_| {});
        r.circumstances.consents.push(denial());
    }),
    ("grant, and a denial whose revocation is certified", |r| {
        with_grant(r, |_| {});
        r.circumstances.consents.push(KnownConsent { revocation: Some(Standing::Certified), ..denial() });
    }),
    ("grant with the patient's confirmation, holder stale", |r| {
        with_grant(r, |_| {});
        r.circumstances.freshness.age = Some(DurationMs::from_minutes(11));
    }),
    ("grant with the patient's confirmation, time not trusted", |r| {
        with_grant(r, |_| {});
        r.circumstances.freshness.age = None;
    }),
    ("encounter claimed", |r| r.circumstances.ground = ground(Duty::Encounter, GroundStanding::Claimed)),
    ("encounter accepted", |r| r.circumstances.ground = ground(Duty::Encounter, GroundStanding::Accepted)),
    ("encounter accepted, and an opt-out", |r| {
        r.circumstances.ground = ground(Duty::Encounter, GroundStanding::Accepted);
        r.circumstances.consents.push(denial());
    }),
    ("standing contract for everything, consultation accepted", |r| {
        r.circumstances.contract_purposes = Purpose::ALL.iter().copied().collect();
        r.circumstances.ground = ground(Duty::Consultation, GroundStanding::Accepted);
    }),
    ("standing contract for everything, and the patient's confirmation", |r| {
        r.circumstances.contract_purposes = Purpose::ALL.iter().copied().collect();
        with_grant(r, |_| {});
    }),
    ("break-glass", |r| r.circumstances.break_glass = Some(break_glass())),
    ("break-glass while stale, against a denial", |r| {
        r.circumstances.break_glass = Some(break_glass());
        r.circumstances.freshness.age = None;
        r.circumstances.consents.push(denial());
    }),
    ("break-glass without second factor", |r| {
        r.circumstances.break_glass = Some(BreakGlass { confirmation: None, ..break_glass() });
    }),
    ("break-glass with oneself as the second person", |r| {
        let confirmation = Some(Confirmation::SecondPerson(r.principal.user().clone()));
        r.circumstances.break_glass = Some(BreakGlass { confirmation, ..break_glass() });
    }),
    ("break-glass, budget used up", |r| {
        r.circumstances.break_glass = Some(BreakGlass { unreviewed_cases: 5, ..break_glass() });
    }),
    ("inside the holder's own house, stale", |r| {
        r.principal = user(holder(), r.principal.role());
        r.requester = holder();
        r.circumstances.freshness.age = None;
    }),
    ("inside the holder's own house, lawful order accepted", |r| {
        r.principal = user(holder(), r.principal.role());
        r.requester = holder();
        r.circumstances.ground = ground(Duty::Order, GroundStanding::Accepted);
    }),
    ("user of another site than the requester", |r| {
        with_grant(r, |_| {});
        r.principal = user(third_party(), r.principal.role());
    }),
];

/// Joins what is the same: answer, then roles, then purposes.
struct Table<'a> {
    answers: BTreeMap<String, BTreeMap<Vec<&'a str>, Vec<&'a str>>>,
}

impl<'a> Table<'a> {
    fn collect(answer: impl Fn(Role, Purpose) -> String) -> Self {
        let mut by_role: BTreeMap<Role, BTreeMap<String, Vec<&'a str>>> = BTreeMap::new();
        for role in Role::ALL {
            for purpose in Purpose::ALL {
                let cell = by_role.entry(*role).or_default().entry(answer(*role, *purpose)).or_default();
                cell.push(purpose.as_str());
            }
        }
        let mut answers: BTreeMap<String, BTreeMap<Vec<&'a str>, Vec<&'a str>>> = BTreeMap::new();
        for (role, row) in by_role {
            for (answer, purposes) in row {
                answers.entry(answer).or_default().entry(purposes).or_default().push(role.as_str());
            }
        }
        Self { answers }
    }

    fn rows(&self) -> String {
        let mut text = String::new();
        for (answer, cells) in &self.answers {
            for (purposes, roles) in cells {
                let roles = shortened(roles, ("clinical", CLINICAL), Role::ALL.iter().map(|role| role.as_str()));
                let purposes = shortened(purposes, ("care", CARE), Purpose::ALL.iter().map(|purpose| purpose.as_str()));
                writeln!(text, "  {answer:<44} | {roles} | {purposes}").unwrap();
            }
        }
        text
    }
}

const CLINICAL: [&str; 4] = ["physician", "radiologist", "technologist", "nurse"];
const CARE: [&str; 4] = ["treatment", "recognition", "consultation", "emergency"];

/// The names, with one word for the usual group, and what is missing when that is shorter.
fn shortened<'a>(names: &[&'a str], group: (&str, [&str; 4]), all: impl Iterator<Item = &'a str>) -> String {
    let grouped = |names: &[&str]| {
        if !group.1.iter().all(|member| names.contains(member)) {
            return names.join(" ");
        }
        let rest = names.iter().filter(|name| !group.1.contains(*name)).copied();
        std::iter::once(group.0).chain(rest).collect::<Vec<_>>().join(" ")
    };
    let missing: Vec<&str> = all.filter(|name| !names.contains(name)).collect();
    match missing.len() {
        0 => "*".to_owned(),
        count if count < names.len() => format!("* but {}", grouped(&missing)),
        _ => grouped(names),
    }
}

/// The golden text: a table that was written before is referred to by its first title.
#[derive(Default)]
struct Matrix {
    text: String,
    titles: BTreeMap<String, String>,
}

impl Matrix {
    fn add(&mut self, title: String, table: &Table) {
        let rows = table.rows();
        match self.titles.get(&rows) {
            Some(first) => writeln!(self.text, "\n{title}\n  as: {first}").unwrap(),
            None => {
                write!(self.text, "\n{title}\n{rows}").unwrap();
                self.titles.insert(rows, title);
            }
        }
    }
}

fn matrix() -> String {
    let rules = Rules::federation_default().unwrap();
    let mut matrix = Matrix::default();
    matrix.text.push_str(
        "Decisions of the shipped federation rule base: answer | roles | purposes (* is all of them).\n\
         clinical: physician radiologist technologist nurse. care: treatment recognition consultation emergency.\n\
         A user of hospital-b asks hospital-a unless the situation says otherwise.\n\
         Grants are for hospital-b, for exactly the purpose that is asked, certified, unless it says otherwise.\n",
    );
    for action in [Action::Fetch, Action::FetchDeidentified] {
        for (resource, study_change) in RESOURCES {
            // De-identified fetches differ from ordinary ones by purpose only: one resource shows it.
            if action == Action::FetchDeidentified && *resource != "open, released" {
                continue;
            }
            for (situation, change) in SITUATIONS {
                let answer = |role, purpose| {
                    let mut request = request();
                    request.action = action;
                    request.principal = user(requester(), role);
                    request.circumstances.purpose = purpose;
                    let mut facts = study();
                    study_change(&mut facts);
                    request.resource = Resource::Study(facts);
                    change(&mut request);
                    summary(&rules.decide(&request))
                };
                matrix.add(format!("{action} | {resource} | {situation}"), &Table::collect(answer));
            }
        }
    }
    lookups(&rules, &mut matrix);
    matrix.text
}

fn lookups(rules: &Rules, matrix: &mut Matrix) {
    for duty in Duty::ALL {
        for standing in [GroundStanding::Ended, GroundStanding::Claimed] {
            let answer = |role, purpose| {
                let mut request = request();
                request.action = Action::Lookup;
                request.resource = Resource::Index;
                request.principal = user(requester(), role);
                request.circumstances.purpose = purpose;
                request.circumstances.ground = ground(*duty, standing);
                request.circumstances.freshness.age = None;
                summary(&rules.decide(&request))
            };
            matrix.add(format!("lookup | index | {duty} {standing:?}"), &Table::collect(answer));
        }
    }
}

#[test]
fn decisions_are_those_of_the_golden_text() {
    let text = matrix();
    if std::env::var("TESSERA_GOLDEN").is_ok_and(|mode| mode == "write") {
        std::fs::write(GOLDEN, &text).unwrap();
    }
    let golden = std::fs::read_to_string(GOLDEN).unwrap_or_default();
    let difference = text.lines().zip(golden.lines()).position(|(now, then)| now != then);
    let line = difference.unwrap_or_else(|| text.lines().count().min(golden.lines().count()));
    assert!(
        text == golden,
        "the decisions changed at line {}:\n  golden: {:?}\n  now:    {:?}\nIf that is meant, run \
         TESSERA_GOLDEN=write cargo test -p tessera-policy --test decision_matrix, and read the difference.",
        line + 1,
        golden.lines().nth(line),
        text.lines().nth(line)
    );
}

//! Tests of parsing rule bases and of how levels combine. The whole matrix of decisions is in `tests/`.

use super::*;
use std::collections::BTreeSet;

fn refusal(levels: &[(Level, &str)]) -> String {
    Rules::parse(levels).unwrap_err().to_string()
}

#[test]
fn the_shipped_rule_base_is_valid() {
    let rules = Rules::federation_default().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(rules.levels().collect::<Vec<_>>(), [Level::Federation]);
}

#[test]
fn faulty_rule_bases_are_refused_with_what_to_do() {
    let rule = |body: &str| format!("@id(\"one\")\n{body}");
    for (text, expected) in [
        ("".to_owned(), "has no rules; if that is meant"),
        ("// a comment".to_owned(), "has no rules; if that is meant"),
        (rule("permit (principal, action, resource"), "does not parse: line 2"),
        ("permit (principal, action, resource);".to_owned(), "has no @id"),
        ("@id(\"No Name\") permit (principal, action, resource);".to_owned(), "@id has 1 to 64 characters"),
        (rule("permit (principal, action, resource);").repeat(2), "two rules named one"),
        (rule("permit (principal == ?principal, action, resource);"), "has templates"),
        (rule("@basis(\"luck\") permit (principal, action, resource);"), "basis \"luck\" is unknown"),
        (rule("@reason(\"mood\") forbid (principal, action, resource);"), "reason \"mood\" is unknown"),
        (rule("permit (principal, action, resource)\nwhen { context.purpose == Purpose::\"treatmant\" };"), "line 3"),
        (rule("permit (principal, action, resource)\nwhen { context.mood == 1 };"), "does not fit the schema: line 3"),
        (rule("forbid (principal, action, resource) when { principal.title == Title::\"chief\" };"), "does not fit"),
        (rule("forbid (principal, action, resource) when { false };"), "does not fit the schema"),
        (rule("permit (principal, action == Action::\"delete\", resource);"), "does not fit the schema"),
        (" ".repeat(RULE_BASE_BYTES_MAX + 1), "at most 262144 are allowed"),
    ] {
        let message = refusal(&[(Level::Site, &text)]);
        assert!(message.contains(expected) && message.contains("site"), "{text:.60} gave: {message}");
    }
}

#[test]
fn some_level_must_have_rules() {
    assert!(matches!(Rules::parse(&[]), Err(RulesError::NoRules)));
    assert!(matches!(Rules::parse(&[(Level::Site, NEUTRAL_LEVEL)]), Err(RulesError::NoRules)));
    let twice = [(Level::Federation, FEDERATION_DEFAULT), (Level::Federation, FEDERATION_DEFAULT)];
    assert!(matches!(Rules::parse(&twice), Err(RulesError::LevelTwice { level: Level::Federation })));
    let rules = Rules::parse(&[(Level::Federation, FEDERATION_DEFAULT), (Level::National, NEUTRAL_LEVEL)]).unwrap();
    assert_eq!(rules.levels().count(), 1);
}

/// The schema lists what the vocabulary knows, no more and no less.
#[test]
fn schema_and_vocabulary_agree() {
    fn check<'a>(entity: &str, names: impl Iterator<Item = &'a str>) {
        let head = format!("entity {entity} enum [");
        let rest = SCHEMA.split_once(&head).unwrap_or_else(|| panic!("{head}")).1;
        let list = rest.split_once(']').unwrap().0;
        let listed: BTreeSet<&str> = list.split('"').skip(1).step_by(2).collect();
        assert_eq!(listed, names.collect(), "{entity}");
    }
    check("Role", crate::Role::ALL.iter().map(|v| v.as_str()));
    check("Title", crate::Title::ALL.iter().map(|v| v.as_str()));
    check("Purpose", crate::Purpose::ALL.iter().map(|v| v.as_str()));
    check("Visibility", crate::VisibilityClass::ALL.iter().map(|v| v.as_str()));
    check("ReleaseState", crate::ReleaseState::ALL.iter().map(|v| v.as_str()));
    check("Mark", crate::SensitiveMark::ALL.iter().map(|v| v.as_str()));
    check("Evidence", crate::EvidenceClass::ALL.iter().map(|v| v.as_str()));
    check("Duty", crate::decision::Duty::ALL.iter().map(|v| v.as_str()));
    for action in crate::decision::Action::ALL {
        let plain = format!("\naction {action} ");
        let quoted = format!("\naction \"{action}\" ");
        assert!(SCHEMA.contains(&plain) || SCHEMA.contains(&quoted), "{action}");
    }
}

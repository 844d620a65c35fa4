//! Derived values that must never change: the input of the blind evaluation and its output, tags, sealed bodies with
//! fixed randomness, associated data. A change here would make every record of a federation unfindable.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use tessera_federation::blind::{Binding, Chain, Evaluator, KeyAsk, OprfKeys, Part, YearSeeds, blind};
use tessera_federation::wire::Format;
use tessera_federation::wire::v1::{
    CONSENT, DISCLOSURE, DomainGenesis, FRESHNESS_LIMIT_MS, OprfBudget, OprfParameters, STUDY, VERSION,
};
use tessera_policy::Identifier;

use crate::check_bytes;

#[test]
fn from_identifier_to_tags_and_bodies() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let index = OprfKeys::from_seeds(2025, &YearSeeds::draw(&mut rng));
    check_bytes("index_public_keys", &index.public()[..2].concat());
    let identifier = Identifier::parse("resident:11010519491231002X").expect("the standard's own sample number");
    check_bytes("identifier_canonical", &identifier.canonical_bytes());
    let (request, blinding) = blind(vec![KeyAsk { identifier, year: 2025 }], &mut rng).expect("blinds");
    let reply = index.evaluate(&request, 2025, &mut rng).expect("evaluates");
    let budget = OprfBudget::default();
    let genesis = DomainGenesis {
        version: VERSION,
        oprf: OprfParameters { suite: request.suite, threshold: 1, public_keys: index.public(), budget },
        oprf_shares: Vec::new(),
        founding_year: 2025,
        rule_base: None,
        freshness_limit_ms: FRESHNESS_LIMIT_MS,
    };
    let key = blinding.finalize(&reply, &genesis).expect("finalizes").remove(0);
    check_bytes("identifier_key", key.secret_bytes().as_slice());

    let site = "hospital-a".parse().expect("site");
    check_bytes("tag_presence_0", key.tag(Chain::Presence, 0).as_bytes());
    let tag = key.tag(Chain::Site { site: &site, kind: STUDY }, 7);
    check_bytes("tag_study_7", tag.as_bytes());
    check_bytes("tag_consent_0", key.tag(Chain::Site { site: &site, kind: CONSENT }, 0).as_bytes());
    let binding = Binding::tag(STUDY, Part::Details, &tag);
    check_bytes("binding_tag", &binding.bytes());
    check_bytes("binding_id", &Binding::id(DISCLOSURE, &[9; 16]).bytes());
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let sealed = key.seal(binding, b"details", &mut rng);
    check_bytes("sealed_details", &sealed.to_bytes());
    assert_eq!(key.open(binding, &sealed).expect("opens").as_slice(), b"details");
}

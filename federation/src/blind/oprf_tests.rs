//! The evaluation from both sides: it agrees with RFC 9497's own test vector, blinds, and refuses what lies.

use super::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use tessera_consensus::Hash;

fn identifier(number: &str) -> Identifier {
    Identifier::parse(&format!("hospital:TEST/{number}")).expect("identifier")
}

fn ask(number: &str, year: u16) -> KeyAsk {
    KeyAsk { identifier: identifier(number), year }
}

fn parameters(key: &OprfKey) -> OprfParameters {
    let budget = OprfBudget::default();
    OprfParameters { suite: OprfSuite::Ristretto255Sha512, threshold: 1, public_key: key.public(), budget }
}

fn evaluate(key: &OprfKey, asks: Vec<KeyAsk>, seed: u64) -> (BlindRequest, Vec<IdentifierKey>) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (request, blinding) = blind(asks, &mut rng).expect("blinds");
    let reply = key.evaluate(&request, &mut rng).expect("evaluates");
    (request, blinding.finalize(&reply, &parameters(key)).expect("finalizes"))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// RFC 9497 appendix A.1.2: seed, key info, public key and the first output of the verifiable mode.
#[test]
fn the_suite_is_that_of_the_rfc() {
    let server = VoprfServer::<Ristretto255>::new_from_seed(&[0xA3; 32], b"test key").expect("key");
    let public: [u8; 32] = Ristretto255::serialize_elem(server.get_public_key()).into();
    assert_eq!(hexadecimal(&public), "c803e2cc6b05fc15064549b5920659ca4a77b2cca6f04f6b357009335476ad4e");
    let output = server.evaluate(&[0]).expect("output");
    let expected = "b58cfbe118e0cb94d79b5fd6a6dafb98764dff49c14e1770b566e42402da1a7d\
                    a4d8527693914139caee5bd03903af43a491351d23b430948dd50cde10d32b3c";
    assert_eq!(hexadecimal(&output), expected);
}

#[test]
fn one_identifier_and_year_give_one_key_whatever_the_blinding() {
    let key = OprfKey::from_seed(&[1; 32]);
    let asks = || vec![ask("1001", 2025), ask("1001", 2026), ask("1002", 2025)];
    let (first_request, first) = evaluate(&key, asks(), 1);
    let (second_request, second) = evaluate(&key, asks(), 2);
    let secrets = |keys: &[IdentifierKey]| keys.iter().map(|k| k.secret_bytes().to_vec()).collect::<Vec<_>>();
    assert_eq!(secrets(&first), secrets(&second));
    assert!(first_request.elements.iter().all(|element| !second_request.elements.contains(element)));
    let distinct: std::collections::BTreeSet<_> = secrets(&first).into_iter().collect();
    assert_eq!(distinct.len(), 3, "identifier and year both count");
    assert_eq!(first.iter().map(IdentifierKey::year).collect::<Vec<_>>(), [2025, 2026, 2025]);
}

#[test]
fn a_lying_or_broken_evaluator_is_found_out() {
    let (ours, theirs) = (OprfKey::from_seed(&[1; 32]), OprfKey::from_seed(&[2; 32]));
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let (request, blinding) = blind(vec![ask("1", 2025), ask("2", 2025)], &mut rng).expect("blinds");
    let honest = ours.evaluate(&request, &mut rng).expect("evaluates");
    let finalize = |reply: &BlindReply| blinding.finalize(reply, &parameters(&ours)).map(drop);
    assert_eq!(finalize(&honest), Ok(()));

    let other_key = theirs.evaluate(&request, &mut rng).expect("evaluates");
    assert_eq!(finalize(&other_key), Err(BlindError::Proof));
    let mut swapped = honest.clone();
    swapped.elements.swap(0, 1);
    assert_eq!(finalize(&swapped), Err(BlindError::Proof));
    let mut short = honest.clone();
    short.elements.pop();
    assert_eq!(finalize(&short), Err(BlindError::Count { asked: 2, got: 1 }));
    let mut broken = honest.clone();
    broken.elements[1] = [0xFF; 32];
    assert_eq!(finalize(&broken), Err(BlindError::Element(1)));
    let mut identity = honest.clone();
    identity.elements[0] = [0; 32];
    assert_eq!(finalize(&identity), Err(BlindError::Element(0)));
    let mut no_proof = honest;
    no_proof.proof = [[0xFF; 32]; 2];
    assert_eq!(finalize(&no_proof), Err(BlindError::Proof));
}

#[test]
fn an_evaluator_refuses_what_is_no_request() {
    let key = OprfKey::from_seed(&[1; 32]);
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let request = |elements| BlindRequest { version: VERSION, suite: OprfSuite::Ristretto255Sha512, elements };
    for (elements, expected) in [
        (vec![], BlindError::Batch { got: 0 }),
        (vec![[0; 32]; 65], BlindError::Batch { got: 65 }),
        (vec![[0; 32]], BlindError::Element(0)),
        (vec![[0xFF; 32]], BlindError::Element(0)),
    ] {
        assert_eq!(key.evaluate(&request(elements), &mut rng).map(drop), Err(expected));
    }
    let too_many = (0..65).map(|year| ask("1", 2000 + year)).collect();
    assert_eq!(blind(too_many, &mut rng).map(drop), Err(BlindError::Batch { got: 65 }));
}

#[test]
fn years_are_asked_newest_first_in_requests_that_fit() {
    let years = |from, to| -> Vec<Vec<u16>> {
        asks(&identifier("1"), from, to).iter().map(|batch| batch.iter().map(|ask| ask.year).collect()).collect()
    };
    assert_eq!(years(2024, 2026), [[2026, 2025, 2024]]);
    assert_eq!(years(2026, 2024), Vec::<Vec<u16>>::new());
    assert_eq!(years(2000, 2070).iter().map(Vec::len).collect::<Vec<_>>(), [64, 7]);
}

#[test]
fn each_core_node_opens_its_own_share_and_no_other() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let node = |byte: u8| NodeId::new(Hash::blake3(&[&[byte]]));
    let sealing = |byte: u8| SealingKey::from_seed(&[byte; 32]);
    let core: Vec<_> = (1..=3).map(|byte| (node(byte), sealing(byte).public())).collect();
    let seed = Zeroizing::new([9; 32]);
    let (oprf, oprf_shares) = found_oprf(&seed, OprfBudget::default(), &core, &mut rng).expect("founds");
    let mut genesis = DomainGenesis {
        version: VERSION,
        oprf,
        oprf_shares,
        founding_year: 2025,
        rule_base: None,
        freshness_limit_ms: crate::wire::v1::FRESHNESS_LIMIT_MS,
    };
    crate::wire::Format::validate(&genesis).expect("valid");
    for byte in 1..=3 {
        let share = own_share(&genesis, &node(byte), &sealing(byte)).expect("own share");
        assert_eq!(share.public(), genesis.oprf.public_key);
    }
    assert_eq!(own_share(&genesis, &node(4), &sealing(4)).map(drop), Err(BlindError::NoShare));
    assert!(matches!(own_share(&genesis, &node(1), &sealing(2)), Err(BlindError::Share(_))));
    genesis.oprf.public_key = OprfKey::from_seed(&[8; 32]).public();
    assert!(matches!(own_share(&genesis, &node(1), &sealing(1)), Err(BlindError::Parameters(_))));
}

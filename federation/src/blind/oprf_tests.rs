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

const FOUNDING_YEAR: u16 = 2024;
const THIS_YEAR: u16 = 2026;

fn keys(seed: u64) -> OprfKeys {
    OprfKeys::from_seeds(FOUNDING_YEAR, &YearSeeds::draw(&mut ChaCha8Rng::seed_from_u64(seed)))
}

fn genesis(keys: &OprfKeys) -> DomainGenesis {
    let (suite, budget) = (OprfSuite::Ristretto255Sha512, OprfBudget::default());
    DomainGenesis {
        version: VERSION,
        oprf: OprfParameters { suite, threshold: 1, public_keys: keys.public(), budget },
        oprf_shares: Vec::new(),
        founding_year: FOUNDING_YEAR,
        rule_base: None,
        freshness_limit_ms: crate::wire::v1::FRESHNESS_LIMIT_MS,
    }
}

fn evaluate(keys: &OprfKeys, asks: Vec<KeyAsk>, seed: u64) -> (BlindRequest, Vec<IdentifierKey>) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (request, blinding) = blind(asks, &mut rng).expect("blinds");
    let reply = keys.evaluate(&request, THIS_YEAR, &mut rng).expect("evaluates");
    (request, blinding.finalize(&reply, &genesis(keys)).expect("finalizes"))
}

fn elements(request: &BlindRequest) -> Vec<[u8; 32]> {
    request.years.iter().flat_map(|year| year.elements.clone()).collect()
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
    let key = keys(1);
    let asks = || vec![ask("1001", 2025), ask("1001", 2026), ask("1002", 2025)];
    let (first_request, first) = evaluate(&key, asks(), 1);
    let (second_request, second) = evaluate(&key, asks(), 2);
    let secrets = |keys: &[IdentifierKey]| keys.iter().map(|k| k.secret_bytes().to_vec()).collect::<Vec<_>>();
    assert_eq!(secrets(&first), secrets(&second));
    assert!(elements(&first_request).iter().all(|element| !elements(&second_request).contains(element)));
    let distinct: std::collections::BTreeSet<_> = secrets(&first).into_iter().collect();
    assert_eq!(distinct.len(), 3, "identifier and year both count");
    assert_eq!(first.iter().map(IdentifierKey::year).collect::<Vec<_>>(), [2025, 2025, 2026]);
    let years: Vec<_> = first_request.years.iter().map(|year| (year.year, year.elements.len())).collect();
    assert_eq!(years, [(2025, 2), (2026, 1)], "the evaluator sees which year, and how many");
}

#[test]
fn a_lying_or_broken_evaluator_is_found_out() {
    let (ours, theirs) = (keys(1), keys(2));
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let (request, blinding) = blind(vec![ask("1", 2025), ask("2", 2025), ask("1", 2026)], &mut rng).expect("blinds");
    let honest = ours.evaluate(&request, THIS_YEAR, &mut rng).expect("evaluates");
    let others = theirs.evaluate(&request, THIS_YEAR, &mut rng).expect("evaluates");
    let finalize = |reply: &BlindReply| blinding.finalize(reply, &genesis(&ours)).map(drop);
    assert_eq!(finalize(&honest), Ok(()));
    assert_eq!(finalize(&others), Err(BlindError::Proof));
    type Lie = fn(&mut BlindReply);
    let table: [(&str, Lie, BlindError); 7] = [
        ("swapped elements", |reply| reply.years[0].elements.swap(0, 1), BlindError::Proof),
        ("the key of another year", |reply| reply.years[1].elements[0] = reply.years[0].elements[0], BlindError::Proof),
        ("an element short", |reply| reply.years[0].elements.truncate(1), BlindError::Count { asked: 3, got: 2 }),
        ("a year short", |reply| reply.years.truncate(1), BlindError::Count { asked: 3, got: 2 }),
        ("no element of the group", |reply| reply.years[0].elements[1] = [0xFF; 32], BlindError::Element(1)),
        ("the identity", |reply| reply.years[1].elements[0] = [0; 32], BlindError::Element(2)),
        ("no proof", |reply| reply.years[0].proof = [[0xFF; 32]; 2], BlindError::Proof),
    ];
    for (name, lie, expected) in table {
        let mut reply = honest.clone();
        lie(&mut reply);
        assert_eq!(finalize(&reply), Err(expected), "{name}");
    }
}

#[test]
fn an_evaluator_refuses_what_is_no_request() {
    let key = keys(1);
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let request = |year, elements| {
        let years = vec![BlindYear { year, elements }];
        BlindRequest { version: VERSION, suite: OprfSuite::Ristretto255Sha512, years }
    };
    for (year, elements, expected) in [
        (2025, vec![], BlindError::Batch { got: 0 }),
        (2025, vec![[0; 32]; 65], BlindError::Batch { got: 65 }),
        (2025, vec![[0; 32]], BlindError::Element(0)),
        (2025, vec![[0xFF; 32]], BlindError::Element(0)),
        (THIS_YEAR + 1, vec![[0; 32]], BlindError::NoSuchYear(THIS_YEAR + 1)),
        (FOUNDING_YEAR - 1, vec![[0; 32]], BlindError::NoSuchYear(FOUNDING_YEAR - 1)),
    ] {
        assert_eq!(key.evaluate(&request(year, elements), THIS_YEAR, &mut rng).map(drop), Err(expected));
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
    let seeds = YearSeeds::draw(&mut rng);
    let (oprf, oprf_shares) =
        found_oprf(FOUNDING_YEAR, &seeds, OprfBudget::default(), &core, &mut rng).expect("founds");
    let mut genesis = DomainGenesis { oprf, oprf_shares, ..genesis(&keys(9)) };
    crate::wire::Format::validate(&genesis).expect("valid");
    for byte in 1..=3 {
        let share = own_share(&genesis, &node(byte), &sealing(byte)).expect("own share");
        assert_eq!(share.public(), genesis.oprf.public_keys);
    }
    let distinct: std::collections::BTreeSet<_> = genesis.oprf.public_keys.iter().collect();
    assert_eq!(distinct.len(), INDEX_YEARS, "a key of its own for each year");
    assert_eq!(own_share(&genesis, &node(4), &sealing(4)).map(drop), Err(BlindError::NoShare));
    assert!(matches!(own_share(&genesis, &node(1), &sealing(2)), Err(BlindError::Share(_))));
    genesis.oprf.public_keys[3] = keys(8).public()[3];
    assert!(matches!(own_share(&genesis, &node(1), &sealing(1)), Err(BlindError::Parameters(_))));
}

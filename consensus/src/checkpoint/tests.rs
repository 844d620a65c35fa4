//! Golden bytes and C2SP vectors; every kind of tampering by its name; the guard's rules; the dates of certificates
//! against a model of honest and lying signers.

use proptest::prelude::*;

use super::certificate::certified_time;
use super::*;
use crate::ids::{NodeId, UnixMillis};
use crate::keys::{KeyAlgorithm, KeyError, PublicKey, SigningKey};

/// Made by another program (Python's hashlib and cryptography) from the same seeds, so that it checks more than itself.
const GOLDEN: &str = include_str!("../../tests/golden/checkpoint_v1.txt");
const NAMES: [&str; 4] = ["a.hospital.example", "b.hospital.example", "c.hospital.example", "d.hospital.example"];

fn federation() -> FederationId {
    FederationId::new(Hash::from_parts(HashAlgorithm::Blake3, std::array::from_fn(|i| i as u8)))
}

fn checkpoint() -> Checkpoint {
    Checkpoint {
        federation: federation(),
        size: LedgerSize(20_852_163),
        root: Hash::sha256(&[b"root"]),
        digest: Hash::from_parts(HashAlgorithm::Blake3, [0xd1; 32]),
        epoch: Epoch(3),
    }
}

fn name(text: &str) -> SignerName {
    text.parse().unwrap()
}

fn key(member: usize) -> SigningKey {
    SigningKey::from_seed([member as u8 + 1; 32])
}

fn node(member: usize) -> NodeId {
    NodeId::new(Hash::blake3(&[&[member as u8]]))
}

fn member(at: usize) -> CoreMember {
    let name = name(NAMES.get(at).copied().unwrap_or("e.hospital.example"));
    CoreMember { node: node(at), name, checkpoint_key: key(at).public() }
}

fn core(members: usize) -> Core {
    Core::new(Epoch(3), (0..members).map(member).collect()).unwrap()
}

fn signed_by(checkpoint: &Checkpoint, members: impl IntoIterator<Item = usize>) -> SignedCheckpoint {
    let cosign = |m: usize| cosign(checkpoint, &name(NAMES[m]), &key(m), 1_000 + m as u64);
    SignedCheckpoint::new(*checkpoint, members.into_iter().map(cosign).collect()).unwrap()
}

#[test]
fn golden_note_reads_writes_and_certifies() {
    let signed = SignedCheckpoint::parse(GOLDEN).unwrap();
    assert_eq!(signed.checkpoint(), &checkpoint());
    assert_eq!(signed.to_note(), GOLDEN);
    let certificate = signed.verify(&core(4), federation()).unwrap();
    assert_eq!(certificate.signers().iter().copied().collect::<Vec<_>>().len(), 3);
    assert_eq!(certificate.time(), UnixMillis::from_seconds(1_679_315_147));
    assert_eq!(certificate.signed().cosignatures().len(), 3, "the witness is carried in the note, not counted");
    let witness = &signed.cosignatures()[3];
    assert_eq!(witness.verify(&checkpoint(), &key(3).public()), Ok(()));
    assert_eq!(witness, &cosign(&checkpoint(), &name("witness.regulator.example"), &key(3), 1_679_315_150));
}

/// The signature line that C2SP tlog-cosignature gives as its example, and a public witness's verifier key in which
/// the key id is stated beside name and key.
#[test]
fn c2sp_examples() {
    let line = "\u{2014} witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==";
    // Our names have no slash, so the example's is refused; with a name of ours the line reads and writes the same.
    assert_eq!(Cosignature::parse_line(line), Err(CosignatureError::Name));
    let ours = line.replace("/w1", "");
    let cosignature = Cosignature::parse_line(&ours).unwrap();
    assert_eq!((cosignature.time_seconds(), format!("{:?}", cosignature.key_id())), (1_679_315_147, "8d66cf3f".into()));
    assert_eq!(cosignature.to_line(), ours);

    let (witness, id, key) = ("remora.n621.de", "da77ade7", "BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2");
    let key = data_encoding::BASE64.decode(key.as_bytes()).unwrap();
    assert_eq!(key[0], 4);
    let key = PublicKey::from_parts(KeyAlgorithm::Ed25519, key[1..].try_into().unwrap());
    assert_eq!(format!("{:?}", KeyId::new(&name(witness), &key)), id);
}

#[test]
fn a_checkpoint_has_one_text() {
    let body = checkpoint().to_body();
    assert_eq!(Checkpoint::parse(&body), Ok(checkpoint()));
    let line = |number: usize, text: &str| {
        let mut lines: Vec<&str> = body.split('\n').collect();
        lines[number] = text;
        lines.join("\n")
    };
    let lines: Vec<&str> = body.split('\n').collect();
    let no_padding = lines[2].trim_end_matches('=');
    let trailing_bits = lines[2].replace("I=", "J=");
    let cases = [
        (body.repeat(2), CheckpointError::TooLong(2 * body.len())),
        (String::new(), CheckpointError::Lines),
        (body.trim_end().to_owned(), CheckpointError::Lines),
        (format!("{body}\n"), CheckpointError::Lines),
        (format!("{body}more\n"), CheckpointError::Lines),
        (body.replace('\n', "\r\n"), CheckpointError::Origin),
        (line(0, &lines[0].to_uppercase()), CheckpointError::Origin),
        (line(0, &lines[0][..70]), CheckpointError::Origin),
        (line(0, lines[0].trim_start_matches("tessera/")), CheckpointError::Origin),
        (line(0, &lines[0].replace("0a", "0A")), CheckpointError::Origin),
        (line(1, "020852163"), CheckpointError::Size),
        (line(1, "+20852163"), CheckpointError::Size),
        (line(1, ""), CheckpointError::Size),
        (line(1, "18446744073709551615"), CheckpointError::Size),
        (line(1, "18446744073709551616"), CheckpointError::Size),
        (line(2, no_padding), CheckpointError::Root),
        (line(2, &trailing_bits), CheckpointError::Root),
        (line(2, ""), CheckpointError::Root),
        (line(3, "epoch 03"), CheckpointError::Epoch),
        (line(3, "epoch 4294967296"), CheckpointError::Epoch),
        (line(3, "epoch  3"), CheckpointError::Epoch),
        (line(3, "era 3"), CheckpointError::Epoch),
        (line(4, &lines[4].replace("blake3", "sha256")), CheckpointError::Digest),
        (line(4, &format!("{} ", lines[4])), CheckpointError::Digest),
    ];
    for (text, expected) in cases {
        assert_eq!(Checkpoint::parse(&text), Err(expected), "{text:?}");
    }
    let largest = Checkpoint { size: LedgerSize(TREE_LEAVES_MAX), epoch: Epoch(u32::MAX), ..checkpoint() };
    assert_eq!(Checkpoint::parse(&largest.to_body()), Ok(largest));
    assert!(largest.to_body().len() <= BODY_BYTES_MAX);
}

#[test]
fn a_note_has_one_text() {
    let line = |at: usize| GOLDEN.lines().nth(6 + at).unwrap();
    let body = checkpoint().to_body();
    let short = format!("\u{2014} a.hospital.example {}", data_encoding::BASE64.encode(&[1; 75]));
    let late = format!("\u{2014} a.hospital.example {}", data_encoding::BASE64.encode(&[0xff; 76]));
    let cases = [
        ("x".repeat(NOTE_BYTES_MAX + 1), NoteError::TooLong(NOTE_BYTES_MAX + 1)),
        (body.clone(), NoteError::Shape),
        (format!("{body}\n{}", line(0)), NoteError::Shape),
        (format!("{body}\n"), NoteError::Shape),
        (format!("{body}\n\n"), NoteError::Cosignature(CosignatureError::Line)),
        (format!("{body}{}\n\n{}\n", "more", line(0)), NoteError::Checkpoint(CheckpointError::Lines)),
        (format!("{body}\n{}\n{}\n", line(1), line(0)), NoteError::Order),
        (format!("{body}\n{}\n{}\n", line(0), line(0)), NoteError::SignsTwice(name(NAMES[0]))),
        (GOLDEN.replace('\u{2014}', "-"), NoteError::Cosignature(CosignatureError::Line)),
        (GOLDEN.replace("a.hospital", "a.Hospital"), NoteError::Cosignature(CosignatureError::Name)),
        (format!("{body}\n{} \n", line(0)), NoteError::Cosignature(CosignatureError::Line)),
        (format!("{body}\n{short}\n"), NoteError::Cosignature(CosignatureError::Length(75))),
        (format!("{body}\n{late}\n"), NoteError::Cosignature(CosignatureError::Time)),
    ];
    for (text, expected) in cases {
        assert_eq!(SignedCheckpoint::parse(&text), Err(expected), "{text:?}");
    }
    assert_eq!(SignedCheckpoint::new(checkpoint(), vec![]), Err(NoteError::Count(0)));
    let many = (0..65).map(|i| cosign(&checkpoint(), &name(&format!("w{i}")), &key(0), 1)).collect();
    assert_eq!(SignedCheckpoint::new(checkpoint(), many), Err(NoteError::Count(65)));
    let most = (0..64).map(|i| cosign(&checkpoint(), &name(&format!("{:w<64}", i)), &key(0), 1)).collect();
    let most = SignedCheckpoint::new(checkpoint(), most).unwrap();
    assert_eq!(SignedCheckpoint::parse(&most.to_note()), Ok(most));
}

#[test]
fn serde_carries_the_text() {
    let signed = SignedCheckpoint::parse(GOLDEN).unwrap();
    let bytes = crate::wire::encode(&signed);
    assert_eq!(bytes[2..], *GOLDEN.as_bytes());
    assert_eq!(crate::wire::decode::<SignedCheckpoint>("note", &bytes, NOTE_BYTES_MAX).unwrap(), signed);
    let bytes = crate::wire::encode(&core(4));
    assert_eq!(crate::wire::decode::<Core>("core", &bytes, 4096).unwrap(), core(4));
}

#[test]
fn quorums() {
    let expected = [(1, 0, 1), (2, 0, 2), (3, 0, 2), (4, 1, 3), (5, 1, 4), (6, 1, 4), (7, 2, 5)];
    for (members, liars, threshold) in expected {
        let member = |at: usize| CoreMember { node: node(at), name: name("h"), checkpoint_key: key(at).public() };
        let core = Core::new(Epoch(1), (0..members).map(member).collect()).unwrap();
        assert_eq!((core.tolerated_liars(), core.threshold()), (liars, threshold), "{members} members");
        assert!(2 * threshold > members + liars, "two quorums share an honest member");
    }
}

#[test]
fn a_core_is_refused_by_name_of_its_fault() {
    let twin = CoreMember { checkpoint_key: key(9).public(), ..member(0) };
    let same_key = CoreMember { node: node(9), name: name("other"), ..member(0) };
    let same_name = CoreMember { name: name(NAMES[0]), ..member(1) };
    let make = |members| Core::new(Epoch(1), members);
    assert_eq!(make(vec![]), Err(CoreError::Size(0)));
    assert_eq!(make((0..8).map(member).collect()), Err(CoreError::Size(8)));
    assert_eq!(make(vec![member(0), twin]), Err(CoreError::Node(node(0))));
    assert_eq!(make(vec![member(0), same_key]), Err(CoreError::Key(key(0).public())));
    assert!(make(vec![member(0), same_name]).is_ok(), "names may repeat while key ids tell the keys apart");
}

#[test]
fn tampering_with_a_certificate_is_named() {
    let core = core(4);
    let good = signed_by(&checkpoint(), [0, 1, 2]);
    assert_eq!(good.verify(&core, federation()).unwrap().time(), UnixMillis::from_seconds(1_000));
    let elsewhere = FederationId::new(Hash::blake3(&[b"elsewhere"]));
    let verify = |signed: &SignedCheckpoint| signed.verify(&core, federation()).map(|c| c.time().seconds());
    assert_eq!(
        good.verify(&core, elsewhere),
        Err(CertificateError::Federation { expected: elsewhere, got: federation() })
    );
    let other_epoch = Checkpoint { epoch: Epoch(4), ..checkpoint() };
    assert_eq!(
        verify(&signed_by(&other_epoch, [0, 1, 2])),
        Err(CertificateError::Epoch { expected: Epoch(3), got: Epoch(4) })
    );
    assert_eq!(verify(&signed_by(&checkpoint(), [0, 1])), Err(CertificateError::TooFew { valid: 2, needed: 3 }));
    let bad_signature = |member: usize| {
        let source = KeyError::BadSignature;
        Err(CertificateError::Cosignature(CosignatureError::Signature { name: name(NAMES[member]), source }))
    };
    let tampered = [
        Checkpoint { size: LedgerSize(20_852_164), ..checkpoint() },
        Checkpoint { root: Hash::sha256(&[b"another root"]), ..checkpoint() },
        Checkpoint { digest: Hash::blake3(&[b"another digest"]), ..checkpoint() },
    ];
    for checkpoint in tampered {
        let forged = SignedCheckpoint::new(checkpoint, good.cosignatures().to_vec()).unwrap();
        assert_eq!(verify(&forged), bad_signature(0));
    }
    // A cosignature by a stranger under a member's name has another key id: not counted. One with the member's key id
    // claims to be the member's: false.
    let stranger = cosign(&checkpoint(), &name(NAMES[2]), &key(50), 1_002);
    let with = |third: Cosignature| {
        let mut cosignatures = good.cosignatures()[..2].to_vec();
        cosignatures.push(third);
        SignedCheckpoint::new(checkpoint(), cosignatures).unwrap()
    };
    assert_eq!(verify(&with(stranger)), Err(CertificateError::TooFew { valid: 2, needed: 3 }));
    let line = good.cosignatures()[2].to_line();
    let (head, base64) = line.rsplit_once(' ').unwrap();
    let bytes = data_encoding::BASE64.decode(base64.as_bytes()).unwrap();
    for bit in 0..8 * bytes.len() {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        match Cosignature::parse_line(&format!("{head} {}", data_encoding::BASE64.encode(&bytes))) {
            Err(error) => assert_eq!((bit, error), (39, CosignatureError::Time), "the time's top bit"),
            Ok(flipped) if bit < 32 => {
                assert_eq!(verify(&with(flipped)), Err(CertificateError::TooFew { valid: 2, needed: 3 }));
            }
            Ok(flipped) => assert_eq!(verify(&with(flipped)), bad_signature(2)),
        }
    }
}

#[test]
fn a_certificate_counts_the_latest_quorum() {
    let at = |member: usize, time| cosign(&checkpoint(), &name(NAMES[member]), &key(member), time);
    let time = |times: &[u64]| {
        let cosignatures = times.iter().enumerate().map(|(member, time)| at(member, *time)).collect();
        let signed = SignedCheckpoint::new(checkpoint(), cosignatures).unwrap();
        signed.verify(&core(4), federation()).unwrap().time().seconds()
    };
    assert_eq!(time(&[100, 102, 101]), 100);
    assert_eq!(time(&[0, 100, 102, 101]), 100, "one clock in the past does not pull the date back");
    assert_eq!(time(&[1 << 40, 100, 102, 101]), 101, "nor does one in the future push it beyond an honest one");
}

#[test]
fn the_guard_lets_only_one_history_through() {
    let first = checkpoint();
    let guard = SigningGuard::new().may_sign(&first, 100).unwrap();
    assert_eq!(guard.last(), Some(&(first, 100)));
    let with = |size: u64, epoch: u32| Checkpoint { size: LedgerSize(size), epoch: Epoch(epoch), ..first };
    let size = first.size.0;
    let (signed, same) = (first.size, LedgerSize(size));
    let other = Checkpoint { root: Hash::sha256(&[b"other"]), ..first };
    let other_digest = Checkpoint { digest: Hash::blake3(&[b"other"]), ..first };
    let elsewhere = Checkpoint { federation: FederationId::new(Hash::blake3(&[b"elsewhere"])), ..with(size + 1, 3) };
    let cases = [
        (first, 101, None),
        (first, 100, Some(GuardRefusal::Time { signed: 100, asked: 100 })),
        (first, 99, Some(GuardRefusal::Time { signed: 100, asked: 99 })),
        (with(size + 1, 3), 100, None),
        (with(size + 1, 3), 99, Some(GuardRefusal::Time { signed: 100, asked: 99 })),
        (with(size - 1, 3), 101, Some(GuardRefusal::Shrinks { signed, asked: LedgerSize(size - 1) })),
        (with(size - 1, 4), 101, Some(GuardRefusal::Shrinks { signed, asked: LedgerSize(size - 1) })),
        (with(size + 1, 2), 101, Some(GuardRefusal::Epoch { signed: Epoch(3), asked: Epoch(2) })),
        (with(size, 4), 101, None),
        (other, 101, Some(GuardRefusal::OtherHistory(same))),
        (other_digest, 101, Some(GuardRefusal::OtherHistory(same))),
        (Checkpoint { epoch: Epoch(4), ..other }, 101, Some(GuardRefusal::OtherHistory(same))),
        (elsewhere, 101, Some(GuardRefusal::Federation)),
    ];
    for (asked, time, refusal) in cases {
        assert_eq!(guard.may_sign(&asked, time).err(), refusal, "{asked:?} at {time}");
    }
}

#[test]
fn recovery_is_the_only_way_back() {
    let base = signed_by(&checkpoint(), [0, 1, 2]).verify(&core(4), federation()).unwrap();
    let ahead = Checkpoint { size: LedgerSize(30_000_000), ..checkpoint() };
    let guard = SigningGuard::new().may_sign(&ahead, 5_000).unwrap();
    assert_eq!(
        guard.begin_epoch(&base, Epoch(3)),
        Err(GuardRefusal::Epoch { signed: Epoch(3), asked: Epoch(3) }),
        "within an epoch nothing is taken back"
    );
    let recovered = guard.begin_epoch(&base, Epoch(4)).unwrap();
    let next = Checkpoint { size: LedgerSize(20_852_164), epoch: Epoch(4), ..checkpoint() };
    assert!(guard.may_sign(&next, 5_001).is_err());
    assert!(recovered.may_sign(&next, 5_000).is_ok());
    assert!(recovered.may_sign(&next, 4_999).is_err(), "times go on from the later of base and record");
    assert!(recovered.may_sign(&ahead, 5_001).is_err(), "the old epoch is over");
}

#[test]
fn a_guard_record_is_read_strictly() {
    let guard = SigningGuard::new().may_sign(&checkpoint(), 100).unwrap();
    for guard in [SigningGuard::new(), guard] {
        let bytes = guard.to_bytes();
        assert!(bytes.len() <= GUARD_BYTES_MAX);
        assert_eq!(SigningGuard::from_bytes(&bytes), Ok(guard));
        assert!(SigningGuard::from_bytes(&bytes[..bytes.len() - 1]).is_err());
        assert!(SigningGuard::from_bytes(&[&[2], &bytes[1..]].concat()).is_err());
    }
}

#[test]
fn signing_two_histories_leaves_evidence() {
    let other = Checkpoint { root: Hash::sha256(&[b"other"]), ..checkpoint() };
    let evidence = |a: &Checkpoint, b: &Checkpoint| Evidence::DoubleSign {
        a: signed_by(a, [0, 1]),
        b: signed_by(b, [1, 2]),
        signer: node(1),
    };
    let good = evidence(&checkpoint(), &other);
    assert_eq!((good.signer(), good.verify(&core(4))), (node(1), Ok(())));
    let bytes = crate::wire::encode(&good);
    assert_eq!(crate::wire::decode::<Evidence>("evidence", &bytes, 1 << 16).unwrap(), good);
    assert_eq!(evidence(&checkpoint(), &checkpoint()).verify(&core(4)), Err(EvidenceError::Agree));
    let longer = Checkpoint { size: LedgerSize(20_852_164), ..other };
    let sizes = EvidenceError::Sizes { a: checkpoint().size, b: longer.size };
    assert_eq!(evidence(&checkpoint(), &longer).verify(&core(4)), Err(sizes));
    let later = Checkpoint { epoch: Epoch(4), ..other };
    assert_eq!(evidence(&checkpoint(), &later).verify(&core(4)), Err(EvidenceError::Epoch(Epoch(3))));
    let Evidence::DoubleSign { a, b, .. } = good;
    let accuse = |signer| Evidence::DoubleSign { a: a.clone(), b: b.clone(), signer }.verify(&core(4));
    assert_eq!(accuse(node(0)), Err(EvidenceError::NotSigned(node(0))));
    assert_eq!(accuse(node(8)), Err(EvidenceError::NotInCore(node(8))));
    let forged = SignedCheckpoint::new(other, a.cosignatures().to_vec()).unwrap();
    let forged = Evidence::DoubleSign { a: a.clone(), b: forged, signer: node(1) };
    assert!(matches!(forged.verify(&core(4)), Err(EvidenceError::Cosignature(_))), "nobody is accused by a forgery");
}

/// One cosignature in the model: when it was really made, and what it says.
#[derive(Clone, Copy, Debug)]
struct ModelSignature {
    signer: usize,
    made: u64,
    size: u64,
    time: u64,
}

/// Honest signers keep to the real guard and state the real time; the first `liars` sign any size with any time.
fn model_signatures(members: usize, liars: usize, steps: &[(usize, u64, u64)]) -> Vec<ModelSignature> {
    let mut guards = vec![SigningGuard::new(); members];
    let mut signatures = Vec::new();
    for (made, (signer, size, lie)) in steps.iter().enumerate() {
        let (signer, made) = (signer % members, 100 + made as u64 / 3);
        let time = if signer < liars { *lie } else { made };
        let checkpoint = Checkpoint { size: LedgerSize(*size), ..checkpoint() };
        match guards[signer].may_sign(&checkpoint, time) {
            Ok(next) => guards[signer] = next,
            Err(_) if signer < liars => {}
            Err(_) => continue,
        }
        signatures.push(ModelSignature { signer, made, size: *size, time });
    }
    signatures
}

/// Looks for a certificate dated after the completion of one for a larger size, when the date is that of the
/// `counted` latest cosignatures of a quorum and more. For each size the latest date is that with every signer's
/// latest cosignature, the earliest completion that of the earliest quorum.
fn late_date(members: usize, threshold: usize, counted: usize, signatures: &[ModelSignature]) -> Option<(u64, u64)> {
    let sizes: std::collections::BTreeSet<u64> = signatures.iter().map(|s| s.size).collect();
    let of = |size: u64, signer: usize| signatures.iter().filter(move |s| s.size == size && s.signer == signer);
    let quorum = |size: u64| (0..members).filter(|m| of(size, *m).next().is_some()).count() >= threshold;
    let date = |size: u64| {
        let latest = (0..members).filter_map(|m| of(size, m).map(|s| s.time).max()).collect();
        certified_time(latest, counted).filter(|_| quorum(size))
    };
    let completed = |size: u64| {
        let mut first: Vec<u64> = (0..members).filter_map(|m| of(size, m).map(|s| s.made).min()).collect();
        first.sort_unstable();
        first.get(threshold - 1).copied()
    };
    let pairs = sizes.iter().flat_map(|small| sizes.range(small + 1..).map(move |large| (*small, *large)));
    pairs.filter_map(|(small, large)| Some((date(small)?, completed(large)?))).find(|(date, done)| date > done)
}

fn model_steps() -> impl Strategy<Value = Vec<(usize, u64, u64)>> {
    prop::collection::vec((0usize..7, 1u64..4, prop_oneof![Just(0), Just(1 << 40), 90u64..120]), 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_certificate_is_dated_after_the_certification_of_what_it_lacks(
        members in prop::sample::select(vec![1usize, 3, 4, 7]), steps in model_steps(),
    ) {
        let core = Core::new(Epoch(1), (0..members).map(|at| {
            CoreMember { node: node(at), name: name("h"), checkpoint_key: key(at).public() }
        }).collect()).unwrap();
        let signatures = model_signatures(members, core.tolerated_liars(), &steps);
        prop_assert_eq!(late_date(members, core.threshold(), core.threshold(), &signatures), None);
    }
}

/// The model can fail: counting one cosignature less than a quorum is enough for a date that is too late.
#[test]
fn counting_fewer_than_a_quorum_would_date_too_late() {
    // Signer 0 lies. Size 1 is signed by all, by signer 3 long after 1 and 2 went on to size 2, which 0 joins early.
    let steps = [(1, 1, 0), (2, 1, 0), (0, 1, 1 << 40), (1, 2, 0), (2, 2, 0), (0, 2, 0)];
    let late = (0..30).map(|_| (3, 1, 0));
    let steps: Vec<_> = steps.into_iter().chain(late).collect();
    let signatures = model_signatures(4, 1, &steps);
    assert_eq!(late_date(4, 3, 3, &signatures), None);
    assert!(late_date(4, 3, 2, &signatures).is_some());
}

//! The bytes of the retrieval messages, which outlive every version: each message of a fixed session stands in
//! `tests/golden/retrieve-v1.txt`. A difference is a break of the format, not a reason to write the file anew.

use tessera_consensus::UnixMillis;
use tessera_federation::ids::DisclosureId;
use tessera_federation::retrieve::frame::{Frame, Message};
use tessera_federation::retrieve::wire::v1::{
    BreakGlass, Challenge, Confirmation, Party, Receipt, Refusal, RefusalCode, RetrievalRequest, StopCode, ToHolder,
    ToRequester, UnavailableCode, VERSION, Want, transcript,
};

use crate::world::{T0, World, federation, readings, root, seen};

const GOLDEN: &str = include_str!("../golden/retrieve-v1.txt");

fn line<M: Message>(name: &str, frame: Frame<M>) -> String {
    let (mut bytes, rest) = frame.to_parts();
    bytes.extend_from_slice(&rest);
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{name} {digits}\n")
}

fn to_holder(world: &World, challenge: Challenge) -> Vec<(&'static str, ToHolder)> {
    let intent = &world.intent;
    let second = Confirmation::SecondPerson(intent.user.clone());
    let request = RetrievalRequest {
        version: VERSION,
        id: intent.id,
        federation: federation(),
        challenge,
        requester: world.requester.node,
        requester_site: intent.site.clone(),
        holder: world.holder.node,
        user: intent.user.clone(),
        study: intent.study.clone(),
        purpose: intent.purpose,
        basis: intent.basis.clone(),
        break_glass: Some(BreakGlass { reason: "unconscious".into(), confirmation: second }),
        created: UnixMillis(T0.0 + 1),
        seen: seen(10, T0),
    };
    let signed = request.sign(&world.requester.command_key);
    let done = receipt(world, Party::Requester).sign(&world.requester.command_key);
    vec![
        ("request", ToHolder::Request { signed: Box::new(signed), note: Some("note".into()) }),
        ("want", ToHolder::Want(vec![Want { object: 1, hashes: true, first: 2, count: 300 }])),
        ("done", ToHolder::Done(Box::new(done))),
        ("stop", ToHolder::Stop { code: StopCode::WRONG_BYTES }),
    ]
}

fn receipt(world: &World, by: Party) -> Receipt {
    Receipt {
        version: VERSION,
        federation: federation(),
        retrieval: world.intent.id,
        disclosure: DisclosureId::from_bytes([6; 16]),
        by,
        requester: world.requester.node,
        holder: world.holder.node,
        commitment: world.intent.study.commitment,
        objects: 2,
        transcript: transcript([root(1), root(2)].into_iter()),
        bytes: 1_000_000,
        complete: true,
        time: T0,
    }
}

fn to_requester(world: &World, challenge: Challenge) -> Vec<(&'static str, ToRequester)> {
    let refusal = Refusal {
        version: VERSION,
        federation: federation(),
        holder: world.holder.node,
        requester: world.requester.node,
        challenge,
        retrieval: Some(world.intent.id),
        code: RefusalCode::DENIED,
        reasons: vec!["no consent".into()],
        time: T0,
        seen: Some(seen(12, T0)),
    };
    let key = &world.holder.command_key;
    let disclosure = DisclosureId::from_bytes([6; 16]);
    vec![
        ("hello", ToRequester::Hello { version: VERSION, challenge }),
        ("refused", ToRequester::Refused(Box::new(refusal.sign(key)))),
        ("offer", ToRequester::Offer { disclosure, manifest: vec![1, 2, 3], salt: [9; 16] }),
        ("hashes", ToRequester::Hashes { object: 1, hashes: vec![7; 64] }),
        ("unavailable", ToRequester::Unavailable { object: 1, code: UnavailableCode::DAMAGED }),
        ("receipt", ToRequester::Receipt(Box::new(receipt(world, Party::Holder).sign(key)))),
        (
            "offer-with-readings",
            ToRequester::OfferWithReadings { disclosure, manifest: vec![1, 2, 3], salt: [9; 16], readings: readings() },
        ),
    ]
}

#[test]
fn messages_have_the_bytes_that_they_always_had() {
    let mut world = World::new(&[10, 20]);
    world.intent.study.commitment = root(7);
    let challenge = Challenge::from_bytes([4; 32]);
    let mut text = String::new();
    for (name, message) in to_holder(&world, challenge) {
        text += &line(name, Frame::Control(message));
    }
    for (name, message) in to_requester(&world, challenge) {
        text += &line(name, Frame::Control(message));
    }
    text += &line::<ToRequester>("data", Frame::Data { object: 1, group: 2, bytes: vec![5; 3] });
    assert_eq!(text, GOLDEN, "\nactual:\n{text}");
}

/// Every truncation and many single flips of every message: refused or read, never a panic.
#[test]
fn damaged_messages_are_refused_without_panic() {
    for golden in GOLDEN.lines() {
        let (name, digits) = golden.split_once(' ').expect("name and digits");
        let bytes: Vec<u8> = (0..digits.len() / 2)
            .map(|i| u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).expect("hexadecimal"))
            .collect();
        let read = |bytes: &[u8]| {
            Frame::<ToHolder>::from_bytes(bytes).is_ok() as u8 + Frame::<ToRequester>::from_bytes(bytes).is_ok() as u8
        };
        assert!(read(&bytes) > 0, "{name} reads back");
        for length in 0..bytes.len() {
            assert_eq!(read(&bytes[..length]), 0, "{name} cut to {length}");
        }
        for place in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[place] ^= 1 << bit;
                read(&flipped);
            }
        }
    }
}

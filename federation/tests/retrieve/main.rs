//! The retrieval machines against each other: what gets through, what is refused, what is found out, what a broken
//! line costs. The promises P4 (the holder decides), P5 (revocation bites) and P8 (what arrives is what was sent).
//! No sockets: both machines are stepped by hand, so that every interleaving is chosen and not met by chance.

mod golden;
mod world;

use tessera_consensus::NodeId;
use tessera_federation::retrieve::frame::{Frame, FrameError};
use tessera_federation::retrieve::wire::v1::{
    BreakGlass, Confirmation, Reading, RefusalCode, StopCode, ToHolder, ToRequester, UnavailableCode,
};
use tessera_federation::retrieve::{
    Awaited, DECISION_TIMEOUT_MS, Failure, GREETING_TIMEOUT_MS, HolderInput, IDLE_TIMEOUT_MS, Outcome, RequesterInput,
    Ruling, Summary, WINDOW_GROUPS,
};
use tessera_federation::wire::v1::ObjectContent;

use world::{Ended, LIMIT_MS, SALT, T0, World, identity, instances, seen, site, uid};

const MIB: usize = 1024 * 1024;

fn summary(ended: &Ended) -> &Summary {
    match &ended.requester {
        Some(Ok(summary)) => summary,
        other => panic!("expected a summary: {other:?}"),
    }
}

fn failure(ended: &Ended) -> &Failure {
    match &ended.requester {
        Some(Err(failure)) => failure,
        other => panic!("expected a failure: {other:?}"),
    }
}

fn refusal_code(ended: &Ended) -> RefusalCode {
    match failure(ended) {
        Failure::Refused(signed) => signed.refusal.code,
        other => panic!("expected a refusal: {other:?}"),
    }
}

#[test]
fn an_examination_arrives_whole_and_both_sign_for_it() {
    let mut world = World::new(&[10, MIB, 3 * MIB + 5, 0, MIB + 1]);
    let ended = world.fetch();
    let summary = summary(&ended);
    assert_eq!((summary.held, summary.missing.len()), (5, 0));
    assert_eq!(world.kept, world.study.objects);
    let Some(Outcome::Finished { requester, holder }) = &ended.holder else { panic!("{:?}", ended.holder) };
    assert_eq!(**requester, summary.receipt);
    assert_eq!(Some(&**holder), summary.holder_receipt.as_ref());
    assert_eq!(holder.receipt.bytes, summary.received_bytes);
    assert!(holder.receipt.complete);
    let place = |what: &str| world.trace.iter().position(|line| line == what).expect(what);
    assert!(place("decide Opening") < place("write disclosure"));
    assert!(place("write disclosure") < place("send offer"));
    assert!(place("send offer") < place("send data"));
    assert!(world.trace.ends_with(&["write receipt".into(), "send receipt".into()]), "{:?}", world.trace);
}

#[test]
fn the_holders_receipt_is_written_whatever_the_line_does_and_sent_only_when_it_is_durable() {
    let mut world = World::new(&[10]);
    let mut session = world.open();
    session.hold_receipt = true;
    while session.advance(&mut world) {}
    assert_eq!(world.trace.last().map(String::as_str), Some("write receipt"));
    for input in [
        HolderInput::Garbage(FrameError::UnknownKind(9)),
        HolderInput::StateChanged { concerns: true },
        HolderInput::Closed,
    ] {
        session.holder_input(&mut world, input);
        assert_eq!(session.ended.holder, None, "the receipt is on its way to the disk");
    }
    session.holder_input(&mut world, HolderInput::ReceiptDurable);
    assert!(matches!(session.ended.holder, Some(Outcome::Finished { .. })), "{:?}", session.ended.holder);
    while session.advance(&mut world) {}
    assert!(summary(&session.ended).holder_receipt.is_some());
}

#[test]
fn a_receipt_that_cannot_be_written_is_not_sent() {
    let mut world = World::new(&[10]);
    let mut session = world.open();
    session.hold_receipt = true;
    while session.advance(&mut world) {}
    session.holder_input(&mut world, HolderInput::ReceiptFailed);
    assert_eq!(session.ended.holder, Some(Outcome::Broken));
    session.requester_input(&mut world, RequesterInput::Closed);
    assert_eq!(summary(&session.ended).holder_receipt, None, "all images are here all the same");
    assert_eq!(world.trace.last().map(String::as_str), Some("write receipt"));

    // A disk that never answers holds up no session for ever.
    let mut world = World::new(&[10]);
    let mut session = world.open();
    session.hold_receipt = true;
    while session.advance(&mut world) {}
    world.now = world.now.plus_ms(IDLE_TIMEOUT_MS + 1);
    session.holder_input(&mut world, HolderInput::Tick);
    assert_eq!(session.ended.holder, Some(Outcome::Broken));
}

#[test]
fn only_what_is_selected_travels() {
    let mut world = World::new(&[10, 20, 30]);
    world.intent.selection = instances(&["1.2.3.1.101"]);
    let ended = world.fetch();
    assert_eq!((summary(&ended).held, summary(&ended).received_bytes), (1, 20));
    assert!(matches!(ended.holder, Some(Outcome::Finished { .. })));
}

#[test]
fn what_is_here_already_does_not_travel_again() {
    let mut world = World::new(&[10, 2 * MIB]);
    world.fetch();
    let ended = world.fetch();
    assert_eq!((summary(&ended).received_bytes, summary(&ended).reused_bytes), (0, 10 + 2 * MIB as u64));
}

#[test]
fn a_refusal_is_signed_says_why_and_nothing_was_disclosed() {
    let mut world = World::new(&[10]);
    world.allowed = false;
    let ended = world.fetch();
    assert_eq!(refusal_code(&ended), RefusalCode::DENIED);
    assert!(failure(&ended).to_string().contains("no consent"));
    assert_eq!(world.trace, ["send hello", "decide Opening", "send refusal"]);
    assert_eq!((world.disclosures, world.reads), (0, 0));
}

#[test]
fn no_byte_leaves_when_the_disclosure_cannot_be_written() {
    let mut world = World::new(&[10]);
    world.disk_works = false;
    let ended = world.fetch();
    assert_eq!(refusal_code(&ended), RefusalCode::HOLDER_FAULT);
    assert_eq!(world.trace, ["send hello", "decide Opening", "write disclosure", "send refusal"]);
}

/// Each row changes one thing about who asks; each is refused before any decision.
#[test]
fn requests_that_speak_for_others_are_refused() {
    type Change = fn(&mut World);
    let table: [(Change, RefusalCode); 6] = [
        (|w| w.view.members.clear(), RefusalCode::NOT_A_MEMBER),
        (|w| w.intent.site = site("north"), RefusalCode::WRONG_PARTY),
        (|w| w.intent.study.site = site("south"), RefusalCode::WRONG_PARTY),
        (|w| w.requester.federation = tessera_consensus::FederationId::new(world::root(1)), RefusalCode::WRONG_PARTY),
        (|w| w.intent.user = user_of("north"), RefusalCode::WRONG_PARTY),
        (
            |w| {
                let other = identity("other", 7).command_key.public();
                w.view.members.values_mut().for_each(|record| record.command_key = other);
            },
            RefusalCode::BAD_SIGNATURE,
        ),
    ];
    for (number, (change, code)) in table.into_iter().enumerate() {
        let mut world = World::new(&[10]);
        change(&mut world);
        let ended = world.fetch();
        assert_eq!(ended.holder, Some(Outcome::Refused { code, reasons: Vec::new() }), "row {number}");
        assert!(!world.trace.iter().any(|line| line.starts_with("decide")), "row {number}");
    }
}

fn user_of(name: &str) -> tessera_policy::UserAssertion {
    let user = tessera_policy::UserId::parse("d002").expect("a user");
    let site = tessera_federation::ids::policy_site(&site(name));
    tessera_policy::UserAssertion::new(site, user, tessera_policy::Role::Physician, None)
}

#[test]
fn a_recorded_request_is_refused_in_another_session() {
    let mut world = World::new(&[10]);
    let mut first = world.open();
    assert!(first.deliver_one(&mut world), "the greeting");
    let recorded = first.to_holder.front().expect("the request").clone();
    while first.advance(&mut world) {}
    assert!(matches!(first.ended.holder, Some(Outcome::Finished { .. })));

    let mut second = world.open();
    second.to_holder.push_back(recorded);
    while second.ended.holder.is_none() && second.advance(&mut world) {}
    let expected = Outcome::Refused { code: RefusalCode::OTHER_SESSION, reasons: Vec::new() };
    assert_eq!(second.ended.holder, Some(expected));
    assert_eq!(world.disclosures, 1);
}

#[test]
fn a_holder_that_is_behind_catches_up_first() {
    let mut world = World::new(&[10]);
    world.intent.seen = seen(20, T0);
    let mut session = world.open();
    while session.advance(&mut world) {}
    assert_eq!(world.trace, ["send hello", "catch up to 20"], "no decision on an older state");
    world.view.certified = Some(seen(19, T0));
    session.holder_input(&mut world, HolderInput::StateChanged { concerns: false });
    assert_eq!(world.trace.len(), 2, "still behind");
    world.view.certified = Some(seen(20, T0));
    session.holder_input(&mut world, HolderInput::StateChanged { concerns: false });
    while session.advance(&mut world) {}
    assert_eq!(summary(&session.ended).held, 1);
}

/// Time passes while the holder waits; each row is what it lacks.
#[test]
fn a_holder_that_cannot_know_refuses() {
    type Change = fn(&mut World);
    let table: [(Change, RefusalCode); 5] = [
        (|w| w.intent.seen = seen(20, T0), RefusalCode::BEHIND),
        (|w| w.view.certified = None, RefusalCode::BEHIND),
        (|w| w.now = T0.plus_ms(LIMIT_MS + 1), RefusalCode::STALE),
        (|w| w.view.trusted = false, RefusalCode::CLOCK),
        (|w| w.intent.seen.root = world::root(99), RefusalCode::OTHER_HISTORY),
    ];
    for (change, code) in table {
        let mut world = World::new(&[10]);
        change(&mut world);
        let mut session = world.open();
        while session.advance(&mut world) {}
        world.now = world.now.plus_ms(8_001);
        session.holder_input(&mut world, HolderInput::Tick);
        while session.advance(&mut world) {}
        assert_eq!(refusal_code(&session.ended), code);
        assert_eq!((world.disclosures, world.reads), (0, 0), "{code:?}");
    }
}

#[test]
fn break_glass_is_decided_on_old_knowledge_too() {
    type Change = fn(&mut World);
    let table: [Change; 3] =
        [|w| w.now = T0.plus_ms(LIMIT_MS + 1), |w| w.view.trusted = false, |w| w.intent.seen = seen(20, T0)];
    for change in table {
        let mut world = World::new(&[10]);
        world.intent.break_glass =
            Some(BreakGlass { reason: "unconscious".into(), confirmation: Confirmation::SecondFactor });
        change(&mut world);
        let mut session = world.open();
        while session.advance(&mut world) {}
        world.now = world.now.plus_ms(8_001);
        session.holder_input(&mut world, HolderInput::Tick);
        while session.advance(&mut world) {}
        assert_eq!(summary(&session.ended).held, 1);
        assert_eq!(world.disclosures, 1);
    }
}

#[test]
fn a_wrong_byte_is_named_and_ends_the_session() {
    type Lie = fn(&mut Frame<ToRequester>);
    let flip_manifest: Lie = |frame| {
        if let Frame::Control(ToRequester::Offer { manifest, .. }) = frame {
            manifest[40] ^= 1;
        }
    };
    let flip_hashes: Lie = |frame| {
        if let Frame::Control(ToRequester::Hashes { hashes, .. }) = frame {
            hashes[33] ^= 1;
        }
    };
    let flip_data: Lie = |frame| {
        if let Frame::Data { object: 1, group: 2, bytes } = frame {
            bytes[77] ^= 1;
        }
    };
    let shorten: Lie = |frame| {
        if let Frame::Data { object: 0, bytes, .. } = frame {
            bytes.pop();
        }
    };
    let table: [(Lie, &str); 4] = [
        (flip_manifest, "the manifest is not the one that the ledger commits to"),
        (flip_hashes, "object 1.2.3.1.101: its group hashes do not lead to blake3:"),
        (flip_data, "object 1.2.3.1.101 (blake3:"),
        (shorten, "object 1.2.3.1.100 (blake3:"),
    ];
    for (lie, expected) in table {
        let mut world = World::new(&[10, 3 * MIB]);
        world.lie = Box::new(lie);
        let ended = world.fetch();
        assert!(failure(&ended).to_string().starts_with(expected), "{}", failure(&ended));
        assert!(failure(&ended).is_tampering());
        assert_eq!(ended.holder, Some(Outcome::Stopped(StopCode::WRONG_BYTES)));
        // What was right before the lie is kept for another holder, and nothing else.
        world.lie = Box::new(|_| {});
        let ended = world.fetch();
        assert_eq!(summary(&ended).held, 2);
        assert_eq!(world.kept, world.study.objects);
    }
}

#[test]
fn a_line_that_breaks_after_any_message_costs_nothing_twice() {
    let sizes = [10, 3 * MIB + 5, MIB];
    let messages = {
        let mut world = World::new(&sizes);
        let mut session = world.open();
        (0..).take_while(|_| session.deliver_one(&mut world)).count()
    };
    assert!(messages > 10);
    for cut_after in 0..messages {
        let mut world = World::new(&sizes);
        let mut session = world.open();
        for _ in 0..cut_after {
            session.deliver_one(&mut world);
        }
        session.holder_input(&mut world, HolderInput::Closed);
        if session.ended.requester.is_none() {
            session.requester_input(&mut world, RequesterInput::Closed);
        }
        let first = session.ended.requester.expect("closed");
        assert!(first.is_ok() || first == Err(Failure::Broken), "{first:?}");
        // The sink refuses any group that it already has, so this run fetches only the rest.
        let ended = world.fetch();
        assert_eq!(summary(&ended).held, 3, "cut after {cut_after}");
        assert_eq!(world.kept, world.study.objects, "cut after {cut_after}");
    }
}

#[test]
fn a_revocation_in_the_middle_stops_the_transfer() {
    let mut world = World::new(&[40 * MIB]);
    let mut session = world.open();
    while world.kept.is_empty() && world.groups.values().map(|g| g.len()).sum::<usize>() < 5 {
        assert!(session.advance(&mut world));
    }
    world.allowed = false;
    session.hold_decisions = true;
    session.holder_input(&mut world, HolderInput::StateChanged { concerns: true });
    let sent = world.trace.iter().filter(|line| *line == "send data").count();
    while session.advance(&mut world) {}
    let sent_while_deciding = world.trace.iter().filter(|line| *line == "send data").count() - sent;
    assert_eq!(sent_while_deciding, 0, "nothing is sent while the new ruling is awaited");
    let ruling = world.ruling();
    session.holder_input(&mut world, HolderInput::Decided(ruling));
    while session.advance(&mut world) {}
    assert_eq!(refusal_code(&session.ended), RefusalCode::DENIED);
    assert!(world.trace.ends_with(&["discard".into(), "send refusal".into()]));
}

/// What the machine has handed out by then, up to 8 MiB, is stopped too: on a slow line it would go on for minutes.
#[test]
fn no_data_leaves_between_a_change_and_the_ruling() {
    for allowed in [true, false] {
        let mut world = World::new(&[40 * MIB]);
        let mut session = world.open();
        while session.to_requester.len() < 2 || world.groups.is_empty() {
            assert!(session.advance(&mut world));
        }
        world.allowed = allowed;
        session.hold_decisions = true;
        session.holder_input(&mut world, HolderInput::StateChanged { concerns: true });
        // A second change asks for a second ruling; only the last lets anything go.
        session.holder_input(&mut world, HolderInput::StateChanged { concerns: true });
        let arrived = |world: &World| world.groups.values().map(|groups| groups.len()).sum::<usize>();
        let (before, waiting) = (arrived(&world), session.to_requester.len());
        for ruling in session.pending_facts.iter().map(|_| world.ruling()).collect::<Vec<_>>() {
            while session.advance(&mut world) {}
            assert_eq!(arrived(&world), before, "nothing leaves");
            assert!(!allowed || session.to_requester.len() == waiting, "and nothing is lost");
            if session.ended.holder.is_none() {
                session.holder_input(&mut world, HolderInput::Decided(ruling));
            }
        }
        while session.advance(&mut world) {}
        match allowed {
            true => assert_eq!(summary(&session.ended).held, 1),
            false => assert_eq!((refusal_code(&session.ended), arrived(&world)), (RefusalCode::DENIED, before)),
        }
    }
}

#[test]
fn a_receipt_is_answered_although_a_ruling_is_awaited() {
    let mut world = World::new(&[10]);
    let mut session = world.open();
    while world.kept.is_empty() || session.to_holder.is_empty() {
        assert!(session.advance(&mut world));
    }
    session.hold_decisions = true;
    session.holder_input(&mut world, HolderInput::StateChanged { concerns: true });
    while session.advance(&mut world) {}
    assert!(summary(&session.ended).holder_receipt.is_some());
    assert!(matches!(session.ended.holder, Some(Outcome::Finished { .. })));
}

#[test]
fn a_change_while_the_first_ruling_is_made_counts() {
    for change_when in ["decide Opening", "write disclosure"] {
        let mut world = World::new(&[10]);
        let mut session = world.open();
        while world.trace.last().map(String::as_str) != Some(change_when) {
            assert!(session.advance(&mut world));
        }
        // The first ruling, or the disclosure, is still under way and will be answered with a yes.
        session.hold_decisions = true;
        session.holder_input(&mut world, HolderInput::StateChanged { concerns: true });
        while session.advance(&mut world) {}
        let sent: Vec<_> = world.trace.iter().filter(|line| line.starts_with("send")).collect();
        assert_eq!(sent, ["send hello"], "changed at {change_when}");
        let revoked = Ruling::Deny { code: RefusalCode::DENIED, reasons: Vec::new() };
        session.holder_input(&mut world, HolderInput::Decided(revoked));
        while session.advance(&mut world) {}
        assert_eq!(refusal_code(&session.ended), RefusalCode::DENIED, "changed at {change_when}");
    }
}

#[test]
fn a_running_transfer_ends_at_the_freshness_limit_and_is_decided_again_when_the_ruling_ends() {
    let mut world = World::new(&[40 * MIB]);
    world.until = Some(T0.plus_ms(5_000));
    let mut session = world.open();
    while world.groups.values().map(|g| g.len()).sum::<usize>() < 5 {
        assert!(session.advance(&mut world));
    }
    world.now = T0.plus_ms(5_001);
    world.until = None;
    session.holder_input(&mut world, HolderInput::Tick);
    assert_eq!(world.trace.last().map(String::as_str), Some("decide RulingExpired"));
    for _ in 0..20 {
        session.advance(&mut world);
    }
    world.now = T0.plus_ms(LIMIT_MS + 1);
    session.holder_input(&mut world, HolderInput::Tick);
    while session.advance(&mut world) {}
    assert_eq!(refusal_code(&session.ended), RefusalCode::STALE);
}

#[test]
fn a_requester_that_is_removed_loses_its_running_transfer() {
    let mut world = World::new(&[40 * MIB]);
    let mut session = world.open();
    while world.groups.is_empty() {
        assert!(session.advance(&mut world));
    }
    world.view.members.clear();
    session.holder_input(&mut world, HolderInput::StateChanged { concerns: false });
    while session.advance(&mut world) {}
    assert_eq!(refusal_code(&session.ended), RefusalCode::NOT_A_MEMBER);
}

#[test]
fn objects_that_the_holder_lacks_are_named_and_the_others_come() {
    let mut world = World::new(&[10, 3 * MIB, 20]);
    let lost = match &world.study.manifest.objects[1].content {
        ObjectContent::Verified { hash, .. } => *hash,
        ObjectContent::Declared => panic!("verified"),
    };
    world.study.objects.remove(&lost);
    world.study.manifest.objects[2].content = ObjectContent::Declared;
    world.intent.study.commitment = world.study.manifest.commitment(&world::SALT);
    let ended = world.fetch();
    let summary = summary(&ended);
    let missing: Vec<_> = summary.missing.iter().map(|absent| (absent.sop_instance.clone(), absent.code)).collect();
    let expected = [(uid("1.2.3.1.101"), UnavailableCode::DAMAGED), (uid("1.2.3.1.102"), UnavailableCode::NOT_PINNED)];
    assert_eq!(missing, expected);
    assert_eq!((summary.held, summary.receipt.receipt.complete), (1, false));
    assert!(matches!(ended.holder, Some(Outcome::Finished { .. })));
}

/// Messages out of turn and out of bounds: the session ends, nothing panics.
#[test]
fn breaches_end_the_session() {
    use tessera_federation::retrieve::wire::v1::Want;
    let want = |object, first, count| ToHolder::Want(vec![Want { object, hashes: false, first, count }]);
    let messages =
        [want(9, 0, 1), want(0, 1, 1), want(0, 0, 0), want(0, u32::MAX, 2), want(1, 0, 257), want(1, 0, u32::MAX)];
    for message in messages {
        let mut world = World::new(&[10, 300 * 16]);
        let mut session = world.open();
        while world.trace.last().map(String::as_str) != Some("send offer") {
            assert!(session.advance(&mut world));
        }
        let text = format!("{message:?}");
        session.holder_input(&mut world, HolderInput::Received(Frame::Control(message)));
        assert!(matches!(session.ended.holder, Some(Outcome::Breach(_))), "{text}");
    }
    // An object that the holder only declares has no groups to count by.
    let mut world = World::new(&[10, 10]);
    world.study.manifest.objects[0].content = ObjectContent::Declared;
    world.intent.study.commitment = world.study.manifest.commitment(&SALT);
    let mut session = world.open();
    while world.trace.last().map(String::as_str) != Some("send offer") {
        assert!(session.advance(&mut world));
    }
    let all = ToHolder::Want(vec![Want { object: 0, hashes: true, first: 0, count: u32::MAX }]);
    session.holder_input(&mut world, HolderInput::Received(Frame::Control(all)));
    assert_eq!(session.ended.holder, Some(Outcome::Breach("more groups at once than are allowed")));

    let mut world = World::new(&[10]);
    let mut session = world.open();
    session.holder_input(&mut world, HolderInput::Received(Frame::Control(want(0, 0, 1))));
    assert_eq!(session.ended.holder, Some(Outcome::Breach("a message out of turn")));
    session.requester_input(&mut world, RequesterInput::Garbage(FrameError::UnknownKind(9)));
    assert!(matches!(session.ended.requester, Some(Err(Failure::Garbage(FrameError::UnknownKind(9))))));
}

#[test]
fn a_refusal_counts_only_with_the_holders_signature() {
    let mut world = World::new(&[10]);
    world.allowed = false;
    world.lie = Box::new(|frame| {
        if let Frame::Control(ToRequester::Refused(signed)) = frame {
            signed.refusal.code = RefusalCode::NOT_A_MEMBER;
        }
    });
    assert!(matches!(failure(&world.fetch()), Failure::Breach(_)));
}

#[test]
fn the_window_bounds_what_is_in_flight() {
    let mut world = World::new(&[80 * MIB]);
    let mut session = world.open();
    let mut most = 0;
    while session.advance(&mut world) {
        if world.kept.is_empty() {
            let written: usize = world.groups.values().map(|groups| groups.len()).sum();
            most = most.max(world.reads.saturating_sub(written));
        }
    }
    assert_eq!(summary(&session.ended).held, 1);
    assert!(most <= WINDOW_GROUPS as usize, "{most}");
}

#[test]
fn silence_ends_a_session() {
    let mut world = World::new(&[40 * MIB]);
    let mut session = world.open();
    while world.groups.is_empty() {
        assert!(session.advance(&mut world));
    }
    world.now = world.now.plus_ms(IDLE_TIMEOUT_MS + 1);
    session.holder_input(&mut world, HolderInput::Tick);
    assert_eq!(session.ended.holder, Some(Outcome::Broken));
    session.requester_input(&mut world, RequesterInput::Tick);
    assert_eq!(failure(&session.ended), &Failure::TimedOut(Awaited::Images));
    assert!(failure(&session.ended).may_be_resumed());
}

/// Each row is a moment at which the holder falls silent, and what the requester makes of it after so long.
#[test]
fn a_silent_holder_is_waited_for_once_unless_images_are_on_the_way() {
    for (after, limit_ms, expected) in [
        (0, GREETING_TIMEOUT_MS, Failure::TimedOut(Awaited::Greeting)),
        (1, DECISION_TIMEOUT_MS, Failure::TimedOut(Awaited::Decision)),
    ] {
        let mut world = World::new(&[10]);
        let mut session = world.open();
        (0..after).for_each(|_| assert!(session.deliver_one(&mut world)));
        world.now = world.now.plus_ms(limit_ms);
        session.requester_input(&mut world, RequesterInput::Tick);
        assert!(session.ended.requester.is_none(), "it still waits: {expected}");
        world.now = world.now.plus_ms(1);
        session.requester_input(&mut world, RequesterInput::Tick);
        assert_eq!(failure(&session.ended), &expected);
        assert!(!failure(&session.ended).may_be_resumed(), "{expected}");
    }
    // All images are here, only the holder's receipt is not.
    let mut world = World::new(&[10]);
    let mut session = world.open();
    session.hold_receipt = true;
    while session.advance(&mut world) {}
    world.now = world.now.plus_ms(GREETING_TIMEOUT_MS + 1);
    session.requester_input(&mut world, RequesterInput::Tick);
    assert_eq!((summary(&session.ended).held, &summary(&session.ended).holder_receipt), (1, &None));
}

#[test]
fn refusals_say_when_they_may_pass() {
    let passing: Vec<(u16, u32)> =
        (0..100).filter_map(|code| RefusalCode(code).passes_in_s().map(|seconds| (code, seconds))).collect();
    let later = |code: RefusalCode, seconds| (code.0, seconds);
    assert_eq!(
        passing,
        [
            later(RefusalCode::OTHER_SESSION, 1),
            later(RefusalCode::BEHIND, 10),
            later(RefusalCode::STALE, 60),
            later(RefusalCode::CLOCK, 60),
            later(RefusalCode::BUSY, 5),
        ]
    );
}

#[test]
fn how_the_holder_reads_its_objects_comes_with_the_offer_and_changes_no_byte() {
    let mut world = World::new(&[10, 20, 30]);
    world.readings = world::readings();
    let ended = world.fetch();
    assert_eq!((summary(&ended).held, &world.kept), (3, &world.study.objects));
    let covered: Vec<u32> = (0..5).filter(|object| world.readings[0].covers(*object)).collect();
    assert_eq!(covered, [1, 2]);

    // The holder's word is bounded like everything else.
    for readings in [
        vec![Reading { first: 0, count: 1, character_set: "x".repeat(129) }],
        vec![Reading { first: 0, count: 1, character_set: "GBK".into() }; 257],
    ] {
        let mut world = World::new(&[10]);
        world.readings = readings;
        assert!(matches!(failure(&world.fetch()), Failure::Garbage(FrameError::Decode(_))));
    }
}

#[test]
fn a_desk_has_so_many_places() {
    use tessera_federation::retrieve::{Busy, Desk, SESSIONS_MAX, SESSIONS_PER_PEER_MAX};
    let node = |n: u64| NodeId::new(world::root(n));
    let mut desk = Desk::default();
    for _ in 0..SESSIONS_PER_PEER_MAX {
        assert_eq!(desk.admit(node(0)), Ok(()));
    }
    assert_eq!(desk.admit(node(0)), Err(Busy::Peer(node(0))));
    let others = (1..).map(|n| desk.admit(node(n))).take_while(Result::is_ok).count();
    assert_eq!(others + SESSIONS_PER_PEER_MAX, SESSIONS_MAX);
    assert_eq!(desk.admit(node(9_999)), Err(Busy::All));
    desk.leave(node(0));
    assert_eq!(desk.admit(node(0)), Ok(()));
}

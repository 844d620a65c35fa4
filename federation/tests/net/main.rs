//! The network on loopback: who gets in, what gets through, what a peer's garbage does (nothing), and retrievals
//! over real streams.
//! Real sockets on loopback, one process; hostile peers are played by bare libp2p swarms or broken frames.

mod liars;
mod node;
mod rude;
#[allow(dead_code)]
#[path = "../retrieve/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::{AsyncReadExt, AsyncWriteExt};
use tessera_consensus::follow::{FollowReply, FollowRequest};
use tessera_federation::net::{
    NetError, NetEvent, PeerReply, PeerRequest, PeerStream, REQUESTS_WAITING_MAX, RequestRefusal, Verdict, fetch,
    fetch_through,
};
use tessera_federation::retrieve::wire::v1::RefusalCode;
use tessera_federation::retrieve::{CATCH_UP_TIMEOUT_MS, Failure, Outcome};

use node::{Door, Host, Node, PATIENCE, Sink, fetch_of};
use world::{Study, T0, seen};

const MIB: usize = 1024 * 1024;

/// `north` listens, `south` only dials out; both have admitted each other.
async fn pair() -> (Node, Node) {
    let mut north = Node::start("north", 1, Door::Open).await;
    let mut south = Node::start("south", 2, Door::OnlyOut).await;
    north.admit(&[&south]).await;
    south.admit(&[&north]).await;
    north.up(vec![south.me.node]).await;
    south.up(vec![north.me.node]).await;
    (north, south)
}

/// Answers every request of `node` in a task of its own, and hands its streams on.
fn answering(node: Node) -> tokio::sync::mpsc::Receiver<PeerStream> {
    let (sender, streams) = tokio::sync::mpsc::channel(256);
    tokio::spawn(async move {
        // The whole node, handle included: the network ends with its last handle.
        let mut node = node;
        while let Some(event) = node.events.recv().await {
            match event {
                NetEvent::Request { request, reply, .. } => match *request {
                    PeerRequest::Follow(_) => {
                        let note = Some("a note".to_string());
                        reply.send(PeerReply::Follow(FollowReply::Checkpoint { note })).await;
                    }
                    _ => reply.send(PeerReply::Refused(RequestRefusal::NotServed)).await,
                },
                NetEvent::Stream(stream) => sender.send(stream).await.expect("the test takes streams"),
                _ => {}
            }
        }
    });
    streams
}

fn checkpoint_request() -> PeerRequest {
    PeerRequest::Follow(FollowRequest::Checkpoint)
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_answered_whoever_dialled() {
    let (north, south) = pair().await;
    let (north_net, south_net) = (north.net.clone(), south.net.clone());
    let (north_id, south_id) = (north.me.node, south.me.node);
    let (_north_streams, _south_streams) = (answering(north), answering(south));
    let expected = Ok(PeerReply::Follow(FollowReply::Checkpoint { note: Some("a note".into()) }));
    assert_eq!(south_net.request(north_id, checkpoint_request()).await, expected);
    assert_eq!(north_net.request(south_id, checkpoint_request()).await, expected, "against the dialling direction");
    let refused = Ok(PeerReply::Refused(RequestRefusal::NotServed));
    assert_eq!(south_net.request(north_id, PeerRequest::Submit(Vec::new())).await, refused);
    let nobody = world::identity("nobody", 9).node;
    assert_eq!(south_net.request(nobody, checkpoint_request()).await, Err(NetError::NotConnected(nobody)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_nobody_answers_fails_at_once() {
    let (mut north, south) = pair().await;
    let asking = tokio::spawn({
        let (net, north) = (south.net.clone(), north.me.node);
        async move { net.request(north, checkpoint_request()).await }
    });
    let NetEvent::Request { reply, .. } = north.event().await else { panic!("a request") };
    drop(reply);
    assert!(matches!(asking.await.expect("no panic"), Err(NetError::NoReply(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_has_no_room_says_so_and_answers_the_others() {
    const PEERS: u8 = 5;
    const REQUESTS: usize = 15;
    let north = Node::start("north", 1, Door::Open).await;
    let mut others = Vec::new();
    for number in 0..PEERS {
        others.push(Node::start(&format!("south-{number}"), 10 + number, Door::OnlyOut).await);
    }
    north.admit(&others.iter().collect::<Vec<_>>()).await;
    for other in &mut others {
        other.admit(&[&north]).await;
        other.up(vec![north.me.node]).await;
    }
    let asked = others.iter().flat_map(|other| std::iter::repeat_n(other.net.clone(), REQUESTS));
    let mut asking = tokio::task::JoinSet::new();
    for net in asked {
        let node = north.me.node;
        asking.spawn(async move { net.request(node, checkpoint_request()).await });
    }
    let busy = Ok(PeerReply::Refused(RequestRefusal::Busy));
    for _ in REQUESTS_WAITING_MAX..usize::from(PEERS) * REQUESTS {
        let answered = tokio::time::timeout(PATIENCE, asking.join_next()).await.expect("in time").expect("a request");
        assert_eq!(answered.expect("no panic"), busy, "only those without a place are answered yet");
    }
    let _streams = answering(north);
    let mut served = 0;
    while let Some(answered) = asking.join_next().await {
        assert!(matches!(answered.expect("no panic"), Ok(PeerReply::Follow(_))));
        served += 1;
    }
    assert_eq!(served, REQUESTS_WAITING_MAX);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_gets_nothing_until_it_is_admitted_and_nothing_once_it_is_removed() {
    let mut north = Node::start("north", 1, Door::Open).await;
    let mut stranger = Node::start("stranger", 3, Door::OnlyOut).await;
    let south = Node::start("south", 2, Door::OnlyOut).await;
    north.admit(&[&south]).await;
    stranger.admit(&[&north]).await;
    // The stranger's side of the handshake ends before north has refused; then the line is closed.
    let (north_id, stranger_id) = (north.me.node, stranger.me.node);
    let stranger_net = stranger.net.clone();
    let mut refused = 0;
    while refused < 2 {
        match stranger.event().await {
            NetEvent::PeerUp(_) => {
                assert!(stranger_net.request(north_id, checkpoint_request()).await.is_err());
                assert!(stranger_net.open_stream(north_id).await.is_err());
            }
            NetEvent::PeerDown(_) => refused += 1,
            other => panic!("nothing reaches a stranger: {other:?}"),
        }
    }
    assert_eq!(north.net.connected(), []);
    assert!(north.events.try_recv().is_err(), "north's protocols never heard of it");

    north.admit(&[&south, &stranger]).await;
    north.up(vec![stranger_id]).await;
    stranger.up(vec![north_id]).await;

    north.admit(&[&south]).await;
    north.down(stranger_id).await;
    stranger.down(north_id).await;
    assert_eq!(north.net.connected(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn gossip_passes_on_only_what_a_node_accepted() {
    // A line: first - middle - last; first and last do not know each other's address and cannot meet.
    let mut first = Node::start("first", 1, Door::OnlyOut).await;
    let mut middle = Node::start("middle", 2, Door::Open).await;
    let mut last = Node::start("last", 3, Door::OnlyOut).await;
    middle.admit(&[&first, &last]).await;
    first.admit(&[&middle]).await;
    last.admit(&[&middle]).await;
    first.up(vec![middle.me.node]).await;
    last.up(vec![middle.me.node]).await;
    middle.up(vec![first.me.node, last.me.node]).await;

    let wrong_and_right = [b"wrong".to_vec(), b"useless".to_vec(), b"right".to_vec()];
    let mut heard = BTreeMap::new();
    // Subscriptions travel after the connection is up, and what is published before is lost: so say it again, in
    // other words, until it is heard.
    'published: for round in 0u32.. {
        for word in &wrong_and_right {
            let message = [word.as_slice(), &round.to_be_bytes()].concat();
            first.net.publish(message).await.expect("the network runs");
        }
        loop {
            let event = tokio::time::timeout(std::time::Duration::from_millis(300), middle.events.recv()).await;
            let Ok(event) = event else { break };
            let Some(NetEvent::Gossip { from, bytes, verdict }) = event else { continue };
            assert_eq!(from, first.me.node);
            let word = bytes[..bytes.len() - 4].to_vec();
            let give = match word.as_slice() {
                b"wrong" => Verdict::Reject,
                b"useless" => Verdict::Ignore,
                _ => Verdict::Accept,
            };
            verdict.give(give).await;
            *heard.entry(word).or_insert(0) += 1;
        }
        while let Ok(event) = last.events.try_recv() {
            if let NetEvent::Gossip { from, bytes, .. } = event {
                assert_eq!(from, middle.me.node);
                assert!(bytes.starts_with(b"right"), "{:?}", String::from_utf8_lossy(&bytes));
                break 'published;
            }
        }
        assert!(round < 60, "nothing came through");
    }
    assert!(wrong_and_right.iter().all(|word| heard.get(word).is_some_and(|count| *count > 0)), "{heard:?}");
    let too_long = first.net.publish(vec![0; 200 * 1024]).await;
    assert!(matches!(too_long, Err(NetError::TooLong { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_streams_opened_at_once_all_arrive() {
    let (north, south) = pair().await;
    let (net, north_id) = (south.net.clone(), north.me.node);
    let mut streams = answering(north);
    let opened: Vec<_> = (0..64)
        .map(|_| {
            let net = net.clone();
            tokio::spawn(async move { net.open_stream(north_id).await.expect("taken") })
        })
        .collect();
    for one in opened {
        let mut stream = one.await.expect("no panic").into_inner();
        stream.write_all(b"here").await.expect("the stream is open");
        stream.close().await.expect("the stream closes");
    }
    for _ in 0..64 {
        let mut said = Vec::new();
        let stream = tokio::time::timeout(PATIENCE, streams.recv()).await.expect("in time").expect("a stream");
        assert_eq!(stream.node(), south.me.node);
        stream.into_inner().read_to_end(&mut said).await.expect("the stream was closed in order");
        assert_eq!(said, b"here");
    }
}

/// The holder only dials out, and serves streams that the other side opens.
struct Retrieval {
    host: Arc<Host>,
    sink: Arc<Sink>,
    requester: Node,
    holder: tessera_federation::retrieve::Identity,
    outcomes: tokio::sync::mpsc::Receiver<Outcome>,
    sizes: Vec<usize>,
}

impl Retrieval {
    /// `south` listens and fetches, `north` dials out and holds.
    async fn start(sizes: &[usize]) -> Self {
        let mut holder = Node::start("north", 1, Door::OnlyOut).await;
        let mut requester = Node::start("south", 2, Door::Open).await;
        holder.admit(&[&requester]).await;
        requester.admit(&[&holder]).await;
        holder.up(vec![requester.me.node]).await;
        requester.up(vec![holder.me.node]).await;
        let host = Host::new(Study::new(sizes), &requester.me);
        let server = host.server(&holder.me);
        let identity = holder.me.clone();
        let (sender, outcomes) = tokio::sync::mpsc::channel(16);
        tokio::spawn(async move {
            // The whole node, handle included: the network ends with its last handle.
            let mut holder = holder;
            while let Some(event) = holder.events.recv().await {
                if let NetEvent::Stream(stream) = event {
                    let (server, sender) = (server.clone(), sender.clone());
                    tokio::spawn(async move {
                        let outcome = server.serve(stream).await.expect("a free place");
                        // A test that is over asks no more.
                        let _ = sender.send(outcome).await;
                    });
                }
            }
        });
        let sizes = sizes.to_vec();
        Self { host, sink: Arc::default(), requester, holder: identity, outcomes, sizes }
    }

    fn fetch(&self) -> tessera_federation::net::Fetch {
        fetch_of(&self.requester.me, &self.holder, &self.sizes, &self.sink)
    }

    async fn stream(&self) -> PeerStream {
        self.requester.net.open_stream(self.holder.node).await.expect("taken")
    }

    async fn outcome(&mut self) -> Outcome {
        tokio::time::timeout(PATIENCE, self.outcomes.recv()).await.expect("in time").expect("an outcome")
    }

    fn kept(&self) -> BTreeMap<tessera_consensus::Hash, Vec<u8>> {
        self.sink.kept.lock().expect("no panic").clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_examination_crosses_the_network() {
    let mut test = Retrieval::start(&[10, MIB, 5 * MIB + 3, 100_000]).await;
    let summary = fetch(test.stream().await, test.fetch()).await.expect("allowed");
    assert_eq!(summary.held, 4);
    assert_eq!(test.kept(), test.host.study.objects);
    assert_eq!(*test.sink.readings.lock().expect("no panic"), world::readings());
    let Outcome::Finished { requester, holder } = test.outcome().await else { panic!("finished") };
    assert_eq!(*requester, summary.receipt);
    assert_eq!(Some((*holder).clone()), summary.holder_receipt);
    assert_eq!(*test.host.receipts.lock().expect("no panic"), [*holder], "written once, before it was sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_retrievals_run_side_by_side() {
    let test = Retrieval::start(&[3 * MIB, 10, 2 * MIB]).await;
    let net = test.requester.net.clone();
    let running: Vec<_> = (0..6)
        .map(|_| {
            let (net, holder, sink) = (net.clone(), test.holder.clone(), Arc::new(Sink::default()));
            let fetch = fetch_of(&test.requester.me, &holder, &test.sizes, &sink);
            tokio::spawn(async move {
                let summary = fetch_through(&net, 10, || fetch.clone()).await.expect("allowed");
                (summary.held, sink)
            })
        })
        .collect();
    for one in running {
        let (held, sink) = one.await.expect("no panic");
        assert_eq!(held, 3);
        assert_eq!(*sink.kept.lock().expect("no panic"), test.host.study.objects);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_that_is_killed_goes_on_where_it_stopped() {
    let mut test = Retrieval::start(&[60 * MIB]).await;
    let mut written = test.sink.written.subscribe();
    let running = tokio::spawn(fetch(test.stream().await, test.fetch()));
    tokio::time::timeout(PATIENCE, written.wait_for(|groups| *groups >= 5)).await.expect("in time").expect("runs");
    running.abort();
    assert!(running.await.is_err(), "killed in the middle");
    assert_eq!(test.outcome().await, Outcome::Broken);
    // The sink refuses a group that comes twice.
    let summary = fetch(test.stream().await, test.fetch()).await.expect("allowed");
    assert!(summary.reused_bytes >= 5 * MIB as u64 && summary.received_bytes <= 55 * MIB as u64, "{summary:?}");
    assert_eq!(test.kept(), test.host.study.objects);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_stops_a_running_fetch() {
    let mut test = Retrieval::start(&[200 * MIB]).await;
    let mut written = test.sink.written.subscribe();
    let running = tokio::spawn(fetch(test.stream().await, test.fetch()));
    tokio::time::timeout(PATIENCE, written.wait_for(|groups| *groups >= 5)).await.expect("in time").expect("runs");
    test.host.revoke();
    match running.await.expect("no panic") {
        Err(Failure::Refused(signed)) => assert_eq!(signed.refusal.code, RefusalCode::DENIED),
        other => panic!("expected a refusal: {other:?}"),
    }
    assert!(matches!(test.outcome().await, Outcome::Refused { code: RefusalCode::DENIED, .. }));
    let again = fetch_through(&test.requester.net, 3, || test.fetch()).await;
    assert!(matches!(again, Err(Failure::Refused(_))), "a denial is not tried again: {again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_is_behind_catches_up_before_it_decides() {
    let test = Retrieval::start(&[10]).await;
    let mut fetching = test.fetch();
    fetching.intent.seen = seen(50, T0);
    let summary = fetch(test.stream().await, fetching).await.expect("caught up, then allowed");
    assert_eq!((summary.held, test.host.caught_up.load(Ordering::SeqCst)), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_is_cut_off_is_asked_once_and_a_line_that_breaks_is_tried_again() {
    let mut test = Retrieval::start(&[10]).await;
    test.host.clock_ms.store(world::LIMIT_MS + 1, Ordering::SeqCst);
    let mut changes = test.host.changes.subscribe();
    let asking = tokio::spawn({
        let (net, fetch) = (test.requester.net.clone(), test.fetch());
        async move { fetch_through(&net, 5, || fetch.clone()).await }
    });
    // It tries to catch up, and then its patience is over.
    tokio::time::timeout(PATIENCE, changes.changed()).await.expect("in time").expect("the holder runs");
    test.host.clock_ms.fetch_add(CATCH_UP_TIMEOUT_MS + 1, Ordering::SeqCst);
    match tokio::time::timeout(PATIENCE, asking).await.expect("one answer, at once").expect("no panic") {
        Err(Failure::Refused(signed)) => assert_eq!(signed.refusal.code, RefusalCode::STALE),
        other => panic!("expected a refusal: {other:?}"),
    }
    assert!(matches!(test.outcome().await, Outcome::Refused { code: RefusalCode::STALE, .. }));
    assert_eq!(test.host.caught_up.load(Ordering::SeqCst), 1, "it was asked once");

    // A session that somebody cuts, twice: the third attempt brings everything.
    test.host.clock_ms.store(1_000, Ordering::SeqCst);
    let net = test.requester.net.clone();
    let mut attempts = 0;
    let summary = fetch_through(&net, 5, || {
        attempts += 1;
        let mut fetch = test.fetch();
        // A stream to nobody is one that breaks.
        if attempts < 3 {
            fetch.intent.holder = world::identity("nobody", 9).node;
        }
        fetch
    });
    assert_eq!(summary.await.expect("allowed").held, 1);
    assert_eq!(attempts, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_a_retrieval_stream_ends_it_and_nothing_else() {
    let mut test = Retrieval::start(&[10]).await;
    let oversized = [1, 0xff, 0xff, 0xff, 0xff];
    let unknown_kind = [77, 0, 0, 0, 1, 0];
    let not_a_message = [1, 0, 0, 0, 2, 0xff, 0xff];
    let data_from_a_requester = [2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 9];
    let garbage: [&[u8]; 4] = [&oversized, &unknown_kind, &not_a_message, &data_from_a_requester];
    for bytes in garbage {
        let mut stream = test.stream().await.into_inner();
        stream.write_all(bytes).await.expect("written");
        stream.flush().await.expect("flushed");
        let mut said = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut said)).await.expect("in time");
        assert!(ended.is_ok() || said.len() < 100, "only the greeting came: {said:?}");
        assert!(matches!(test.outcome().await, Outcome::Breach(_) | Outcome::Garbage(_)), "{bytes:?}");
    }
    let summary = fetch(test.stream().await, test.fetch()).await.expect("others are served");
    assert_eq!(summary.held, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_in_a_request_is_named_with_its_sender_and_ends_nothing_else() {
    let (mut north, south) = pair().await;
    let rude = Node::start("rude", 7, Door::OnlyOut).await;
    north.admit(&[&south, &rude]).await;
    let (mut control, peer) = rude::connect(&rude, &north).await;
    let garbage: [(&[u8], Option<&str>); 7] = [
        (&[0xff; 4], Some("request of a peer: 4294967295 bytes, at most")),
        (&[0, 0, 0, 2, 9, 9], Some("format version 9 is not known")),
        (&[0, 0, 0, 3, 1, 0, 7], Some("the bytes are not of this format")),
        // A million submissions, and none of them; the same behind a length that says so.
        (&[0, 0, 0, 5, 1, 1, 0xc0, 0x84, 0x3d], Some("the bytes are not of this format")),
        (&[0, 0, 0, 7, 1, 0, 1, 0x87, 0x00, 0xac, 0x02], Some("the bytes are not in canonical form")),
        (&[0, 0, 0, 0], Some("the bytes are not of this format")),
        // What is cut off may be the line's doing, and is nobody's fault.
        (&[0, 0, 1, 0, 1, 0], None),
    ];
    for (bytes, expected) in garbage {
        let mut stream = control.open_stream(peer, rude::FOLLOW).await.expect("opened");
        stream.write_all(bytes).await.expect("written");
        stream.close().await.expect("closed");
        let mut said = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut said)).await.expect("in time");
        assert!(ended.is_err() || said.is_empty(), "nothing is answered: {said:?}");
        let Some(expected) = expected else { continue };
        loop {
            match north.event().await {
                NetEvent::Garbage { from, why } => {
                    assert_eq!(from, rude.me.node);
                    assert!(why.contains(expected), "{why} should say {expected}");
                    break;
                }
                NetEvent::PeerUp(_) => {}
                other => panic!("garbage is no {other:?}"),
            }
        }
    }
    let (net, north_id) = (south.net.clone(), north.me.node);
    let _streams = answering(north);
    assert!(net.request(north_id, checkpoint_request()).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_in_an_answer_is_told_from_a_line_that_broke() {
    let (mut north, south) = pair().await;
    let rude = Node::start("rude", 7, Door::OnlyOut).await;
    north.admit(&[&south, &rude]).await;
    let (control, _) = rude::connect(&rude, &north).await;
    north.up(vec![rude.me.node]).await;
    let honest = PeerReply::Follow(FollowReply::Checkpoint { note: None }).to_bytes();
    let framed = |bytes: &[u8]| [&(bytes.len() as u32).to_be_bytes(), bytes].concat();
    let long_note = PeerReply::Follow(FollowReply::Checkpoint { note: Some("x".repeat(70_000)) }).to_bytes();
    let cases: Vec<(Vec<u8>, Result<(), &str>)> = vec![
        (framed(&honest), Ok(())),
        (vec![0xff; 4], Err("Garbage: reply of a peer: 4294967295 bytes, at most")),
        (framed(&[7, 0, 0, 0]), Err("Garbage: reply of a peer: format version 7 is not known")),
        (framed(&[1, 9]), Err("Garbage: reply of a peer: the bytes are not of this format")),
        (framed(&long_note), Err("Garbage: reply of a peer: a checkpoint's note of more than 65536 bytes")),
        // Entries in number beyond all bounds, and none of them there.
        (framed(&[1, 0, 1, 0, 0xff, 0xff, 0xff, 0xff, 0x0f]), Err("Garbage: reply of a peer: the bytes are not")),
        // Announced and not sent; said to be short, and not blamed on the peer.
        ([&[0, 0, 1, 0][..], &honest].concat(), Err("NoReply: reply of a peer: it ended within 0 to 256 of its 256")),
        (Vec::new(), Err("NoReply: ")),
    ];
    rude::answer_with(control, cases.iter().map(|(bytes, _)| bytes.clone()).collect());
    for (bytes, expected) in &cases {
        let asked = north.net.request(rude.me.node, checkpoint_request());
        let answer = tokio::time::timeout(PATIENCE, asked).await.expect("in time");
        let said = match &answer {
            Ok(_) => Ok(()),
            Err(NetError::Garbage(why)) => Err(format!("Garbage: {why}")),
            Err(NetError::NoReply(why)) => Err(format!("NoReply: {why}")),
            Err(other) => panic!("{other:?}"),
        };
        match (said, expected) {
            (Ok(()), Ok(())) => {}
            (Err(said), Err(expected)) => assert!(said.starts_with(expected), "{said} should begin {expected}"),
            (said, _) => panic!("{:?}...: {said:?}", &bytes[..bytes.len().min(16)]),
        }
    }
    let (net, south_id) = (north.net.clone(), south.me.node);
    let _streams = answering(south);
    assert!(net.request(south_id, checkpoint_request()).await.is_ok(), "others are asked and answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_cannot_start_says_why() {
    use tessera_federation::net::{Net, NetConfig};
    for (listen, expected) in [
        ("nonsense", "\"nonsense\" is not a multiaddress; write for example /ip4/0.0.0.0/tcp/4001"),
        ("/ip4/192.0.2.1/tcp/1", "cannot listen on /ip4/192.0.2.1/tcp/1: "),
    ] {
        let config = NetConfig {
            federation: world::federation(),
            node: world::identity("north", 1).node,
            transport_seed: [1; 32],
            listen: vec![listen.into()],
            extra_addresses: BTreeMap::new(),
        };
        let error = Net::start(config).await.map(drop).expect_err("cannot listen there");
        assert!(error.to_string().starts_with(expected), "{error}");
    }
}

//! A holder that lies, over real libp2p streams: whatever it changes is found out before it is written, named, and ends
//! the session; what came before and was right is resumed from the honest holder, and nothing else is fetched twice.
//!
//! The liar runs the real holder's machine and changes frames on their way out.

use std::sync::Arc;

use futures::{AsyncReadExt, AsyncWriteExt};
use tessera_consensus::Hash;
use tessera_federation::net::{Fetch, HolderHost, NetEvent, PeerStream, fetch};
use tessera_federation::retrieve::frame::{DATA_PREFIX_BYTES, Frame, HEADER_BYTES, Header};
use tessera_federation::retrieve::groups::GROUP_BYTES;
use tessera_federation::retrieve::wire::v1::{Challenge, Receipt, ToHolder, ToRequester, UnavailableCode};
use tessera_federation::retrieve::{Failure, HolderInput, HolderOutput, HolderSession, HolderView, Identity, Outcome};
use tessera_federation::wire::Format;
use tessera_federation::wire::v1::{Manifest, ObjectContent};

use super::node::{Door, Host, Node, PATIENCE, Sink, fetch_of};
use super::world::{Study, uid};

const MIB: usize = 1024 * 1024;
/// Two objects of several groups and a small one.
const SIZES: [usize; 3] = [3 * MIB, 100, 2 * MIB + 5];

/// Changes the frames that the holder sends, in their order; each may become none, one or several.
type Lie = Box<dyn FnMut(Frame<ToRequester>) -> Vec<Vec<u8>> + Send>;

fn bytes_of(frame: Frame<ToRequester>) -> Vec<u8> {
    let (mut bytes, rest) = frame.to_parts();
    bytes.extend_from_slice(&rest);
    bytes
}

/// A lie that changes one frame's content.
fn changing(mut change: impl FnMut(&mut Frame<ToRequester>) + Send + 'static) -> Lie {
    Box::new(move |mut frame| {
        change(&mut frame);
        vec![bytes_of(frame)]
    })
}

async fn read_frame(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<Frame<ToHolder>> {
    let mut head = [0; HEADER_BYTES];
    stream.read_exact(&mut head).await.ok()?;
    let header = Header::parse(head).expect("an honest requester");
    let mut prefix = [0; DATA_PREFIX_BYTES];
    stream.read_exact(&mut prefix[..header.prefix_bytes()]).await.ok()?;
    let mut body = vec![0; header.body_bytes()];
    stream.read_exact(&mut body).await.ok()?;
    Some(Frame::from_parts(header, prefix, body).expect("an honest requester"))
}

/// A liar that nobody reads any more: it writes and reads in turns, and so waits for room that never comes.
const GONE: std::time::Duration = std::time::Duration::from_secs(1);

/// Lies are about offers without readings, which say the same of the images.
fn plain_offer(frame: Frame<ToRequester>) -> Frame<ToRequester> {
    match frame {
        Frame::Control(ToRequester::OfferWithReadings { disclosure, manifest, salt, .. }) => {
            Frame::Control(ToRequester::Offer { disclosure, manifest, salt })
        }
        other => other,
    }
}

/// Serves one stream with the holder's own machine, and lies.
async fn serve_lying(host: &Host, me: &Identity, stream: PeerStream, mut lie: Lie) -> Option<Outcome> {
    let peer = stream.node();
    let mut stream = stream.into_inner();
    let challenge = Challenge::from_bytes([7; 32]);
    let (mut session, mut outputs) = HolderSession::open(host.now(), me.clone(), peer, challenge);
    loop {
        let mut answers = Vec::new();
        for output in std::mem::take(&mut outputs) {
            match output {
                HolderOutput::Send(frame) => {
                    let is_data = matches!(frame, Frame::Data { .. });
                    for bytes in lie(plain_offer(frame)) {
                        // The requester may have closed the stream on the lie before.
                        tokio::time::timeout(GONE, stream.write_all(&bytes)).await.ok()?.ok()?;
                    }
                    tokio::time::timeout(GONE, stream.flush()).await.ok()?.ok()?;
                    answers.extend(is_data.then_some(HolderInput::DataSent));
                }
                HolderOutput::Hold
                | HolderOutput::Resume
                | HolderOutput::DiscardUnsent
                | HolderOutput::CatchUp { .. } => {}
                HolderOutput::Decide(facts) => answers.push(HolderInput::Decided(host.decide(&facts))),
                HolderOutput::WriteDisclosure(disclosure) => {
                    let written = host.write_disclosure(&disclosure).expect("a disk");
                    answers.push(HolderInput::DisclosureDurable(written));
                }
                HolderOutput::WriteReceipt(_) => answers.push(HolderInput::ReceiptDurable),
                HolderOutput::ReadHashes { object, hash, size } => {
                    answers.push(HolderInput::HashesRead { object, hashes: host.group_hashes(&hash, size) });
                }
                HolderOutput::ReadGroup { object, group, hash, size } => {
                    answers.push(HolderInput::GroupRead { object, group, bytes: host.read_group(&hash, size, group) });
                }
                HolderOutput::End(outcome) => {
                    stream.close().await.ok()?;
                    return Some(*outcome);
                }
            }
        }
        if answers.is_empty() {
            answers.push(match read_frame(&mut stream).await {
                Some(frame) => HolderInput::Received(frame),
                None => HolderInput::Closed,
            });
        }
        for answer in answers {
            outputs.extend(session.step(host.now(), answer, host as &dyn HolderView));
        }
    }
}

/// A requester, and a holder that lies once and is honest from then on.
struct Trial {
    requester: Node,
    holder: Identity,
    host: Arc<Host>,
    sink: Arc<Sink>,
    first: tokio::sync::oneshot::Receiver<Option<Outcome>>,
}

impl Trial {
    async fn begin(lie: Lie) -> Self {
        let mut north = Node::start("north", 1, Door::OnlyOut).await;
        let mut south = Node::start("south", 2, Door::Open).await;
        north.admit(&[&south]).await;
        south.admit(&[&north]).await;
        north.up(vec![south.me.node]).await;
        south.up(vec![north.me.node]).await;
        let host = Host::new(Study::new(&SIZES), &south.me);
        let (holder, serving) = (north.me.clone(), host.clone());
        let (told, first) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            // The whole node, handle included: the network ends with its last handle.
            let mut north = north;
            let mut lie = Some((lie, told));
            let server = serving.server(&north.me);
            while let Some(event) = north.events.recv().await {
                let NetEvent::Stream(stream) = event else { continue };
                match lie.take() {
                    Some((lie, told)) => {
                        let (serving, me) = (serving.clone(), north.me.clone());
                        // Beside the loop: the liar may still write when the requester asks anew.
                        tokio::spawn(async move {
                            // A test that has failed asks no more.
                            let _ = told.send(serve_lying(&serving, &me, stream, lie).await);
                        });
                    }
                    None => drop(server.serve(stream).await.expect("a free place")),
                }
            }
        });
        Self { requester: south, holder, host, sink: Arc::default(), first }
    }

    fn fetch(&self) -> Fetch {
        fetch_of(&self.requester.me, &self.holder, &SIZES, &self.sink)
    }

    async fn stream(&self) -> PeerStream {
        self.requester.net.open_stream(self.holder.node).await.expect("taken")
    }

    /// Groups of objects that are not whole, and whole objects; each with its bytes right.
    fn in_the_sink(&self) -> (usize, usize) {
        let study = &self.host.study.objects;
        let groups = self.sink.groups.lock().expect("no panic");
        for (hash, groups) in groups.iter() {
            for (group, bytes) in groups {
                let from = *group as usize * GROUP_BYTES;
                assert_eq!(bytes, &study[hash][from..from + bytes.len()], "a wrong group was written");
            }
        }
        let kept = self.sink.kept.lock().expect("no panic");
        assert!(kept.iter().all(|(hash, bytes)| study[hash] == *bytes), "a wrong object was kept");
        (groups.values().map(|groups| groups.len()).sum(), kept.len())
    }
}

fn hash_of(number: usize) -> Hash {
    let Study { manifest, .. } = Study::new(&SIZES);
    match manifest.objects[number].content {
        ObjectContent::Verified { hash, .. } => hash,
        ObjectContent::Declared => unreachable!("all are verified"),
    }
}

/// The manifest as the honest holder would offer it, changed.
fn on_offer(change: impl Fn(&mut Manifest, &mut [u8; 16]) + Send + 'static) -> Lie {
    changing(move |frame| {
        if let Frame::Control(ToRequester::Offer { manifest, salt, .. }) = frame {
            let mut changed = Manifest::from_bytes(manifest).expect("a manifest");
            change(&mut changed, salt);
            *manifest = changed.to_bytes();
        }
    })
}

/// A lie, and what the requester says of it.
type Case = (&'static str, Failure, Lie);

fn unasked() -> Failure {
    Failure::Breach("a group that was not asked for")
}

/// A flipped byte in one group of the first object.
fn flipped(which: u32, place: usize) -> Lie {
    changing(move |frame| {
        if let Frame::Data { object: 0, group, bytes } = frame
            && *group == which
        {
            bytes[place] ^= 1;
        }
    })
}

/// Wrong bytes, and groups in the wrong place or number.
fn data_lies() -> Vec<Case> {
    let (hash, sop_instance) = (hash_of(0), uid("1.2.3.1.100"));
    let wrong = |group| Failure::WrongGroup { sop_instance: sop_instance.clone(), hash, group };
    let cut_short = changing(|frame| {
        if let Frame::Data { object: 0, group: 1, bytes } = frame {
            bytes.pop();
        }
    });
    let other_object = changing(|frame| match frame {
        Frame::Data { object, .. } if *object != 1 => *object = 2 - *object,
        _ => {}
    });
    let exchanged = changing(|frame| {
        if let Frame::Data { object: 0, group: group @ (0 | 1), .. } = frame {
            *group = 1 - *group;
        }
    });
    let twice: Lie = Box::new(|frame| {
        let twice = matches!(frame, Frame::Data { object: 0, group: 0, .. });
        let bytes = bytes_of(frame);
        if twice { vec![bytes.clone(), bytes] } else { vec![bytes] }
    });
    let beyond = changing(|frame| {
        if let Frame::Data { object: 0, group, .. } = frame {
            *group += 100;
        }
    });
    vec![
        ("a flipped byte in the first group", wrong(0), flipped(0, 77)),
        ("a flipped byte at the end of a later group", wrong(2), flipped(2, MIB - 1)),
        ("a group cut short", wrong(1), cut_short),
        ("another object's group", Failure::Breach("a group before its hashes"), other_object),
        ("two groups of one object exchanged", wrong(1), exchanged),
        ("a group twice", unasked(), twice),
        ("a group that the object does not have", unasked(), beyond),
    ]
}

/// A lie about the group hashes of the first object.
fn on_hashes(change: impl Fn(&mut Vec<u8>) + Send + 'static) -> Lie {
    changing(move |frame| {
        if let Frame::Control(ToRequester::Hashes { object: 0, hashes }) = frame {
            change(hashes);
        }
    })
}

fn hash_lies() -> Vec<Case> {
    let wrong = || Failure::WrongHashes { sop_instance: uid("1.2.3.1.100"), hash: hash_of(0) };
    let others = on_hashes(|hashes| {
        let Study { objects, .. } = Study::new(&[MIB, 3 * MIB]);
        let other = objects.values().find(|bytes| bytes.len() == 3 * MIB).expect("it is there");
        *hashes = (0..3).flat_map(|group| chaining_value(other, group)).collect();
    });
    vec![
        ("group hashes with a flipped byte", wrong(), on_hashes(|hashes| hashes[40] ^= 1)),
        ("group hashes of another object", wrong(), others),
        ("too few group hashes", wrong(), on_hashes(|hashes| hashes.truncate(64))),
    ]
}

fn offer_lies() -> Vec<Case> {
    let commitment = Study::new(&SIZES).manifest.commitment(&super::world::SALT);
    let wrong = || Failure::WrongManifest { commitment };
    let size = on_offer(|manifest, _| {
        if let ObjectContent::Verified { bytes, .. } = &mut manifest.objects[0].content {
            *bytes += 1;
        }
    });
    let order = on_offer(|manifest, _| {
        let content = manifest.objects[0].content.clone();
        manifest.objects[0].content = std::mem::replace(&mut manifest.objects[2].content, content);
    });
    let none = changing(|frame| {
        if let Frame::Control(ToRequester::Offer { manifest, .. }) = frame {
            manifest.truncate(10);
        }
    });
    vec![
        ("the manifest with another object's size", wrong(), size),
        ("another study's manifest", wrong(), on_offer(|manifest, _| manifest.study_uid = uid("1.2.3.99"))),
        ("another revision's manifest", wrong(), on_offer(|manifest, _| manifest.revision += 1)),
        ("an object less", wrong(), on_offer(|manifest, _| drop(manifest.objects.pop()))),
        ("the objects in another order", wrong(), order),
        ("another salt", wrong(), on_offer(|_, salt| salt[0] ^= 1)),
        ("a manifest that is none", wrong(), none),
    ]
}

/// A lie in the holder's receipt.
fn on_receipt(change: impl Fn(&mut Receipt) + Send + 'static) -> Lie {
    changing(move |frame| {
        if let Frame::Control(ToRequester::Receipt(signed)) = frame {
            change(&mut signed.receipt);
        }
    })
}

fn other_lies() -> Vec<Case> {
    let receipt = || Failure::Breach("a receipt for something else");
    let lost: Lie = Box::new(|frame| {
        let is_data = matches!(frame, Frame::Data { .. });
        let unavailable = ToRequester::Unavailable { object: 9, code: UnavailableCode::DAMAGED };
        let bytes = bytes_of(frame);
        if is_data { vec![bytes_of(Frame::Control(unavailable)), bytes] } else { vec![bytes] }
    });
    let others = on_receipt(|receipt| receipt.transcript = Hash::blake3(&[b"others"]));
    let false_signature = on_receipt(|receipt| receipt.time = receipt.time.plus_ms(1));
    vec![
        ("an object that is not there is said to be lost", Failure::Breach("an object that was not asked for"), lost),
        ("the receipt for other objects", receipt(), others),
        ("the receipt with a false signature", receipt(), false_signature),
    ]
}

/// The chaining value of a group of an object of three.
fn chaining_value(bytes: &[u8], group: usize) -> [u8; 32] {
    let cut = &bytes[group * GROUP_BYTES..][..GROUP_BYTES];
    tessera_federation::retrieve::groups::group_hash(bytes.len() as u64, group as u32, cut).expect("a group")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_lie_of_a_holder_is_named_and_what_was_right_is_resumed() {
    let lies = [data_lies(), hash_lies(), offer_lies(), other_lies()];
    for (name, expected, lie) in lies.into_iter().flatten() {
        let trial = Trial::begin(lie).await;
        let running = tokio::time::timeout(PATIENCE, fetch(trial.stream().await, trial.fetch()));
        let failure = running.await.unwrap_or_else(|_| panic!("{name}: no answer in time")).expect_err(name);
        assert_eq!(failure, expected, "{name}");
        assert!(failure.is_holders_fault(), "{name}: {failure}");
        let told = failure.to_string();
        assert!(told.contains("tell the holder's operator"), "{name}: {told}");
        let (groups, kept) = trial.in_the_sink();
        let again = tokio::time::timeout(PATIENCE, fetch(trial.stream().await, trial.fetch()));
        let summary = again.await.unwrap_or_else(|_| panic!("{name}: not in time")).expect(name);
        assert_eq!((summary.held, trial.in_the_sink()), (3, (0, 3)), "{name}");
        // The sink refuses a group that comes twice, so what it had was not fetched again.
        let (reused, had) = (summary.reused_bytes as usize, groups + kept);
        assert!(had == 0 || reused > 0, "{name}: {had} groups and objects were there, {reused} bytes reused");
        let ended = tokio::time::timeout(PATIENCE, trial.first).await;
        let outcome = ended.unwrap_or_else(|_| panic!("{name}: the liar does not end")).expect("the liar ended");
        let knows = matches!(outcome, None | Some(Outcome::Stopped(_) | Outcome::Broken | Outcome::Finished { .. }));
        assert!(knows, "{name}: {outcome:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_beyond_their_bounds_are_named_and_cost_no_memory() {
    let raw: [(&str, Vec<u8>); 5] = [
        ("a frame of 4294967295 bytes, at most", vec![2, 0xff, 0xff, 0xff, 0xff]),
        ("a frame of 1048577 bytes, at most 1048576", vec![2, 0, 0x10, 0, 1]),
        ("frame kind 9 is not known", vec![9, 0, 0, 0, 0]),
        ("the bytes are not of this format", vec![1, 0, 0, 0, 2, 0xff, 0xff]),
        // Reasons without end in a refusal that is no refusal.
        ("the bytes are not of this format", [&[1, 0, 0, 0, 3][..], &[1, 0xff, 0xff]].concat()),
    ];
    for (expected, bytes) in raw {
        let mut sent = false;
        let trial = Trial::begin(Box::new(move |frame| {
            let offer = matches!(frame, Frame::Control(ToRequester::Offer { .. }));
            match offer && !std::mem::replace(&mut sent, offer) {
                true => vec![bytes.clone()],
                false => vec![bytes_of(frame)],
            }
        }))
        .await;
        let running = tokio::time::timeout(PATIENCE, fetch(trial.stream().await, trial.fetch()));
        let failure = running.await.expect("in time").expect_err(expected);
        assert!(matches!(failure, Failure::Garbage(_)), "{expected}: {failure:?}");
        assert!(failure.to_string().contains(expected), "{failure} should say {expected}");
        assert_eq!(fetch(trial.stream().await, trial.fetch()).await.expect("honest now").held, 3);
    }
}

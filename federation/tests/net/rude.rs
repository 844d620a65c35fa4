//! A member that speaks libp2p but not our protocols: a bare swarm with an admitted key, whose bytes are all the test's.

use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::{PeerId, StreamProtocol, SwarmBuilder, identity, noise, swarm::SwarmEvent, tcp, yamux};
use libp2p_stream::Control;

use super::node::{Node, PATIENCE};

pub const FOLLOW: StreamProtocol = StreamProtocol::new("/tessera/follow/1");

/// Connects with the transport key of `who`, whom `north` has admitted.
pub async fn connect(who: &Node, north: &Node) -> (Control, PeerId) {
    let keypair = identity::Keypair::ed25519_from_bytes(who.transport().seed()).expect("a key");
    let mut swarm = SwarmBuilder::with_existing_identity(keypair)
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .expect("a transport")
        .with_behaviour(|_| libp2p_stream::Behaviour::new())
        .expect("a behaviour")
        .with_swarm_config(|config| config.with_idle_connection_timeout(PATIENCE))
        .build();
    let control = swarm.behaviour().new_control();
    let address: libp2p::Multiaddr = north.net.listening()[0].parse().expect("an address");
    swarm.dial(address).expect("dialled");
    let (connected, established) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let mut connected = Some(connected);
        loop {
            if let SwarmEvent::ConnectionEstablished { peer_id, .. } = swarm.select_next_some().await
                && let Some(connected) = connected.take()
            {
                connected.send(peer_id).expect("the test waits");
            }
        }
    });
    (control, established.await.expect("connected"))
}

/// Answers each request with the next of these bytes, whatever was asked, and closes its side.
pub fn answer_with(mut control: Control, answers: Vec<Vec<u8>>) {
    let mut incoming = control.accept(FOLLOW).expect("nobody else accepts");
    tokio::spawn(async move {
        for bytes in answers {
            let (_, mut stream) = incoming.next().await.expect("a request");
            let mut length = [0; 4];
            stream.read_exact(&mut length).await.expect("a length");
            let mut request = vec![0; u32::from_be_bytes(length) as usize];
            stream.read_exact(&mut request).await.expect("a request");
            stream.write_all(&bytes).await.expect("written");
            stream.close().await.expect("closed");
        }
        // Further requests wait for nobody.
        std::future::pending::<()>().await;
    });
}

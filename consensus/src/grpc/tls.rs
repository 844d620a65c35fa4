//! Who may speak on the core's network: exactly the holders of pinned transport keys (DESIGN section 5, Membership).
//!
//! Certificates are self-signed wrappings of an Ed25519 key; no authority outside the federation vouches for
//! anybody, so names and dates in them mean nothing and are not looked at. Invariants:
//! 1. TLS 1.3 only, both sides prove their key; a stranger's handshake fails.
//! 2. The set of keys is shared and changes under running connections: each call asks it again, so that a removed
//!    member's open connection is worth nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
};

use crate::ids::NodeId;
use crate::keys::{KeyAlgorithm, PublicKey, SigningKey};
use crate::raft::types::RaftId;

/// SubjectPublicKeyInfo of an Ed25519 key up to the key itself (RFC 8410, section 4).
const ED25519_SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// PKCS#8 version 1 of an Ed25519 seed up to the seed itself (RFC 8410, section 7).
const ED25519_PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
/// The only protocol spoken inside.
const ALPN_HTTP2: &[u8] = b"h2";

/// Who holds a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub node: NodeId,
    /// Its seat, if it is a core node.
    pub seat: Option<RaftId>,
}

/// The keys that may connect. Clones share one set; `node` keeps it equal to the ledger's active membership.
#[derive(Clone, Debug, Default)]
pub struct Allowed {
    peers: Arc<RwLock<BTreeMap<PublicKey, Peer>>>,
}

impl Allowed {
    pub fn new(peers: impl IntoIterator<Item = (PublicKey, Peer)>) -> Self {
        let allowed = Self::default();
        allowed.replace(peers);
        allowed
    }

    /// Puts another set in place of the present one; it counts from the next handshake and the next call.
    pub fn replace(&self, peers: impl IntoIterator<Item = (PublicKey, Peer)>) {
        *self.peers.write().unwrap_or_else(PoisonError::into_inner) = peers.into_iter().collect();
    }

    pub fn get(&self, key: &PublicKey) -> Option<Peer> {
        self.peers.read().unwrap_or_else(PoisonError::into_inner).get(key).copied()
    }
}

/// Why this node's own certificate or configuration could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the transport certificate could not be made: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("TLS could not be set up: {0}")]
    Config(#[from] Error),
}

/// This node's certificate and key for the core's network.
pub struct Identity {
    certificate: CertificateDer<'static>,
    seed: [u8; 32],
}

impl Identity {
    /// Wraps the transport key in a self-signed certificate.
    pub fn new(transport: &SigningKey) -> Result<Self, TlsError> {
        let seed = transport.seed();
        let (certificate, _) = self_signed(seed)?;
        Ok(Self { certificate, seed })
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(pkcs8(&self.seed))
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        self.seed.fill(0);
    }
}

fn pkcs8(seed: &[u8; 32]) -> PrivatePkcs8KeyDer<'static> {
    let mut der = ED25519_PKCS8_PREFIX.to_vec();
    der.extend_from_slice(seed);
    PrivatePkcs8KeyDer::from(der)
}

/// A self-signed certificate of the transport key with this seed, and the key as TLS takes it.
pub fn self_signed(seed: [u8; 32]) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), TlsError> {
    let der = pkcs8(&seed);
    let pair = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_ED25519)?;
    let certificate = rcgen::CertificateParams::new(Vec::new())?.self_signed(&pair)?;
    Ok((certificate.der().clone(), PrivateKeyDer::Pkcs8(der)))
}

/// The Ed25519 key of a certificate.
pub fn certificate_key(certificate: &CertificateDer<'_>) -> Result<PublicKey, Error> {
    let info = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
    let key = info.as_ref().strip_prefix(&ED25519_SPKI_PREFIX).and_then(|key| <[u8; 32]>::try_from(key).ok());
    let key = key.ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
    Ok(PublicKey::from_parts(KeyAlgorithm::Ed25519, key))
}

/// Which keys a side of the connection takes.
#[derive(Debug)]
enum Pin {
    /// A server: any key of the set.
    Any(Allowed),
    /// A client: the one that it dialled.
    One(Allowed, NodeId),
}

/// Accepts a certificate for its key alone.
#[derive(Debug)]
struct Pinned {
    pin: Pin,
    provider: Arc<CryptoProvider>,
}

impl Pinned {
    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        let key = certificate_key(certificate)?;
        let known = match &self.pin {
            Pin::Any(allowed) => allowed.get(&key).is_some(),
            Pin::One(allowed, node) => allowed.get(&key).is_some_and(|peer| peer.node == *node),
        };
        let unknown = Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
        if known { Ok(()) } else { Err(unknown) }
    }

    fn check_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }
}

fn no_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::General("TLS 1.2 is not spoken here".into()))
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

impl ClientCertVerifier for Pinned {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// What a core node listens with.
pub fn server_config(identity: &Identity, allowed: Allowed) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = provider();
    let verifier = Arc::new(Pinned { pin: Pin::Any(allowed), provider: provider.clone() });
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![identity.certificate.clone()], identity.key())?;
    config.alpn_protocols = vec![ALPN_HTTP2.to_vec()];
    // A resumed session would skip the check of the key.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// What dials the core node `node`.
pub fn client_config(identity: &Identity, allowed: Allowed, node: NodeId) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = provider();
    let verifier = Arc::new(Pinned { pin: Pin::One(allowed, node), provider: provider.clone() });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(vec![identity.certificate.clone()], identity.key())?;
    config.alpn_protocols = vec![ALPN_HTTP2.to_vec()];
    config.enable_sni = false;
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

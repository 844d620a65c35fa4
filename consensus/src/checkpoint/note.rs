//! Cosignatures and the signed note that carries them: C2SP tlog-cosignature (`cosignature/v1`) and C2SP signed-note.
//!
//! A note is the checkpoint's text, an empty line, and one line for each cosignature:
//! `— <key name> base64(key id ‖ time ‖ signature)`, where the dash is U+2014, the key id the first four bytes of
//! SHA-256(name ‖ newline ‖ 0x04 ‖ key), and the time eight bytes big endian, in seconds. What is signed is
//! `cosignature/v1`, `time <seconds>` and the checkpoint's text, each line ended by a newline.
//!
//! Stricter than C2SP, which lets a reader skip what it does not know: signature lines stand in order of name and key
//! id, each signer once, all of this one type, so that one set of cosignatures has one text and one hash. Another
//! signature type, the national suite's say, comes with a new version of this format. Parsing verifies nothing.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Checkpoint, CheckpointError};
use crate::ids::{Hash, UnixMillis};
use crate::keys::{KeyAlgorithm, KeyError, PublicKey, Signature, SigningKey};

/// Cosignatures on one checkpoint: a core of seven and its witnesses. C2SP asks for at least 16.
pub const COSIGNATURES_MAX: usize = 64;
/// One signed note.
pub const NOTE_BYTES_MAX: usize = 16 * 1024;
/// A signer's name, as in its join command.
pub const SIGNER_NAME_BYTES_MAX: usize = 64;

const COSIGNATURE_TYPE: u8 = 0x04;
/// Key id, time, Ed25519 signature.
const COSIGNATURE_BYTES: usize = 4 + 8 + 64;
const DASH: &str = "\u{2014} ";

/// The name of a signer's key: 1 to 64 of `a-z 0-9 - .`, as in the join command.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SignerName(String);

impl SignerName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for SignerName {
    type Error = CosignatureError;
    fn try_from(name: String) -> Result<Self, CosignatureError> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
        if (1..=SIGNER_NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(allowed) {
            Ok(Self(name))
        } else {
            Err(CosignatureError::Name)
        }
    }
}

impl FromStr for SignerName {
    type Err = CosignatureError;
    fn from_str(name: &str) -> Result<Self, CosignatureError> {
        Self::try_from(name.to_owned())
    }
}

impl From<SignerName> for String {
    fn from(name: SignerName) -> String {
        name.0
    }
}

impl fmt::Display for SignerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SignerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Tells a signer's keys apart; short, and no proof of anything.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyId([u8; 4]);

impl KeyId {
    pub fn new(name: &SignerName, key: &PublicKey) -> Self {
        let hash = Hash::sha256(&[name.0.as_bytes(), b"\n", &[COSIGNATURE_TYPE], key.as_bytes()]);
        let [a, b, c, d, ..] = *hash.as_bytes();
        Self([a, b, c, d])
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

/// One signer's statement: at this time, by my clock, this checkpoint was the largest that I had applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cosignature {
    name: SignerName,
    key_id: KeyId,
    time_seconds: u64,
    signature: Signature,
}

/// Why a line is not a cosignature, or a cosignature not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CosignatureError {
    #[error("a signer's name has 1 to 64 of a-z, 0-9, - and .")]
    Name,
    #[error("a signature line is an em dash, a name, and base64, parted by single spaces")]
    Line,
    #[error("a cosignature/v1 has 76 bytes, this one {0}")]
    Length(usize),
    #[error("a cosignature's time is below 2^63 seconds")]
    Time,
    #[error("the cosignature names key {got:?} of {name}, which signs with {expected:?}")]
    KeyId { name: SignerName, expected: KeyId, got: KeyId },
    #[error("the cosignature of {name} does not belong to this checkpoint and time")]
    Signature { name: SignerName, source: KeyError },
}

/// Signs `checkpoint`. Only a [`super::SigningGuard`] that is on disk makes this safe to send.
pub fn cosign(checkpoint: &Checkpoint, name: &SignerName, key: &SigningKey, time_seconds: u64) -> Cosignature {
    Cosignature {
        name: name.clone(),
        key_id: KeyId::new(name, &key.public()),
        time_seconds,
        signature: key.sign_raw(&cosigned_message(checkpoint, time_seconds)),
    }
}

fn cosigned_message(checkpoint: &Checkpoint, time_seconds: u64) -> Vec<u8> {
    format!("cosignature/v1\ntime {time_seconds}\n{}", checkpoint.to_body()).into_bytes()
}

impl Cosignature {
    pub fn name(&self) -> &SignerName {
        &self.name
    }

    pub fn key_id(&self) -> KeyId {
        self.key_id
    }

    pub const fn time_seconds(&self) -> u64 {
        self.time_seconds
    }

    pub const fn time(&self) -> UnixMillis {
        UnixMillis::from_seconds(self.time_seconds)
    }

    /// Whether it claims to come from this signer and key.
    pub fn claims(&self, name: &SignerName, key: &PublicKey) -> bool {
        self.name == *name && self.key_id == KeyId::new(name, key)
    }

    /// Whether it is that signer's cosignature of that checkpoint.
    pub fn verify(&self, checkpoint: &Checkpoint, key: &PublicKey) -> Result<(), CosignatureError> {
        let expected = KeyId::new(&self.name, key);
        if self.key_id != expected {
            return Err(CosignatureError::KeyId { name: self.name.clone(), expected, got: self.key_id });
        }
        key.verify_raw(&cosigned_message(checkpoint, self.time_seconds), &self.signature)
            .map_err(|source| CosignatureError::Signature { name: self.name.clone(), source })
    }

    /// The signature line, without its newline.
    pub fn to_line(&self) -> String {
        let mut bytes = Vec::with_capacity(COSIGNATURE_BYTES);
        bytes.extend_from_slice(&self.key_id.0);
        bytes.extend_from_slice(&self.time_seconds.to_be_bytes());
        bytes.extend_from_slice(self.signature.as_bytes());
        format!("{DASH}{} {}", self.name, data_encoding::BASE64.encode(&bytes))
    }

    /// Reads one signature line, without its newline.
    pub fn parse_line(line: &str) -> Result<Self, CosignatureError> {
        let (name, base64) =
            line.strip_prefix(DASH).and_then(|rest| rest.split_once(' ')).ok_or(CosignatureError::Line)?;
        let bytes = data_encoding::BASE64.decode(base64.as_bytes()).map_err(|_| CosignatureError::Line)?;
        let bytes: [u8; COSIGNATURE_BYTES] =
            bytes.try_into().map_err(|bytes: Vec<u8>| CosignatureError::Length(bytes.len()))?;
        let (key_id, rest) = bytes.split_first_chunk().expect("4 of 76 bytes");
        let (time, signature) = rest.split_first_chunk().expect("8 of 72 bytes");
        let time_seconds = u64::from_be_bytes(*time);
        if time_seconds >= 1 << 63 {
            return Err(CosignatureError::Time);
        }
        let signature = signature.try_into().expect("64 of 64 bytes");
        Ok(Self {
            name: name.parse()?,
            key_id: KeyId(*key_id),
            time_seconds,
            signature: Signature::from_parts(KeyAlgorithm::Ed25519, signature),
        })
    }

    fn signer(&self) -> (&SignerName, KeyId) {
        (&self.name, self.key_id)
    }
}

impl From<Cosignature> for String {
    fn from(cosignature: Cosignature) -> String {
        cosignature.to_line()
    }
}

impl TryFrom<String> for Cosignature {
    type Error = CosignatureError;
    fn try_from(line: String) -> Result<Self, CosignatureError> {
        Self::parse_line(&line)
    }
}

/// A checkpoint with cosignatures of which nothing is verified yet: 1 to [`COSIGNATURES_MAX`], each signer once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SignedCheckpoint {
    checkpoint: Checkpoint,
    /// In order of name and key id.
    cosignatures: Vec<Cosignature>,
}

/// Why a text is not a signed checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    #[error("the note has {0} bytes, at most 16384 are accepted")]
    TooLong(usize),
    #[error("a note is a text, an empty line, and signature lines, each ended by a newline")]
    Shape,
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Cosignature(#[from] CosignatureError),
    #[error("a note has 1 to 64 cosignatures, this one {0}")]
    Count(usize),
    #[error("{0} signs twice")]
    SignsTwice(SignerName),
    #[error("the signature lines are not in order of name and key id")]
    Order,
}

impl SignedCheckpoint {
    pub fn new(checkpoint: Checkpoint, mut cosignatures: Vec<Cosignature>) -> Result<Self, NoteError> {
        if !(1..=COSIGNATURES_MAX).contains(&cosignatures.len()) {
            return Err(NoteError::Count(cosignatures.len()));
        }
        cosignatures.sort_by(|a, b| a.signer().cmp(&b.signer()));
        if let Some(twice) = cosignatures.windows(2).find(|pair| pair[0].signer() == pair[1].signer()) {
            return Err(NoteError::SignsTwice(twice[0].name.clone()));
        }
        Ok(Self { checkpoint, cosignatures })
    }

    pub const fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    pub fn cosignatures(&self) -> &[Cosignature] {
        &self.cosignatures
    }

    pub fn to_note(&self) -> String {
        let lines: String = self.cosignatures.iter().map(|cosignature| cosignature.to_line() + "\n").collect();
        format!("{}\n{lines}", self.checkpoint.to_body())
    }

    pub fn parse(note: &str) -> Result<Self, NoteError> {
        if note.len() > NOTE_BYTES_MAX {
            return Err(NoteError::TooLong(note.len()));
        }
        let end_of_body = note.find("\n\n").ok_or(NoteError::Shape)? + 1;
        let (body, rest) = note.split_at(end_of_body);
        let checkpoint = Checkpoint::parse(body)?;
        let lines = rest[1..].strip_suffix('\n').ok_or(NoteError::Shape)?;
        let cosignatures: Vec<_> = lines.split('\n').map(Cosignature::parse_line).collect::<Result<_, _>>()?;
        let signed = Self::new(checkpoint, cosignatures.clone())?;
        if signed.cosignatures != cosignatures {
            return Err(NoteError::Order);
        }
        Ok(signed)
    }
}

impl From<SignedCheckpoint> for String {
    fn from(signed: SignedCheckpoint) -> String {
        signed.to_note()
    }
}

impl TryFrom<String> for SignedCheckpoint {
    type Error = NoteError;
    fn try_from(note: String) -> Result<Self, NoteError> {
        Self::parse(&note)
    }
}

//! A node's directory: where everything lies, and the keys.
//!
//! ```text
//! tessera.toml            configuration
//! secrets.json            keys, mode 0600; the checkpoint key lies apart
//! node.sock               control socket of the running node, mode 0600
//! archive/db, archive/pixels   catalogue and outbox; packs (encrypted)
//! federation/             genesis, and for each federation: ledger/ (replica)
//! core/                   checkpoint.key, Raft log, signing guard: from a backup they are worth nothing any more
//! ```
//! The checkpoint key and the Raft log are kept apart from the rest (DESIGN section 5): a core node that comes back
//! from a backup must not be able to vote or sign again what it had forgotten. When it was put back with the rest, the
//! node notices and leaves it alone (`member::seat`).

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rand::RngCore;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use tessera_consensus::FederationId;
use tessera_consensus::keys::SigningKey;
use zeroize::Zeroizing;

/// Why a node's directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{0} already holds a node; choose another directory")]
    Exists(PathBuf),
    #[error("{0} holds a node that was not made to its end: run `tessera init` again")]
    Unfinished(PathBuf),
    #[error("another `tessera init` is at work: it holds {0}")]
    BeingMade(PathBuf),
    #[error("{0} is there already, and what it is may be in use; name another file, or remove it")]
    InTheWay(PathBuf),
    #[error("{path} is damaged ({why}); restore it from a backup")]
    Damaged { path: PathBuf, why: String },
    #[error(
        "everybody on this machine may read {path} (mode {mode:03o}), and who has its keys is this node. If nobody has read \
         it: chmod 600 {path}. Otherwise this node needs a new identity"
    )]
    Exposed { path: PathBuf, mode: u32 },
    #[error(
        "{0} is missing. A core node restored from a backup comes back under a new identity: \
         its core directory is never part of a backup"
    )]
    NoCheckpointKey(PathBuf),
}

impl HomeError {
    /// No room, or no open file, which may be otherwise soon.
    pub fn is_for_now(&self) -> bool {
        let Self::Io { source, .. } = self else { return false };
        let code = source.raw_os_error().map(Errno::from_raw_os_error);
        matches!(code, Some(Errno::NOSPC | Errno::DQUOT | Errno::MFILE | Errno::NFILE | Errno::NOMEM))
    }
}

/// The paths of one node.
#[derive(Clone, Debug)]
pub struct Home {
    root: PathBuf,
}

impl Home {
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }
    pub fn config(&self) -> PathBuf {
        self.root.join("tessera.toml")
    }
    pub fn socket(&self) -> PathBuf {
        self.root.join("node.sock")
    }
    pub fn database(&self) -> PathBuf {
        self.root.join("archive/db")
    }
    pub fn pixels(&self) -> PathBuf {
        self.root.join("archive/pixels")
    }
    pub fn join_command(&self) -> PathBuf {
        self.root.join("federation/join")
    }
    pub fn genesis(&self) -> PathBuf {
        self.root.join("federation/genesis")
    }
    pub fn ledger(&self, federation: FederationId) -> PathBuf {
        self.root.join("federation").join(federation.short()).join("ledger")
    }
    pub fn core(&self) -> PathBuf {
        self.root.join("core")
    }
    fn secrets(&self) -> PathBuf {
        self.root.join("secrets.json")
    }
    fn checkpoint_key(&self) -> PathBuf {
        self.root.join("core/checkpoint.key")
    }
    /// Is there while the node is being made.
    fn unfinished(&self) -> PathBuf {
        self.root.join("unfinished")
    }

    /// Creates the directories and fresh keys; refuses a directory that already holds a node. One that was not made to
    /// its end ([`Making::finish`]) was of no use to anybody, and is made anew.
    pub fn create(&self) -> Result<(Secrets, Making), HomeError> {
        let files = [self.config(), self.secrets(), self.checkpoint_key(), self.join_command(), self.genesis()];
        let is_begun = self.check_finished().is_err();
        if !is_begun && (self.database().exists() || files.iter().any(|file| file.exists())) {
            return Err(HomeError::Exists(self.root.clone()));
        }
        if !is_begun {
            write_new(&self.unfinished(), b"", 0o600)?;
        }
        let making = Making::of(self.unfinished())?;
        // Another one may have come to its end before this one had the lock.
        if !self.unfinished().exists() {
            return Err(HomeError::Exists(self.root.clone()));
        }
        files.iter().try_for_each(|file| remove_if_there(file))?;
        for dir in [self.root.join("archive"), self.root.join("federation"), self.core()] {
            fs::create_dir_all(&dir).map_err(|source| HomeError::Io { path: dir.clone(), source })?;
        }
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| HomeError::Io { path, source }
        };
        fs::set_permissions(&self.root, fs::Permissions::from_mode(0o700)).map_err(io(&self.root))?;
        let secrets = Secrets::generate();
        write_new(&self.checkpoint_key(), secrets.checkpoint.seed().as_slice(), 0o600)?;
        let file = SecretsFile::from(&secrets);
        let json = Zeroizing::new(serde_json::to_vec_pretty(&file).expect("plain strings"));
        write_new(&self.secrets(), &json, 0o600)?;
        Ok((secrets, making))
    }

    /// A backup that was put back, or a careless copy, may have opened it to everybody on this machine; whom the
    /// directories keep out can't read it. A group is the operator's affair (volumes are mounted for one), and told.
    fn check_private(&self, path: &Path) -> Result<(), HomeError> {
        let mode = |path: &Path| fs::metadata(path).map_or(0, |found| found.permissions().mode() & 0o777);
        let of_file = mode(path);
        let directories = path.ancestors().skip(1).take_while(|directory| directory.starts_with(&self.root));
        let lets_in = directories.map(mode).fold(0o011, |lets_in, directory| lets_in & directory);
        if of_file & 0o006 != 0 && lets_in & 0o001 != 0 {
            return Err(HomeError::Exposed { path: path.to_owned(), mode: of_file });
        }
        if of_file & 0o060 != 0 && lets_in & 0o010 != 0 {
            tracing::warn!(path = %path.display(), "a group may read this node's keys");
        }
        Ok(())
    }

    /// Refuses what [`Home::create`] began and nobody finished. A node that has run was finished, whatever lies there.
    pub fn check_finished(&self) -> Result<(), HomeError> {
        let is_begun = self.unfinished().exists() && !self.database().exists();
        if is_begun { Err(HomeError::Unfinished(self.root.clone())) } else { Ok(()) }
    }

    pub fn load_secrets(&self) -> Result<Secrets, HomeError> {
        self.check_finished()?;
        let path = self.secrets();
        for secret in [&path, &self.checkpoint_key()] {
            self.check_private(secret)?;
        }
        let json = Zeroizing::new(fs::read(&path).map_err(|source| HomeError::Io { path: path.clone(), source })?);
        let damaged = |why: String| HomeError::Damaged { path: path.clone(), why };
        let file: SecretsFile = serde_json::from_slice(&json).map_err(|error| damaged(error.to_string()))?;
        let key_path = self.checkpoint_key();
        let key = fs::read(&key_path).map_err(|_| HomeError::NoCheckpointKey(key_path.clone()))?;
        let key: [u8; 32] = key.try_into().map_err(|_| HomeError::NoCheckpointKey(key_path.clone()))?;
        file.into_secrets(key).map_err(damaged)
    }
}

/// A node that is being made, by one process at a time.
pub struct Making {
    marker: PathBuf,
    _lock: fs::File,
}

impl Making {
    fn of(marker: PathBuf) -> Result<Self, HomeError> {
        let io = |source| HomeError::Io { path: marker.clone(), source };
        let lock = fs::File::open(&marker).map_err(io)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
            Errno::WOULDBLOCK => HomeError::BeingMade(marker.clone()),
            other => io(other.into()),
        })?;
        Ok(Self { marker, _lock: lock })
    }

    /// All that the node needs is durable.
    pub fn finish(self) -> Result<(), HomeError> {
        remove_if_there(&self.marker)
    }
}

fn parent(path: &Path) -> &Path {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

fn sync_entry_of(path: &Path) -> Result<(), HomeError> {
    let synced = fs::File::open(parent(path)).and_then(|dir| dir.sync_all());
    synced.map_err(|source| HomeError::Io { path: path.to_owned(), source })
}

/// Removes a file, durably.
fn remove_if_there(path: &Path) -> Result<(), HomeError> {
    match fs::remove_file(path) {
        Ok(()) => sync_entry_of(path),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(source) => Err(HomeError::Io { path: path.to_owned(), source }),
    }
}

/// Writes a new file durably: content, then the directory entry.
pub fn write_new(path: &Path, content: &[u8], mode: u32) -> Result<(), HomeError> {
    let io = |source| HomeError::Io { path: path.to_owned(), source };
    fs::create_dir_all(parent(path)).map_err(io)?;
    let mut file = match fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Err(HomeError::InTheWay(path.to_owned())),
        opened => opened.map_err(io)?,
    };
    file.write_all(content).map_err(io)?;
    file.sync_all().map_err(io)?;
    sync_entry_of(path)
}

/// Replaces a file durably: the new content under another name, then the name.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> Result<(), HomeError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    remove_if_there(&new)?;
    write_new(&new, content, mode)?;
    fs::rename(&new, path).map_err(|source| HomeError::Io { path: path.to_owned(), source })?;
    sync_entry_of(path)
}

/// Writes what a person hands on: whole or not there at all. What is no file, a pipe say, takes it as it is.
pub fn hand_out(path: &Path, content: &[u8], may_replace: bool) -> Result<(), HomeError> {
    match fs::metadata(path) {
        Ok(there) if !there.is_file() => {
            fs::write(path, content).map_err(|source| HomeError::Io { path: path.to_owned(), source })
        }
        Ok(_) if !may_replace => Err(HomeError::InTheWay(path.to_owned())),
        _ => replace(path, content, 0o644),
    }
}

/// All secrets of a node. `Debug` shows none.
pub struct Secrets {
    pub command: SigningKey,
    pub checkpoint: SigningKey,
    pub transport: SigningKey,
    /// X25519 secret key for HPKE.
    pub sealing: Zeroizing<[u8; 32]>,
    /// Encrypts the pixel store and the cached identifier keys.
    pub site: Zeroizing<[u8; 32]>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("secrets of a node")
    }
}

fn random_seed() -> [u8; 32] {
    let mut seed = [0; 32];
    rand::rng().fill_bytes(&mut seed);
    seed
}

impl Secrets {
    fn generate() -> Self {
        Self {
            command: SigningKey::from_seed(random_seed()),
            checkpoint: SigningKey::from_seed(random_seed()),
            transport: SigningKey::from_seed(random_seed()),
            sealing: Zeroizing::new(random_seed()),
            site: Zeroizing::new(random_seed()),
        }
    }
}

/// The file: hexadecimal seeds by use.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SecretsFile {
    version: u8,
    command: String,
    transport: String,
    sealing: String,
    site: String,
}

impl From<&Secrets> for SecretsFile {
    fn from(secrets: &Secrets) -> Self {
        Self {
            version: 1,
            command: hex::encode(secrets.command.seed()),
            transport: hex::encode(secrets.transport.seed()),
            sealing: hex::encode(*secrets.sealing),
            site: hex::encode(*secrets.site),
        }
    }
}

impl SecretsFile {
    fn into_secrets(self, checkpoint: [u8; 32]) -> Result<Secrets, String> {
        if self.version != 1 {
            return Err(format!("version {} is not known to this program", self.version));
        }
        let seed = |text: &str| -> Result<[u8; 32], String> {
            hex::decode(text)
                .ok()
                .and_then(|bytes| bytes.try_into().ok())
                .ok_or("a key is not 64 hexadecimal digits".into())
        };
        Ok(Secrets {
            command: SigningKey::from_seed(seed(&self.command)?),
            checkpoint: SigningKey::from_seed(checkpoint),
            transport: SigningKey::from_seed(seed(&self.transport)?),
            sealing: Zeroizing::new(seed(&self.sealing)?),
            site: Zeroizing::new(seed(&self.site)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_was_not_made_to_its_end_is_made_anew_and_one_that_was_never_is() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let home = Home::new(dir.path().join("node"));
        let (begun, making) = home.create().expect("create");
        assert!(matches!(home.create(), Err(HomeError::BeingMade(_))));
        drop(making);
        assert!(matches!(home.check_finished(), Err(HomeError::Unfinished(_))));
        assert!(matches!(home.load_secrets(), Err(HomeError::Unfinished(_))));
        fs::write(home.config(), "").expect("written");
        let (made, making) = home.create().expect("create again");
        assert_ne!(begun.command.public(), made.command.public());
        assert!(!home.config().exists());
        making.finish().expect("finished");
        assert_eq!(home.load_secrets().expect("load").command.public(), made.command.public());
        assert!(matches!(home.create(), Err(HomeError::Exists(_))));
        // A marker that came back with an old copy takes no keys from a node that has run.
        fs::create_dir_all(home.database()).expect("its database");
        fs::write(home.unfinished(), "").expect("written");
        assert!(matches!(home.create(), Err(HomeError::Exists(_))));
        assert_eq!(home.load_secrets().expect("load").command.public(), made.command.public());
    }

    #[test]
    fn what_is_handed_out_replaces_nothing() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("genesis");
        hand_out(&path, b"one", false).expect("written");
        assert!(matches!(hand_out(&path, b"another", false), Err(HomeError::InTheWay(_))));
        assert_eq!(fs::read(&path).expect("read"), b"one");
        hand_out(&path, b"another", true).expect("written");
        assert_eq!(fs::read(&path).expect("read"), b"another");
        hand_out(Path::new("/dev/null"), b"another", false).expect("taken");
        assert!(!fs::metadata("/dev/null").expect("it is there").is_file());
    }

    #[test]
    fn secrets_survive_and_a_missing_core_directory_is_named() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let home = Home::new(dir.path().join("node"));
        let (made, making) = home.create().expect("create");
        making.finish().expect("finished");
        let read = home.load_secrets().expect("load");
        assert_eq!(made.command.public(), read.command.public());
        assert_eq!(made.checkpoint.public(), read.checkpoint.public());
        assert_eq!(*made.sealing, *read.sealing);
        assert!(matches!(home.create(), Err(HomeError::Exists(_))));
        let mode = fs::metadata(home.secrets()).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        for secret in [home.secrets(), home.checkpoint_key()] {
            let allow = |mode| fs::set_permissions(&secret, fs::Permissions::from_mode(mode)).expect("permissions");
            for (of_root, of_file, is_refused) in [
                (0o700, 0o644, false),
                (0o755, 0o640, false),
                (0o755, 0o400, false),
                (0o755, 0o644, true),
                (0o711, 0o602, true),
            ] {
                fs::set_permissions(&home.root, fs::Permissions::from_mode(of_root)).expect("permissions");
                fs::set_permissions(home.core(), fs::Permissions::from_mode(of_root)).expect("permissions");
                allow(of_file);
                let refused = home.load_secrets().err().map(|error| error.to_string());
                assert_eq!(refused.is_some(), is_refused, "{of_root:o} {of_file:o} {refused:?}");
                let says = |why: &String| why.contains(&format!("(mode {of_file:o})")) && why.contains("chmod 600");
                assert!(refused.is_none_or(|why| says(&why)));
            }
            allow(0o600);
        }
        fs::remove_dir_all(home.core()).expect("remove");
        assert!(matches!(home.load_secrets(), Err(HomeError::NoCheckpointKey(_))));
    }
}

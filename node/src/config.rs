//! The one configuration of a node: `tessera.toml` in its directory. Unknown keys are refused, defaults stand here
//! and nowhere else, and `tessera config` prints them.
//!
//! `validate()` turns the file's words into checked values; the rest of the program never sees a string that was
//! not checked here. Units stand last in the names.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tessera_consensus::SiteId;

use crate::dicom::charset::CharacterSets;

/// Why a configuration was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{path}: {source}; run `tessera init` to create a node, or name its directory with --dir")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}: {message}")]
    Parse { path: PathBuf, message: String },
    #[error("{key}: {why}")]
    Invalid { key: &'static str, why: String },
}

/// The whole file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The node's name in the federation: `a-z 0-9 - .`, at most 64.
    pub name: String,
    /// The legal bodies that this node speaks for; the first is the default.
    pub site: Vec<SiteConfig>,
    #[serde(default)]
    pub dicom: DicomConfig,
    #[serde(default)]
    pub http: HttpConfig,
    #[serde(default)]
    pub peer: PeerConfig,
    #[serde(default)]
    pub core: CoreConfig,
    #[serde(default)]
    pub archive: ArchiveConfig,
    #[serde(default)]
    pub policy: PolicyConfig,
    #[serde(default)]
    pub people: PeopleConfig,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteConfig {
    /// 2 to 32 of `a-z 0-9 -`.
    pub id: SiteId,
    /// What clinicians read.
    pub legal_name: String,
    /// The issuer under which this site's own patient numbers are known (0010,0021).
    pub issuer: String,
    /// The called AE title that belongs to this site; empty: any.
    #[serde(default)]
    pub ae_title: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DicomConfig {
    /// Where modalities and workstations connect; absent: no DICOM service.
    pub listen: Option<SocketAddr>,
    pub ae_title: String,
    /// Associations at one time; the next is rejected as "local limit exceeded".
    pub associations_max: usize,
    /// The same for one remote address, so that a device gone wrong leaves places to the others. Devices behind one
    /// translated address share them.
    pub associations_per_address_max: usize,
    /// Devices whose images are indexed. What others send is kept, quarantined, never indexed.
    // An empty list is not written: `sender = []` would stand in the way of the tables that operators append.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sender: Vec<SenderConfig>,
    /// Index what anybody sends: for trials only.
    pub accept_unknown_senders: bool,
    /// What senders that are not on the list may have quarantined, in bytes; beyond it they are refused.
    pub unlisted_senders_bytes_max: u64,
}

impl Default for DicomConfig {
    fn default() -> Self {
        Self {
            listen: None,
            ae_title: "TESSERA".into(),
            associations_max: 64,
            associations_per_address_max: 16,
            sender: Vec::new(),
            accept_unknown_senders: false,
            unlisted_senders_bytes_max: 10 << 30,
        }
    }
}

/// A device on the list: AE title and address must both match.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SenderConfig {
    pub ae_title: String,
    pub address: std::net::IpAddr,
    /// The Specific Character Set (0008,0005) that the device really uses, whatever it says: `GB18030`, `GBK`, ...
    #[serde(default)]
    pub character_set: Option<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// DICOMweb, pages and viewer; absent: none.
    pub listen: Option<SocketAddr>,
    /// Further host names under which browsers and a proxy in front may open the pages.
    pub hosts: Vec<String>,
    /// The pages show every name and image and have no sign-in of their own. Say `true` only where a proxy that signs
    /// users in, or a firewall, stands before an address that other machines reach.
    pub guarded_by_others: bool,
    /// The directory of the prebuilt OHIF viewer (`dist` of the npm package `@ohif/app`); absent: no viewer.
    pub viewer: Option<PathBuf>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PeerConfig {
    /// libp2p listen addresses, such as `/ip4/0.0.0.0/tcp/4400`; empty: this node only dials out.
    pub listen: Vec<String>,
    /// Addresses at which others reach it, as its join command will state; empty: the listen addresses.
    pub announce: Vec<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CoreConfig {
    /// Where the other core nodes connect (gRPC, mutual TLS); absent: not a core node.
    pub listen: Option<SocketAddr>,
    /// `host:port` at which they reach it; absent: the listen address.
    pub announce: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ArchiveConfig {
    /// A study is complete when nothing arrived for it for so long.
    pub quiet_period_ms: u64,
    /// New objects are refused when less than this is free on the disk.
    pub free_bytes_min: u64,
    /// How often one pack is looked at, to give the space of what was given up back to the file system.
    pub compaction_interval_ms: u64,
}

impl Default for ArchiveConfig {
    fn default() -> Self {
        Self { quiet_period_ms: 30_000, free_bytes_min: 2 * 1024 * 1024 * 1024, compaction_interval_ms: 60_000 }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyConfig {
    /// The site's own rules (Cedar), in addition to the federation's: they can only tighten.
    pub site_rules: Option<PathBuf>,
    /// Days for which a patient's code for confirming a consent stays good.
    pub patient_code_days: Option<u32>,
    /// Hours for which a study that was fetched from another site stays here.
    pub working_copy_hours: u32,
}

impl Default for PolicyConfig {
    fn default() -> Self {
        Self { site_rules: None, patient_code_days: None, working_copy_hours: 72 }
    }
}

/// Until users sign in, the node asserts who its users are, on its operator's word.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PeopleConfig {
    /// The role of this node's users towards other sites: `physician`, `radiologist`, `nurse`, ... Absent: `service`,
    /// a program that no person drives, for which the federation's rules open nothing.
    pub role: Option<String>,
}

impl Config {
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })?;
        let parse = |message: String| ConfigError::Parse { path: path.into(), message };
        let config: Config = toml::from_str(&text).map_err(|error| parse(error.to_string()))?;
        config.validate()?;
        Ok(config)
    }

    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("the configuration is plain tables and values")
    }

    pub fn validate(&self) -> Result<(), ConfigError> {
        let invalid = |key, why: &str| Err(ConfigError::Invalid { key, why: why.into() });
        if self.site.is_empty() {
            return invalid("site", "a node speaks for at least one site");
        }
        if self.site.iter().any(|site| site.legal_name.is_empty() || site.issuer.is_empty()) {
            return invalid("site", "each site needs a legal_name and the issuer of its patient numbers");
        }
        let ae_ok = |ae: &str| ae.len() <= 16 && ae.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'\\');
        let titles = self.site.iter().map(|s| &s.ae_title).chain(self.dicom.sender.iter().map(|s| &s.ae_title));
        if titles.chain([&self.dicom.ae_title]).any(|title| !ae_ok(title)) {
            return invalid("ae_title", "an AE title has at most 16 printable ASCII characters");
        }
        if self.http.listen.is_some_and(|listen| !listen.ip().is_loopback()) && !self.http.guarded_by_others {
            let why = "other machines would reach the pages, which show every name and image without sign-in: listen \
                       on 127.0.0.1, or put a proxy that signs users in before it and set http.guarded_by_others";
            return invalid("http.listen", why);
        }
        let role_known = |role: &String| role.parse::<tessera_policy::Role>().is_ok();
        if !self.people.role.as_ref().is_none_or(role_known) {
            return invalid("people.role", "no role; physician, radiologist, technologist, nurse, ...");
        }
        for sender in &self.dicom.sender {
            if let Some(Err(why)) = sender.character_set.as_deref().map(character_set) {
                return invalid("dicom.sender.character_set", &format!("of {}: {why}", sender.ae_title));
            }
        }
        if !(100..=86_400_000).contains(&self.archive.quiet_period_ms) {
            return invalid("archive.quiet_period_ms", "between 100 (a trial) and 86400000 (a day)");
        }
        if self.archive.compaction_interval_ms < 100 {
            return invalid("archive.compaction_interval_ms", "100 (a trial) or more");
        }
        if !(1..=8_784).contains(&self.policy.working_copy_hours) {
            return invalid("policy.working_copy_hours", "between 1 and 8784 (a year)");
        }
        if self.dicom.associations_max == 0 || self.dicom.associations_max > 4096 {
            return invalid("dicom.associations_max", "between 1 and 4096");
        }
        if self.dicom.associations_per_address_max == 0 {
            return invalid("dicom.associations_per_address_max", "1 or more");
        }
        Ok(())
    }

    pub fn default_site(&self) -> &SiteConfig {
        &self.site[0]
    }

    /// The site that a called AE title belongs to.
    pub fn site_for(&self, called_ae: &str) -> &SiteConfig {
        self.site.iter().find(|site| site.ae_title == called_ae).unwrap_or_else(|| self.default_site())
    }
}

/// The sets that a sender's setting names. An empty word would mean ASCII, which no setting is needed for.
pub fn character_set(setting: &str) -> Result<CharacterSets, String> {
    if setting.trim().is_empty() {
        return Err("it is empty; leave the line out where the device's own declaration is right".into());
    }
    CharacterSets::parse(setting).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = "name = 'a'\n[[site]]\nid = 'county-a'\nlegal_name = 'County A'\nissuer = 'CA'\n";

    fn sender(character_set: &str) -> String {
        format!("[[dicom.sender]]\nae_title = 'CT1'\naddress = '10.0.0.5'\ncharacter_set = '{character_set}'\n")
    }

    fn parse(text: &str) -> Result<(), String> {
        let config: Config = toml::from_str(text).map_err(|error| error.message().to_owned())?;
        config.validate().map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            (MINIMAL.to_owned(), None),
            (format!("{MINIMAL}[dicom]\nassociations_max = 0\n"), Some("dicom.associations_max")),
            (format!("{MINIMAL}[dicom]\nae_titel = 'X'\n"), Some("ae_titel")),
            (format!("{MINIMAL}[archive]\nquiet_period_ms = 1\n"), Some("quiet_period_ms")),
            (format!("{MINIMAL}[people]\nrole = 'doctor'\n"), Some("people.role")),
            (format!("{MINIMAL}[people]\nrole = 'radiologist'\n"), None),
            (format!("{MINIMAL}{}", sender("GB18030")), None),
            (format!("{MINIMAL}{}", sender(r"\ISO 2022 IR 58")), None),
            (format!("{MINIMAL}{}", sender("GB18O30")), Some("dicom.sender.character_set: of CT1: 'GB18O30' is no")),
            (format!("{MINIMAL}{}", sender(" ")), Some("of CT1: it is empty")),
            (format!("{MINIMAL}[policy]\nworking_copy_hours = 0\n"), Some("working_copy_hours")),
            (MINIMAL.replace("county-a", "County A"), Some("site of 2 to 32")),
            (MINIMAL.replace("issuer = 'CA'", "issuer = ''"), Some("issuer")),
        ];
        for (text, expected) in cases {
            match (parse(&text), expected) {
                (Ok(()), None) => {}
                (Err(message), Some(part)) => assert!(message.contains(part), "{message:?} should name {part:?}"),
                (got, expected) => panic!("{text}: {got:?}, expected {expected:?}"),
            }
        }
    }

    #[test]
    fn what_is_printed_is_read_again() {
        let config: Config = toml::from_str(MINIMAL).expect("minimal");
        let again: Config = toml::from_str(&config.to_toml()).expect("printed");
        assert_eq!(again.to_toml(), config.to_toml());
        let appended = format!("{}\n{}", config.to_toml(), sender("GBK"));
        let appended: Config = toml::from_str(&appended).expect("what operators append to what was written");
        assert_eq!(appended.dicom.sender.len(), 1);
    }
}

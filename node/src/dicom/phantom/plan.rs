//! Who is examined where, by what: decided before the first pixel is drawn, and small.
//!
//! The first person (the shared one) has a CT of the chest at the first hospital and other examinations at the
//! others. The rest belong to one hospital each, every second one visits the next as well. One more series of the
//! shared person's CT comes late, and one examination of another person is kept back for an outage.

use super::attributes::Concept;
use super::persons::{Hospital, Person};
use super::texture::mix_all;

/// What to generate. The same specification always gives the same bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhantomSpec {
    pub seed: u64,
    /// One hospital each; folders are named after them.
    pub issuers: Vec<String>,
    pub persons: u32,
    /// Slices of each CT series.
    pub slices: u32,
}

/// Persons and slices at most: names and times are made for these ranges.
pub const PERSONS_MAX: u32 = 9_999;
pub const SLICES_MAX: u32 = 2_000;
pub const HOSPITALS_MAX: usize = 26;

/// Late series and the examination kept for an outage lie in folders of these names, beside the issuers'.
pub const LATE_FOLDER: &str = "late";
pub const OUTAGE_FOLDER: &str = "outage";

/// What is examined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    CtChest,
    CtHead,
    MrHead,
    DxChest,
    UsAbdomen,
}

impl Kind {
    const TURNS: [Kind; 5] = [Kind::MrHead, Kind::UsAbdomen, Kind::CtHead, Kind::DxChest, Kind::CtChest];

    pub fn modality(self) -> &'static str {
        match self {
            Self::CtChest | Self::CtHead => "CT",
            Self::MrHead => "MR",
            Self::DxChest => "DX",
            Self::UsAbdomen => "US",
        }
    }

    pub fn sop_class(self) -> &'static str {
        match self {
            Self::CtChest | Self::CtHead => "1.2.840.10008.5.1.4.1.1.2",
            Self::MrHead => "1.2.840.10008.5.1.4.1.1.4",
            Self::DxChest => "1.2.840.10008.5.1.4.1.1.1.1",
            Self::UsAbdomen => "1.2.840.10008.5.1.4.1.1.3.1",
        }
    }

    pub fn description(self) -> &'static str {
        match self {
            Self::CtChest => "胸部CT平扫",
            Self::CtHead => "头颅CT平扫",
            Self::MrHead => "头颅MR平扫",
            Self::DxChest => "胸部正位DR",
            Self::UsAbdomen => "腹部超声",
        }
    }

    pub fn body_part(self) -> &'static str {
        match self {
            Self::CtChest | Self::DxChest => "CHEST",
            Self::CtHead => "HEAD",
            Self::MrHead => "BRAIN",
            Self::UsAbdomen => "ABDOMEN",
        }
    }

    pub fn procedure(self) -> Concept {
        match self {
            Self::CtChest => ("CTCHEST", "99PHANTOM", "CT of chest without contrast"),
            Self::CtHead => ("CTHEAD", "99PHANTOM", "CT of head without contrast"),
            Self::MrHead => ("MRHEAD", "99PHANTOM", "MR of head without contrast"),
            Self::DxChest => ("DXCHEST", "99PHANTOM", "Radiograph of chest, PA"),
            Self::UsAbdomen => ("USABD", "99PHANTOM", "Ultrasound of abdomen"),
        }
    }

    pub fn equipment(self) -> (&'static str, &'static str) {
        match self {
            Self::CtChest | Self::CtHead => ("PHANTOM WORKS", "PHANTOM CT 64"),
            Self::MrHead => ("PHANTOM WORKS", "PHANTOM MR 1.5T"),
            Self::DxChest => ("PHANTOM WORKS", "PHANTOM DR"),
            Self::UsAbdomen => ("PHANTOM WORKS", "PHANTOM ECHO"),
        }
    }

    /// Series of an examination: description, and images where `slices` is the CT's number.
    fn series(self, slices: u32) -> Vec<(&'static str, u32)> {
        match self {
            Self::CtChest => vec![("胸部 5.0mm B40f 纵隔窗", slices)],
            Self::CtHead => vec![("头颅 5.0mm H30s", slices.div_ceil(2))],
            Self::MrHead => vec![("T1WI 横断", slices.div_ceil(2)), ("T2WI 横断", slices.div_ceil(2))],
            Self::DxChest => vec![("胸部后前位", 1)],
            Self::UsAbdomen => vec![("肝脏 动态", 1)],
        }
    }
}

/// Description of the series that comes late.
const LATE_SERIES: &str = "胸部 1.0mm B70f 肺窗";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Series {
    pub number: u16,
    pub uid: String,
    pub description: String,
    pub images: u32,
    seed: u64,
}

impl Series {
    fn new(seed: u64, number: u16, description: &str, images: u32) -> Self {
        let seed = mix_all(&[seed, 5, number.into()]);
        Self { number, uid: uid(seed), description: description.to_owned(), images, seed }
    }

    pub fn instance_uid(&self, index: u32) -> String {
        uid(mix_all(&[self.seed, 6, index.into()]))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examination {
    pub seed: u64,
    /// Folder of its files: the issuer, or one of the two that are kept back.
    pub folder: String,
    pub kind: Kind,
    pub person: Person,
    pub hospital: Hospital,
    pub patient_id: String,
    pub study_uid: String,
    pub accession: String,
    pub date: String,
    pub time: String,
    pub series: Vec<Series>,
}

impl Examination {
    fn new(spec: &PhantomSpec, kind: Kind, person: u32, hospital: usize, visit: u64) -> Self {
        let person = Person::generate(spec.seed, person);
        let hospital = Hospital::new(hospital as u32, &spec.issuers[hospital]);
        let seed = mix_all(&[spec.seed, 3, person.index.into(), hospital.index.into(), visit]);
        let series = kind.series(spec.slices.max(2));
        let series = (1u16..).zip(series).map(|(number, (text, images))| Series::new(seed, number, text, images));
        // Days of one year, office hours. Visits of one person are months apart.
        let (month, day) = (1 + (u64::from(person.index) * 5 + visit * 3) % 12, 1 + seed % 28);
        let (hour, minute) = (8 + seed / 31 % 9, seed / 307 % 60);
        Self {
            seed,
            folder: hospital.issuer.clone(),
            kind,
            patient_id: hospital.patient_id(spec.seed, &person),
            study_uid: uid(mix_all(&[seed, 4])),
            accession: format!("{}{:06}", kind.modality(), seed % 1_000_000),
            date: format!("2025{month:02}{day:02}"),
            time: format!("{hour:02}{minute:02}00"),
            series: series.collect(),
            person,
            hospital,
        }
    }

    /// The same study with one more series, which comes later.
    fn late(&self, slices: u32) -> Self {
        let number = self.series.len() as u16 + 1;
        let series = vec![Series::new(self.seed, number, LATE_SERIES, slices.div_ceil(2).max(2))];
        Self { folder: LATE_FOLDER.to_owned(), series, ..self.clone() }
    }

    pub fn frame_of_reference(&self) -> String {
        uid(mix_all(&[self.seed, 7]))
    }

    pub fn images(&self) -> u32 {
        self.series.iter().map(|series| series.images).sum()
    }

    /// Year, month and day of the examination.
    pub fn day(&self) -> (u16, u8, u8) {
        let number = |range| self.date.get(range).and_then(|text: &str| text.parse::<u16>().ok()).unwrap_or_default();
        (number(0..4), number(4..6) as u8, number(6..8) as u8)
    }

    pub fn clock(&self) -> (u8, u8) {
        let number = |range| self.time.get(range).and_then(|text: &str| text.parse().ok()).unwrap_or_default();
        (number(0..2), number(2..4))
    }
}

/// All examinations, in the order in which they are generated.
pub fn examinations(spec: &PhantomSpec) -> Vec<Examination> {
    let hospitals = spec.issuers.len();
    let mut all = Vec::new();
    if hospitals == 0 || spec.persons == 0 {
        return all;
    }
    let shared = Examination::new(spec, Kind::CtChest, 0, 0, 0);
    let late = shared.late(spec.slices);
    all.push(shared);
    for hospital in 1..hospitals {
        let kind = [Kind::DxChest, Kind::UsAbdomen, Kind::MrHead][(hospital - 1) % 3];
        all.push(Examination::new(spec, kind, 0, hospital, hospital as u64));
    }
    for person in 1..spec.persons {
        let turn = person as usize;
        let home = turn % hospitals;
        all.push(Examination::new(spec, Kind::TURNS[turn % 5], person, home, 0));
        if turn % 2 == 1 && hospitals > 1 {
            all.push(Examination::new(spec, Kind::TURNS[(turn + 2) % 5], person, (home + 1) % hospitals, 1));
        }
    }
    all.push(late);
    let spared = Examination::new(spec, Kind::CtHead, 1 % spec.persons, 0, 9);
    all.push(Examination { folder: OUTAGE_FOLDER.to_owned(), ..spared });
    all
}

/// A UID from a seed, under the root for UUIDs (PS3.5 B.2).
fn uid(seed: u64) -> String {
    let number = u128::from(mix_all(&[seed, 1])) << 64 | u128::from(mix_all(&[seed, 2]));
    format!("2.25.{number}")
}

//! The objects that are measured with: one CT study of 512 x 512 slices of 16 bits (about 526 kB each), as files; or
//! a few long objects, each a slice repeated as the frames of one, which is how cine and enhanced images come.
//! They come from the phantom, so that every machine measures with the same bytes.
//! Not for what the demo tells: there are no other examinations here.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use crate::dicom::part10::file_head;
use crate::dicom::phantom::{PhantomSpec, crosswalk, generate, shared_patient};

/// The hospital that the study is of; the demo's first one has this issuer.
pub const ISSUER: &str = "SITEA";
/// Slices of one study: the phantom's times and numbers are made for so many.
pub const SLICES_MAX: u32 = 2_000;
/// Bytes of a slice as a file, about: for sizing only.
pub const SLICE_BYTES: u64 = 526_000;

/// Tags of (0028,0010) Rows and (7FE0,0010) Pixel Data with their VRs, explicit little endian.
const ROWS: &[u8] = b"\x28\x00\x10\x00US";
const PIXEL_DATA: &[u8] = b"\xE0\x7F\x10\x00OW\x00\x00";

/// A generated study on the disk.
pub struct Study {
    pub files: Vec<PathBuf>,
    pub bytes: u64,
    /// Whose it is, as an identifier to ask for.
    pub patient: String,
    /// The crosswalk that leads from the hospital's number to that identifier.
    pub crosswalk: String,
}

/// Writes `slices` slices below `directory`, dealt out to `folders` folders of equal size (`0`, `1`, ...).
pub fn write(directory: &Path, seed: u64, slices: u32, folders: usize) -> anyhow::Result<Study> {
    write_frames(directory, seed, slices, 1, folders)
}

/// Writes `objects` objects of `frames` frames each.
pub fn write_long(directory: &Path, seed: u64, objects: u32, frames: u32) -> anyhow::Result<Study> {
    write_frames(directory, seed, objects, frames, 1)
}

fn write_frames(directory: &Path, seed: u64, slices: u32, frames: u32, folders: usize) -> anyhow::Result<Study> {
    ensure!((2..=SLICES_MAX).contains(&slices), "a study for measurements has 2 to {SLICES_MAX} images");
    let spec = PhantomSpec { seed, issuers: vec![ISSUER.to_owned()], persons: 1, slices };
    let mut study =
        Study { files: Vec::new(), bytes: 0, patient: shared_patient(&spec), crosswalk: crosswalk_csv(&spec) };
    for folder in 0..folders {
        fs::create_dir_all(directory.join(folder.to_string()))?;
    }
    // The CT of the shared person comes first; what follows is for the demo's story.
    for (number, object) in generate(&spec).take(slices as usize).enumerate() {
        let head = file_head(&object.sop_class, &object.sop_instance, &object.transfer_syntax, None);
        let path = directory.join((number % folders).to_string()).join(format!("{number:04}.dcm"));
        let data_set = if frames == 1 { object.data_set } else { repeated(&object.data_set, frames)? };
        let bytes = [head.as_slice(), &data_set].concat();
        fs::write(&path, &bytes).with_context(|| path.display().to_string())?;
        study.files.push(path);
        study.bytes += bytes.len() as u64;
    }
    Ok(study)
}

/// The slice with its pixels repeated as `frames` frames.
fn repeated(slice: &[u8], frames: u32) -> anyhow::Result<Vec<u8>> {
    let place = |tag: &[u8]| slice.windows(tag.len()).position(|window| window == tag);
    let (rows, pixels) = place(ROWS).zip(place(PIXEL_DATA)).context("a slice without rows or pixels")?;
    let (head, frame) = (&slice[..pixels], &slice[pixels + PIXEL_DATA.len() + 4..]);
    let length = u32::try_from(frame.len() as u64 * u64::from(frames)).context("too many frames for one object")?;
    // (0028,0008) Number of Frames, padded to an even length.
    let number = format!("{frames:<6}");
    let mut data_set = [&head[..rows], b"\x28\x00\x08\x00IS\x06\x00", number.as_bytes(), &head[rows..]].concat();
    data_set.extend_from_slice(PIXEL_DATA);
    data_set.extend_from_slice(&length.to_le_bytes());
    (0..frames).for_each(|_| data_set.extend_from_slice(frame));
    Ok(data_set)
}

fn crosswalk_csv(spec: &PhantomSpec) -> String {
    let rows = crosswalk(spec).into_iter().map(|l| format!("{},{},{},{}\n", l.issuer, l.patient_id, l.kind, l.value));
    std::iter::once("issuer,patient_id,kind,value\n".to_owned()).chain(rows).collect()
}

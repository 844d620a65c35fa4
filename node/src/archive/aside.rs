//! How much may be kept of senders that nobody listed. What they send is quarantined with success; without a bound, any
//! host that reaches the DICOM port could fill the disk up to its reserve, and the hospital's own devices would be
//! refused. Beyond the bound they are told "not authorised".
//!
//! Room is taken before an object is kept and given back when it is filed, for from then on the catalogue counts it, or
//! refused. So the bound holds for any number of senders at a time.
//!
//! Not here: what is quarantined for other reasons, which only listed senders can cause.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tessera_storage::engine::View;

use super::catalogue::{self, CatalogueError};
use super::ingest::{IngestError, Origin};
use super::{Archive, ArchiveError};
use crate::config::DicomConfig;

/// Room for one object on its way in.
pub struct Room {
    archive: Arc<Archive>,
    /// The sender is listed: there is no bound but the disk's.
    is_listed: bool,
    bytes: u64,
}

impl Archive {
    /// Room for an object of this origin, of no bytes yet.
    pub fn room_for(self: &Arc<Self>, origin: &Origin) -> Room {
        Room { archive: self.clone(), is_listed: self.is_listed(origin), bytes: 0 }
    }
}

impl Room {
    /// Takes room for the object's next bytes.
    pub fn take(&mut self, bytes: u64) -> Result<(), IngestError> {
        if self.is_listed {
            return Ok(());
        }
        let bytes = if self.bytes == 0 { catalogue::aside_bytes(bytes) } else { bytes };
        self.bytes += bytes;
        let coming = self.archive.coming_aside.fetch_add(bytes, Ordering::SeqCst) + bytes;
        let kept = catalogue::unlisted_bytes(&*self.archive.engine).map_err(ArchiveError::from)?;
        let bytes_max = self.archive.config.dicom.unlisted_senders_bytes_max;
        if kept.saturating_add(coming) > bytes_max { Err(IngestError::UnlistedFull { bytes_max }) } else { Ok(()) }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.archive.coming_aside.fetch_sub(self.bytes, Ordering::SeqCst);
    }
}

/// What the operator should look at: the bound is near, or reached.
pub fn warnings(view: &dyn View, dicom: &DicomConfig) -> Result<Vec<String>, CatalogueError> {
    let (kept, bytes_max) = (catalogue::unlisted_bytes(view)?, dicom.unlisted_senders_bytes_max);
    let sentence = format!(
        "senders that are not on the list [dicom.sender] have {kept} bytes aside, of {bytes_max} at most; beyond that they \
         are refused, a device that was forgotten on the list included"
    );
    Ok(Some(sentence).filter(|_| kept >= bytes_max / 10 * 9 && kept > 0).into_iter().collect())
}

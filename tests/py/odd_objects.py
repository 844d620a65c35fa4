"""Writes objects that devices really send and that must not hold up the others, into FOLDER.

Generated, with obviously generated patients: a study date of year 1, an issuer with a slash, a study with more body
parts than bodies have, an object cut off in its pixels, an issuer in lower case. Prints nothing; exits 0.
"""

import sys
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE

ROWS = COLUMNS = 16


def image(patient_id, study, **values):
    data_set = Dataset()
    data_set.SOPClassUID = SecondaryCaptureImageStorage
    data_set.SOPInstanceUID = generate_uid()
    data_set.StudyInstanceUID = study
    data_set.SeriesInstanceUID = generate_uid()
    data_set.PatientID = patient_id
    data_set.PatientName = "Generated^Odd"
    data_set.StudyDate = "20260101"
    data_set.Modality = "OT"
    data_set.Rows, data_set.Columns = ROWS, COLUMNS
    data_set.SamplesPerPixel, data_set.BitsAllocated, data_set.BitsStored, data_set.HighBit = 1, 8, 8, 7
    data_set.PixelRepresentation, data_set.PhotometricInterpretation = 0, "MONOCHROME2"
    data_set.PixelData = bytes(ROWS * COLUMNS)
    for keyword, value in values.items():
        setattr(data_set, keyword, value)
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data_set.file_meta.MediaStorageSOPClassUID = data_set.SOPClassUID
    data_set.file_meta.MediaStorageSOPInstanceUID = data_set.SOPInstanceUID
    return data_set


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)

    def write(name, data_set):
        data_set.save_as(folder / name, enforce_file_format=True)

    # UIDs in the order in which a registrar meets them: the troublesome ones first.
    write("year-one.dcm", image("ODD-1", "1.2.1", StudyDate="00010101"))
    write("slash.dcm", image("ODD-2", "1.2.2", IssuerOfPatientID="HIS/PACS"))
    for part in range(70):
        write(f"part-{part}.dcm", image("ODD-3", "1.2.3", BodyPartExamined=f"PART{part:04}" * 120))
    write("cut.dcm", image("ODD-4", "1.2.4"))
    whole = (folder / "cut.dcm").read_bytes()
    (folder / "cut.dcm").write_bytes(whole[: len(whole) - ROWS * COLUMNS // 2])
    write("known-before.dcm", image("odd-5", "1.2.5", IssuerOfPatientID="HospA"))
    write("known-later.dcm", image("odd-6", "1.2.6", IssuerOfPatientID="HospA"))


main()

"""Writes many small objects into FOLDER: studies of obviously generated patients, one patient for each study.

For tests in which the number of objects counts and their size does not: a sender that is killed, or whose receiver is,
at any of a thousand moments. The same arguments give the same bytes. Prints one JSON object a line, in the order in
which a device would send them: file, study, sop_instance, patient_id.
"""

import argparse
import json
from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

SIDE = 16


def image(seed, study, number, issuer):
    root = f"2.25.8{seed:05}{study:05}"
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = SecondaryCaptureImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = f"{root}.2.{number}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = f"{root}.1", f"{root}.2"
    ds.PatientName, ds.PatientID, ds.IssuerOfPatientID = "Ceshi^Small", f"SMALL{seed}-{study}", issuer
    ds.PatientBirthDate, ds.PatientSex, ds.Modality = "19700101", "O", "OT"
    ds.StudyDate, ds.StudyTime, ds.StudyID = "20250601", "101500", str(study)
    ds.SeriesNumber, ds.InstanceNumber, ds.AccessionNumber = 1, number, f"SMALL{study}"
    ds.ConversionType, ds.PhotometricInterpretation, ds.SamplesPerPixel = "SYN", "MONOCHROME2", 1
    ds.Rows = ds.Columns = SIDE
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    # No two objects are alike, so that bytes can't be mistaken for another's.
    ds.PixelData = bytes((study * 7 + number * 13 + pixel) % 256 for pixel in range(SIDE * SIDE))
    return ds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--studies", type=int, required=True)
    parser.add_argument("--objects", type=int, required=True, help="of each study")
    parser.add_argument("--issuer", required=True)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for study in range(1, arguments.studies + 1):
        for number in range(1, arguments.objects + 1):
            ds = image(arguments.seed, study, number, arguments.issuer)
            path = arguments.folder / f"{study:05}-{number:05}.dcm"
            ds.save_as(path, enforce_file_format=True)
            named = {"study": ds.StudyInstanceUID, "sop_instance": ds.SOPInstanceUID, "patient_id": ds.PatientID}
            print(json.dumps({"file": str(path), **named}))


if __name__ == "__main__":
    main()

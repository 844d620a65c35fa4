"""Writes one large object: a Multi-frame Grayscale Word Secondary Capture (PS3.3 A.8.4) of obviously generated noise.

What a transfer that is killed in its middle needs: one object of many megabytes. The same seed gives the same bytes.
Prints one JSON object: file, study, sop_instance, patient_id.
"""

import argparse
import json
from pathlib import Path

import numpy
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

SOP_CLASS = "1.2.840.10008.5.1.4.1.1.7.3"
SIDE = 1024


def large(seed, frames, patient_id, issuer):
    root = f"2.25.7{seed:09}"
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = SOP_CLASS
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = f"{root}3"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = f"{root}1", f"{root}2"
    ds.PatientName, ds.PatientID, ds.IssuerOfPatientID = "Ceshi^Large", patient_id, issuer
    ds.PatientBirthDate, ds.PatientSex, ds.Modality = "19700101", "O", "OT"
    ds.StudyDate, ds.StudyTime, ds.ContentDate, ds.ContentTime = "20250601", "101500", "20250601", "101500"
    ds.StudyID, ds.SeriesNumber, ds.InstanceNumber, ds.AccessionNumber = "1", 1, 1, f"LARGE{seed}"
    ds.ConversionType, ds.PhotometricInterpretation, ds.SamplesPerPixel = "SYN", "MONOCHROME2", 1
    ds.NumberOfFrames, ds.Rows, ds.Columns = frames, SIDE, SIDE
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    noise = numpy.random.default_rng(seed).integers(0, 4096, size=(frames, SIDE, SIDE), dtype=numpy.uint16)
    ds.add_new("PixelData", "OW", noise.tobytes())
    return ds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--frames", type=int, required=True, help="of 2 MiB each")
    parser.add_argument("--patient", required=True)
    parser.add_argument("--issuer", required=True)
    arguments = parser.parse_args()
    ds = large(arguments.seed, arguments.frames, arguments.patient, arguments.issuer)
    ds.save_as(arguments.file, enforce_file_format=True)
    named = {"study": ds.StudyInstanceUID, "sop_instance": ds.SOPInstanceUID, "patient_id": ds.PatientID}
    print(json.dumps({"file": str(arguments.file), **named}))


if __name__ == "__main__":
    main()

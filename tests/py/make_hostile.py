"""Writes one small image whose texts try to be markup and script, in GB18030, into FILE.

An obviously generated patient; a picture with a gradient, so that a viewer has something to show. Prints one JSON object:
study, name (both groups, as a page should write them), description.
"""

import argparse
import json
from pathlib import Path

import numpy
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

SIDE = 64
ROOT = "2.25.81"
# No `=` nor `^` inside: they would divide the name.
FAMILY, GIVEN = "<script>owned()</script>", "\"Ceshi'"
IDEOGRAPHIC = "测试<b>甲</b>"
DESCRIPTION = "<img src=x onerror=owned()> \"胸部\" & 'CT'"


def hostile(patient_id, issuer):
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = SecondaryCaptureImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = f"{ROOT}3"
    ds.SpecificCharacterSet = "GB18030"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = f"{ROOT}1", f"{ROOT}2"
    ds.PatientName = f"{FAMILY}^{GIVEN}={IDEOGRAPHIC}"
    ds.PatientID, ds.IssuerOfPatientID = patient_id, issuer
    ds.PatientBirthDate, ds.PatientSex, ds.Modality = "19700101", "O", "OT"
    ds.StudyDescription = ds.SeriesDescription = DESCRIPTION
    ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20250601", "101500", "1", "HOSTILE"
    ds.SeriesNumber, ds.InstanceNumber, ds.ConversionType = 1, 1, "SYN"
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.Rows, ds.Columns = 1, "MONOCHROME2", SIDE, SIDE
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.PixelData = (numpy.indices((SIDE, SIDE)).sum(axis=0) * 2).astype(numpy.uint8).tobytes()
    return ds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--patient", required=True)
    parser.add_argument("--issuer", required=True)
    arguments = parser.parse_args()
    ds = hostile(arguments.patient, arguments.issuer)
    ds.save_as(arguments.file, enforce_file_format=True)
    name = f"{IDEOGRAPHIC} ({FAMILY} {GIVEN})"
    print(json.dumps({"study": ds.StudyInstanceUID, "name": name, "description": DESCRIPTION}))


if __name__ == "__main__":
    main()

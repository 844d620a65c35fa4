"""Prints how pydicom reads the texts of files: one JSON object a line with file, name, description, patient_id.

A second reader beside DCMTK, whose build on Debian knows no Japanese sets, as pydicom knows ISO 2022 IR 58 badly.
With --really CODEC, texts that the file labels as Latin-1 (or not at all) are read in the set their bytes are in.
"""

import argparse
import json

from pydicom import dcmread

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--really", metavar="CODEC")
parser.add_argument("files", nargs="+")
arguments = parser.parse_args()


def text(value):
    value = str(value)
    return value.encode("latin-1").decode(arguments.really) if arguments.really else value


for name in arguments.files:
    read = dcmread(name, stop_before_pixels=True)
    texts = {
        "file": name,
        "name": text(read.get("PatientName", "")),
        "description": text(read.get("StudyDescription", "")),
        "patient_id": text(read.get("PatientID", "")),
    }
    print(json.dumps(texts, ensure_ascii=False))

"""Prints how pydicom reads the texts of files: one JSON object a line with file, name, description, patient_id.

A second reader beside DCMTK, whose build on Debian knows no Japanese sets, as pydicom knows ISO 2022 IR 58 badly.
With --really CODEC, the bytes of texts are read in the set that they are in, whatever the file's label.
"""

import argparse
import json

from pydicom import dcmread

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--really", metavar="CODEC")
parser.add_argument("files", nargs="+")
arguments = parser.parse_args()


def text(dataset, keyword):
    if arguments.really:
        # Not looked at before, the element still has its bytes.
        return dataset.get_item(keyword).value.decode(arguments.really).rstrip(" ")
    return str(dataset.get(keyword, ""))


for name in arguments.files:
    read = dcmread(name, stop_before_pixels=True)
    texts = {
        "file": name,
        "name": text(read, "PatientName"),
        "description": text(read, "StudyDescription"),
        "patient_id": text(read, "PatientID"),
    }
    print(json.dumps(texts, ensure_ascii=False))

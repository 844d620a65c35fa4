"""Says of each file that pydicom and pydicom-data carry what a test must know of it, read by pydicom and not by us.

Many of them are one picture in several encodings under one SOP Instance UID, and a hospital keeps only one current
object under a UID. So that each encoding can travel, those that come later get a copy in FOLDER that differs in
nothing but this UID (as many characters, in the data set and in the file meta information).

Prints one JSON object a line, in the order in which `store_all.py` sends: file, travels (the file, its copy, or null
where an earlier file holds the same bytes), travels_as (its SOP Instance UID then), and the file's own sop_instance,
study, patient_id, issuer. Absent values are empty. Exits 0.
"""

import json
import logging
import re
import sys
import warnings
from pathlib import Path

import pydicom

from dataset_bytes import describe
from store_all import carried_files

# These files are made to be complained about.
warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)

KEYWORDS = {
    "sop_instance": "SOPInstanceUID",
    "study": "StudyInstanceUID",
    "patient_id": "PatientID",
    "issuer": "IssuerOfPatientID",
}


def facts(path):
    try:
        ds = pydicom.dcmread(path, force=True, stop_before_pixels=True)
        return {name: str(ds.get(keyword, "") or "") for name, keyword in KEYWORDS.items()}
    except Exception:  # pydicom's own variety, on what is no DICOM file
        return dict.fromkeys(KEYWORDS, "")


def another(uid, taken):
    """The first UID of the same length that differs in the last component and is free."""
    root, last = uid.rsplit(".", 1)
    candidates = (f"{root}.{number}" for number in range(10 ** (len(last) - 1), 10 ** len(last)))
    return next(candidate for candidate in candidates if candidate not in taken)


def renamed(content, uid, fresh):
    """With this UID replaced where it ends, since a study's may begin with the same digits. (What stands before it
    says nothing: a length in big endian may look like a digit.)"""
    return re.sub(re.escape(uid.encode("ascii")) + rb"(?![0-9.])", fresh.encode("ascii"), content)


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    files = [(path, facts(path), describe(str(path))) for path in carried_files()]
    taken = {named["sop_instance"] for _, named, _ in files}
    contents = {}
    for path, named, described in files:
        uid = travels_as = named["sop_instance"]
        travels = path
        if uid:
            earlier = contents.setdefault(uid, set())
            content = (described["sha256"], described["transfer_syntax"])
            if content in earlier:
                travels = None
            elif earlier:
                travels_as = another(uid, taken)
                taken.add(travels_as)
                travels = folder / path.name
                travels.write_bytes(renamed(path.read_bytes(), uid, travels_as))
                if facts(travels) != {**named, "sop_instance": travels_as}:
                    sys.exit(f"{travels} differs from {path} in more than its UID")
            earlier.add(content)
        print(json.dumps({"file": str(path), "travels": travels and str(travels), "travels_as": travels_as, **named}))


if __name__ == "__main__":
    main()

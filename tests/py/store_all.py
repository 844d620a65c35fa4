"""Sends real DICOM files to a storage SCP, each in the transfer syntax that it is in, and says what became of each.

Without PATH: every file that pydicom and pydicom-data carry for their own tests, the broken ones included. The data
set's bytes go over the wire as they lie in the file (pynetdicom streams them), so that what is stored can be compared
byte for byte. A file that cannot be sent as it is (no file meta information, no SOP class) is reported, not repaired.

Prints one JSON object a line: file, sop_class, sop_instance, transfer_syntax, outcome, status, detail. Outcomes:
stored (success or warning), refused (a failure status), not-accepted (no presentation context), aborted, unsendable.
Exits 0 if the peer could be talked to at all, 2 if not.
"""

import argparse
import json
import logging
import sys
from pathlib import Path

import pydicom.data
from pydicom.filereader import read_file_meta_info
from pynetdicom import AE, _config
from pynetdicom.dimse import DIMSEServiceProvider

_config.STORE_SEND_CHUNKED_DATASET = True
# What a peer answers is the test's business, not a reason for a log.
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)

# An association's reactor looks for requests without blocking, and now and then takes the very answer that
# send_c_store waits for (pynetdicom 3.0.4: its pause is announced before it begins). Nobody requests anything here.
get_message = DIMSEServiceProvider.get_msg
DIMSEServiceProvider.get_msg = lambda self, block=False: get_message(self, block) if block else (None, None)

FOLDERS = ("test_files", "charset_files")


def carried_files():
    """All files of the two packages, DICOM or not: a receiver meets both.

    By folder, not through pydicom's own search, which would try to download what is not there.
    """
    found = set()
    for folder in FOLDERS:
        found.update((Path(pydicom.data.__file__).parent / folder).rglob("*"))
    try:
        import data_store

        found.update(Path(data_store.__file__).parent.rglob("*"))
    except ImportError:
        sys.exit("pydicom-data is missing: run tests/bootstrap.sh test")
    ignored = {".py", ".pyc", ".md", ".txt", ".json", ".zip", ".npy"}
    return sorted(path for path in found if path.is_file() and path.suffix not in ignored)


def files_below(paths):
    for path in paths:
        if path.is_dir():
            yield from sorted(inner for inner in path.rglob("*") if inner.is_file())
        else:
            yield path


def store(path, peer):
    """One association for one file, as a careful modality does for an object that was refused before."""
    report = {"file": str(path), "sop_class": None, "sop_instance": None, "transfer_syntax": None}

    def done(outcome, status=None, detail=None):
        return {**report, "outcome": outcome, "status": status, "detail": detail}

    try:
        meta = read_file_meta_info(path)
        report["sop_class"] = str(meta.MediaStorageSOPClassUID)
        report["sop_instance"] = str(meta.MediaStorageSOPInstanceUID)
        report["transfer_syntax"] = str(meta.TransferSyntaxUID)
    except Exception as error:  # pydicom's own variety, on files made to break it
        return done("unsendable", detail=f"{type(error).__name__}: {error}")

    entity = AE(ae_title=peer.calling)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = peer.timeout
    try:
        entity.add_requested_context(report["sop_class"], report["transfer_syntax"])
    except Exception as error:
        return done("unsendable", detail=f"{type(error).__name__}: {error}")
    association = entity.associate(peer.host, peer.port, ae_title=peer.called)
    if association.is_rejected:
        return done("refused", detail="association rejected")
    if not association.is_established:
        accepted = association.acceptor.primitive is not None
        return done("not-accepted" if accepted else "unreachable")
    try:
        status = association.send_c_store(path)
    except Exception as error:
        return done("unsendable", detail=f"{type(error).__name__}: {error}")
    finally:
        if association.is_established:
            association.release()
    if "Status" not in status:
        return done("aborted", detail="the peer closed or did not answer in time")
    code = status.Status
    stored = code == 0x0000 or code >> 12 == 0xB
    comment = status.get("ErrorComment")
    return done("stored" if stored else "refused", f"{code:04X}", comment)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--called", default="TESSERA")
    parser.add_argument("--calling", default="PYNETDICOM")
    parser.add_argument("--timeout", type=float, default=30, help="seconds for each answer")
    parser.add_argument("--list", action="store_true", help="print the files, send nothing")
    parser.add_argument("paths", nargs="*", type=Path)
    arguments = parser.parse_args()

    files = list(files_below(arguments.paths)) if arguments.paths else carried_files()
    if arguments.list:
        print(*files, sep="\n")
        return
    for path in files:
        report = store(path, arguments)
        if report["outcome"] == "unreachable":
            sys.exit(f"no association with {arguments.called} at {arguments.host}:{arguments.port}")
        print(json.dumps(report, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()

"""Asks a DICOMweb server as users' programs do (dicomweb-client), and prints what came back as JSON.

  studies   QIDO-RS: the studies that match the filters, one JSON object a line, keyword -> values
  series    the series of studies, instances: their instances
  metadata  WADO-RS metadata of studies, one object a line
  retrieve  WADO-RS of studies; every part is written to --to as it came, one JSON object for each file
  frames    WADO-RS frames of one instance: lengths and SHA-256

Filters are KEYWORD=VALUE. A refusal by the server ends with exit code 3 and {"status": ..., "body": ...}.
"""

import argparse
import hashlib
import json
import sys
from email.parser import BytesParser
from email.policy import HTTP
from pathlib import Path

import requests
from dicomweb_client.api import DICOMwebClient
from pydicom.dataset import Dataset


def plain(element):
    """An element of a DICOM JSON model as text and numbers a test can compare."""
    value = element.value
    if element.VR == "SQ":
        return [keywords(item) for item in value]
    values = list(value) if element.VM > 1 else [] if value in (None, "") else [value]
    return [item if isinstance(item, (int, float)) else str(item) for item in values]


def keywords(dataset):
    return {element.keyword or str(element.tag): plain(element) for element in dataset if element.VR not in ("OB", "OW")}


def show(items):
    for item in items:
        print(json.dumps(keywords(Dataset.from_json(item)), ensure_ascii=False))


def filters(pairs):
    return dict(pair.split("=", 1) for pair in pairs)


def parts(response):
    """The parts of a multipart/related answer (RFC 2387), bytes untouched."""
    kind = response.headers["Content-Type"]
    parameters = BytesParser(policy=HTTP).parsebytes(f"Content-Type: {kind}\r\n\r\n".encode())
    boundary = parameters.get_boundary()
    if boundary is None:
        sys.exit(f"not a multipart answer: {kind}")
    for part in (b"\r\n" + response.content).split(b"\r\n--" + boundary.encode())[1:]:
        if part.startswith(b"--"):
            return
        head, _, body = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        yield head.decode("ascii", "replace"), body
    sys.exit("the multipart answer was cut off: it has no closing boundary")


def retrieve(session, url, studies, folder):
    """Not through dicomweb-client, which parses and would write anew: here the bytes matter."""
    accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    for study in studies:
        response = session.get(f"{url}/studies/{study}", headers={"Accept": accept}, timeout=600)
        response.raise_for_status()
        for head, body in parts(response):
            number += 1
            path = folder / f"{number:06}.dcm"
            path.write_bytes(body)
            print(json.dumps({"file": str(path), "head": head, "length": len(body)}))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", required=True, help="such as http://127.0.0.1:8080/dicom-web")
    parser.add_argument("--header", action="append", default=[], help="NAME=VALUE, sent with each request")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("studies").add_argument("filters", nargs="*")
    for name in ("series", "instances", "metadata"):
        commands.add_parser(name).add_argument("study", nargs="+")
    command = commands.add_parser("retrieve")
    command.add_argument("study", nargs="+")
    command.add_argument("--to", type=Path, required=True)
    command = commands.add_parser("frames")
    for name in ("study", "series", "instance"):
        command.add_argument(name)
    command.add_argument("numbers", nargs="+", type=int)
    arguments = parser.parse_args()

    session = requests.Session()
    session.headers.update(filters(arguments.header))
    client = DICOMwebClient(url=arguments.url, session=session)
    try:
        match arguments.command:
            case "studies":
                show(client.search_for_studies(search_filters=filters(arguments.filters), get_remaining=False))
            case "series":
                for study in arguments.study:
                    show(client.search_for_series(study))
            case "instances":
                for study in arguments.study:
                    show(client.search_for_instances(study))
            case "metadata":
                for study in arguments.study:
                    show(client.retrieve_study_metadata(study))
            case "retrieve":
                retrieve(session, arguments.url, arguments.study, arguments.to)
            case "frames":
                found = client.retrieve_instance_frames(
                    arguments.study, arguments.series, arguments.instance, arguments.numbers
                )
                for frame in found:
                    print(json.dumps({"length": len(frame), "sha256": hashlib.sha256(frame).hexdigest()}))
    except requests.HTTPError as error:
        print(json.dumps({"status": error.response.status_code, "body": error.response.text[:2000]}, ensure_ascii=False))
        sys.exit(3)


if __name__ == "__main__":
    main()

"""Prints the SHA-256 of each file's data set: the bytes after the file meta information, as they lie on disk.

Two Part 10 files (PS3.10 section 7) hold the same data set, byte for byte, exactly if these agree, whatever preamble
and file meta information a receiver wrote before it. Nothing is decoded. A file without `DICM` is hashed whole.

Prints one JSON object a line: file, sha256, length, transfer_syntax, sop_instance.
"""

import hashlib
import json
import struct
import sys

LONG_LENGTH = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}


def after_meta(content):
    """Offset of the data set, and the file meta elements by tag. The group is explicit VR little endian."""
    if content[128:132] != b"DICM":
        return 0, {}
    offset, elements = 132, {}
    while offset + 8 <= len(content):
        group, element = struct.unpack_from("<HH", content, offset)
        if group != 2:
            break
        if content[offset + 4 : offset + 6] in LONG_LENGTH:
            (length,) = struct.unpack_from("<I", content, offset + 8)
            start = offset + 12
        else:
            (length,) = struct.unpack_from("<H", content, offset + 6)
            start = offset + 8
        elements[element] = content[start : start + length]
        offset = start + length
    return offset, elements


def text(value):
    return value.rstrip(b"\0 ").decode("ascii", "replace") if value is not None else None


def describe(path):
    with open(path, "rb") as file:
        content = file.read()
    offset, elements = after_meta(content)
    return {
        "file": path,
        "sha256": hashlib.sha256(content[offset:]).hexdigest(),
        "length": len(content) - offset,
        "transfer_syntax": text(elements.get(0x0010)),
        "sop_instance": text(elements.get(0x0003)),
    }


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: dataset_bytes.py FILE...")
    for name in sys.argv[1:]:
        print(json.dumps(describe(name)))

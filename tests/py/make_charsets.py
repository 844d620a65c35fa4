"""Writes small DICOM files whose names and descriptions use the character sets that Chinese hospitals really send.

Each file's right reading is printed as one JSON object a line: file, character_set (as the file declares it), name,
description, patient_id, study, override (the character set that its bytes are in, where the file declares a wrong
one). The series description repeats the study's. The persons are invented from the word for "test" and the ten heavenly stems; no file describes anybody.
"""

import json
import re
import sys
from pathlib import Path

from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid



def iso2022_58(text):
    """GB 2312 in G1, designated anew wherever a delimiter has reset it (PS3.5 annex K)."""
    return re.sub(r"[^\x00-\x7f]+", lambda run: "\x1b$)A" + run[0], text).encode("gb2312")


def iso2022_87(text):
    """JIS X 0208 in G0, back to ASCII before each delimiter and at the end (PS3.5 annex H)."""
    return text.encode("iso2022_jp")


def iso2022_13_87(text):
    """Half-width katakana in G1 in the first group, kanji and kana after it, back to JIS X 0201 (PS3.5 H.3.2)."""
    katakana, equals, rest = text.partition("=") if "=" in text else ("", "", text)
    return katakana.encode("shift_jis") + equals.encode() + rest.encode("iso2022_jp").replace(b"\x1b(B", b"\x1b(J")


def iso2022_149(text):
    """KS X 1001 in G1, designated anew wherever a delimiter has reset it (PS3.5 annex I)."""
    return re.sub(r"[^\x00-\x7f]+", lambda run: "\x1b$)C" + run[0], text).encode("euc_kr")


def codec(name):
    return lambda text: text.encode(name)


# name, declared character set, how the bytes are made, the set they are in where the file declares another, texts
CASES = [
    ("gb18030", "GB18030", codec("gb18030"), None, "测试^甲", "胸部平扫"),
    # Characters outside GBK, of four bytes each.
    ("gb18030-four-bytes", "GB18030", codec("gb18030"), None, "测试^乙\u3433", "腹部增强\U00020000"),
    ("gbk", "GBK", codec("gbk"), None, "测试^丙", "头颅平扫"),
    # GBK allows a backslash and a caret as second bytes, which split a value read bytewise.
    ("gbk-second-bytes", "GBK", codec("gbk"), None, "测试^誠", "頭部診斷"),
    ("utf8", "ISO_IR 192", codec("utf-8"), None, "测试^己", "冠状动脉造影"),
    ("utf8-three-groups", "ISO_IR 192", codec("utf-8"), None, "CeShi^Geng=测试^庚=", "肝脏超声"),
    ("iso2022-58", ["", "ISO 2022 IR 58"], iso2022_58, None, "CeShi^Xin=测试^辛=", "骨盆正位"),
    ("iso2022-87", ["", "ISO 2022 IR 87"], iso2022_87, None, "Tesuto^Ichi=試験^一=しけん^いち", "胸部単純撮影"),
    ("iso2022-13-87", ["ISO_IR 13", "ISO 2022 IR 87"], iso2022_13_87, None, "ﾃｽﾄ^ﾆ=試験^二=しけん^に", "頭部単純"),
    ("iso2022-149", ["", "ISO 2022 IR 149"], iso2022_149, None, "SiHeom^Il=시험^일=", "흉부 촬영"),
    ("latin1", "ISO_IR 100", codec("latin-1"), None, "Prüfung^Übung", "Thorax a.p. zwölf"),
    # Not wrong, and not to be "corrected" to Chinese.
    ("latin1-not-gbk", "ISO_IR 100", codec("latin-1"), None, "Ñandú^Señor", "Año"),
    # Their labels are wrong, and their bytes tell it.
    ("gbk-as-latin1", "ISO_IR 100", codec("gbk"), "GBK", "测试^丁", "颈椎正侧位"),
    ("gbk-undeclared", None, codec("gbk"), "GBK", "测试^戊", "双膝关节"),
    ("gbk-as-utf8", "ISO_IR 192", codec("gbk"), "GBK", "测试^子", "腰椎间盘"),
    ("gbk-as-gb2312", "GB2312", codec("gbk"), None, "测试^丑", "胸部正位"),
    ("utf8-as-latin1", "ISO_IR 100", codec("utf-8"), "ISO_IR 192", "测试^寅", "脑血管造影"),
    ("utf8-as-gb18030", "GB18030", codec("utf-8"), "ISO_IR 192", "测试^卯", "甲状腺超声"),
    # Bytes that Windows' Latin letters have too, rare in Chinese: only who knows the device can tell.
    ("gbk-rare-as-latin1", "ISO_IR 100", codec("gbk"), "GBK", "囍^囍", "囍囍"),
]


def dataset(name, number, character_set, person, description, series_description):
    instance = generate_uid(entropy_srcs=["tessera character sets", name])
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = instance
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    if character_set is not None:
        image.SpecificCharacterSet = character_set
    image.SOPClassUID = SecondaryCaptureImageStorage
    image.SOPInstanceUID = instance
    image.StudyInstanceUID = generate_uid(entropy_srcs=["tessera character sets", name, "study"])
    image.SeriesInstanceUID = generate_uid(entropy_srcs=["tessera character sets", name, "series"])
    image.PatientName = person
    image.StudyDescription = description
    image.SeriesDescription = series_description
    image.PatientID = f"CHARSET-{number}"
    image.PatientBirthDate = "19000101"
    image.PatientSex = "O"
    image.StudyDate = image.ContentDate = "20240501"
    image.StudyTime = image.ContentTime = "101112"
    image.AccessionNumber = f"CS{number:04}"
    image.Modality = "OT"
    image.ConversionType = "SYN"
    image.StudyID = image.SeriesNumber = image.InstanceNumber = "1"
    image.ReferringPhysicianName = ""
    image.Rows = image.Columns = 8
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.BitsAllocated = image.BitsStored = 8
    image.HighBit = 7
    image.PixelRepresentation = 0
    image.PixelData = bytes(range(64))
    return image


def write(path, name, number, character_set, encode, texts):
    """pydicom writes ASCII of the same length, which our own bytes then replace: it would write some sets wrongly
    (without the escape sequences of ISO 2022 IR 58) and others not at all (bytes that belie their label)."""
    encoded = [encode(text) for text in texts]
    encoded = [value + b" " * (len(value) % 2) for value in encoded]
    stand_ins = [letter * len(value) for letter, value in zip("QZX", encoded)]
    image = dataset(name, number, character_set, *stand_ins)
    image.save_as(path, enforce_file_format=True)
    content = path.read_bytes()
    for stand_in, value in zip(stand_ins, encoded):
        assert content.count(stand_in.encode()) == 1, f"{stand_in} stands once in the file"
        content = content.replace(stand_in.encode(), value)
    path.write_bytes(content)
    return image


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: make_charsets.py DIR")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, character_set, encode, override, person, description) in enumerate(CASES, start=1):
        path = folder / f"{name}.dcm"
        image = write(path, name, number, character_set, encode, [person, description, description])
        report = {
            "case": name,
            "file": str(path),
            "character_set": character_set,
            "override": override,
            "name": person,
            "description": description,
            "patient_id": image.PatientID,
            "study": image.StudyInstanceUID,
        }
        print(json.dumps(report, ensure_ascii=False))


if __name__ == "__main__":
    main()

//! Tables of text in bytes, what it reads as, and under which verdict.
//!
//! The examples of PS3.5 annexes H to K (known from pydicom's character set files), misspelt and wrong
//! declarations, and names in which one reading could pass for another.

use super::*;

fn decode(declared: &str, bytes: &[u8], kind: TextKind) -> String {
    CharacterSets::parse(declared).expect("declared sets of the table").decode(bytes, kind).text
}

fn gb(text: &str) -> Vec<u8> {
    encoding_rs::GB18030.encode(text).0.into_owned()
}

fn latin(text: &str) -> Vec<u8> {
    encoding_rs::WINDOWS_1252.encode(text).0.into_owned()
}

#[test]
fn person_names_of_the_standard() {
    let table: [(&str, &[u8], &str); 13] = [
        ("ISO_IR 100", b"Buc^J\xe9r\xf4me", "Buc^Jérôme"),
        ("ISO_IR 100", b"\xc4neas^R\xfcdiger", "Äneas^Rüdiger"),
        ("ISO_IR 127", b"\xe2\xc8\xc7\xe6\xea^\xe4\xe6\xd2\xc7\xd1", "قباني^لنزار"),
        ("ISO_IR 126", b"\xc4\xe9\xef\xed\xf5\xf3\xe9\xef\xf2", "Διονυσιος"),
        ("ISO_IR 138", b"\xf9\xf8\xe5\xef^\xe3\xe1\xe5\xf8\xe4", "שרון^דבורה"),
        ("ISO_IR 144", b"\xbb\xee\xdace\xdc\xd1yp\xd3", "Люкceмбypг"),
        (
            "\\ISO 2022 IR 87",
            b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
            "Yamada^Tarou=山田^太郎=やまだ^たろう",
        ),
        (
            "ISO 2022 IR 13\\ISO 2022 IR 87",
            b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J=\x1b$B$d$^$@\x1b(J^\x1b$B$?$m$&\x1b(J",
            "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
        ),
        (
            "\\ISO 2022 IR 149",
            b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
            "Hong^Gildong=洪^吉洞=홍^길동",
        ),
        ("\\ISO 2022 IR 58", b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab=", "Zhang^XiaoDong=张^小东="),
        ("ISO_IR 192", b"Wang^XiaoDong=\xe7\x8e\x8b^\xe5\xb0\x8f\xe6\x9d\xb1=", "Wang^XiaoDong=王^小東="),
        ("GB18030", b"Wang^XiaoDong=\xcd\xf5^\xd0\xa1\xb6\xab=", "Wang^XiaoDong=王^小东="),
        // The second byte of 乗 (81 5C) is a backslash, that of 乛 (81 5E is 乗's neighbour) a caret.
        ("GBK", b"\x81\x5c^\x81\x5e", "乗^乛"),
    ];
    for (declared, bytes, expected) in table {
        let name = decode(declared, bytes, TextKind::Name);
        if declared == "GBK" {
            assert_eq!(name, encoding_rs::GBK.decode(bytes).0, "{declared}");
            assert_eq!(name.matches('^').count(), 1, "a caret inside a character parts nothing");
        } else {
            assert_eq!(name, expected, "{declared}");
        }
    }
}

#[test]
fn escapes_are_reset_where_the_standard_says() {
    let sets = "ISO 2022 IR 100\\ISO 2022 IR 144";
    let table: [(&[u8], TextKind, &str); 4] = [
        (b"\x1b-L\xbb\xee\\\xe9", TextKind::Values, "Лю\\é"),
        (b"\x1b-L\xbb^\xe9", TextKind::Name, "Л^é"),
        (b"\x1b-L\xbb^\xe9", TextKind::Values, "Л^щ"),
        (b"\x1b-L\xbb\r\n\xe9", TextKind::Lines, "Л\r\né"),
    ];
    for (bytes, kind, expected) in table {
        assert_eq!(decode(sets, bytes, kind), expected);
    }
}

#[test]
fn supplementary_kanji_are_read() {
    let text = decode("\\ISO 2022 IR 87\\ISO 2022 IR 159", b"\x1b$(D\x30\x21\x1b(B", TextKind::Values);
    assert_eq!(text, "丂");
}

#[test]
fn declarations_are_forgiven_their_spelling() {
    let table = [
        ("ISO_IR 100", Some("ISO_IR 100")),
        ("ISO-IR 100", Some("ISO_IR 100")),
        ("iso ir 192 ", Some("ISO_IR 192")),
        ("ISO_2022_IR_58", Some("ISO 2022 IR 58")),
        ("\\ISO 2022 IR 149", Some("ISO_IR 6\\ISO 2022 IR 149")),
        ("GB2312", Some("GBK")),
        ("utf-8", Some("ISO_IR 192")),
        ("KLINGON", None),
    ];
    for (text, expected) in table {
        let declaration = Declaration::parse(text.as_bytes());
        assert_eq!(declaration.sets().map(ToString::to_string).as_deref(), expected, "{text}");
    }
}

/// A verdict in one word and the sets used.
fn judge(declared: &str, values: &[Vec<u8>]) -> String {
    let mut samples = Samples::default();
    for value in values {
        samples.add(value, TextKind::Name);
    }
    let verdict = CharsetVerdict::of(declared.as_bytes(), &CharsetPolicy::Detect, &samples);
    let word = match verdict {
        CharsetVerdict::Declared { .. } => "declared",
        CharsetVerdict::Overridden { .. } => "overridden",
        CharsetVerdict::Detected { .. } => "detected",
        CharsetVerdict::Undecodable { .. } => "undecodable",
    };
    format!("{word} {}", verdict.used())
}

#[test]
fn chinese_is_found_under_wrong_declarations() {
    let names = ["测试^患者一", "王", "李^明", "Wang^XiaoDong=王^小东", "胸部CT平扫+增强", "欧阳^娜娜", "T1加权"];
    for name in names {
        for declared in ["", "ISO_IR 100", "ISO_IR 192", "KLINGON"] {
            assert_eq!(judge(declared, &[gb(name)]), "detected GB18030", "{name} under {declared}");
        }
        assert_eq!(judge("GB18030", &[gb(name)]), "declared GB18030", "{name}");
        for declared in ["", "ISO_IR 100", "GB18030", "GBK"] {
            assert_eq!(judge(declared, &[name.into()]), "detected ISO_IR 192", "{name} under {declared}");
        }
        assert_eq!(judge("ISO_IR 192", &[name.into()]), "declared ISO_IR 192", "{name}");
    }
}

#[test]
fn latin_names_are_not_taken_for_chinese() {
    let names = [
        "Buc^Jérôme",
        "Äneas^Rüdiger",
        "CONCEIÇÃO^JOÃO",
        "Conceição^Simões",
        "Müller^Jürgen",
        "Ångström^Åse",
        "Ñandú^Íñigo",
        "Göring-Eckardt",
        "Žižek^Slavoj",
        "Größe 5 µm ±1°",
        "Noël^Zoë",
        "Élève^Éloïse",
    ];
    for name in names {
        assert_eq!(judge("ISO_IR 100", &[latin(name)]), "declared ISO_IR 100", "{name}");
        assert_eq!(judge("ISO_IR 100", &[name.into()]), "detected ISO_IR 192", "{name}");
    }
    for name in ["Buc^Jérôme", "Äneas^Rüdiger", "Conceição^Simões"] {
        assert_eq!(judge("", &[latin(name)]), "detected ISO_IR 100", "{name}");
        assert_eq!(judge("ISO_IR 192", &[latin(name)]), "detected ISO_IR 100", "{name}");
    }
}

#[test]
fn other_sets_are_left_alone() {
    let table: [(&str, &[u8]); 5] = [
        ("ISO_IR 144", b"\xbb\xee\xdace\xdc\xd1yp\xd3"),
        ("ISO_IR 127", b"\xe2\xc8\xc7\xe6\xea^\xe4\xe6\xd2\xc7\xd1"),
        ("ISO_IR 13", b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3"),
        ("ISO_IR 6\\ISO 2022 IR 149", b"Hong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7"),
        ("ISO_IR 126", b"\xc4\xe9\xef\xed\xf5\xf3\xe9\xef\xf2"),
    ];
    for (declared, bytes) in table {
        assert_eq!(judge(declared, &[bytes.to_vec()]), format!("declared {declared}"));
    }
}

#[test]
fn odd_cases() {
    let cut = gb("测试患者");
    let cut_utf8 = "测试患者".as_bytes();
    let table: [(&str, &str, Vec<u8>, &str); 6] = [
        ("cut character", "GB18030", cut[..7].to_vec(), "declared GB18030"),
        ("cut character, undeclared", "", cut[..7].to_vec(), "detected GB18030"),
        ("cut UTF-8", "ISO_IR 192", cut_utf8[..11].to_vec(), "declared ISO_IR 192"),
        ("undeclared escape", "ISO_IR 100", b"\x1b$)A\xd5\xc5".to_vec(), "detected ISO_IR 100\\ISO 2022 IR 58"),
        ("control bytes", "", b"\x80\x81\x82".to_vec(), "undecodable ISO_IR 100"),
        ("plain", "KLINGON", b"A^B".to_vec(), "declared ISO_IR 6"),
    ];
    for (what, declared, bytes, expected) in table {
        assert_eq!(judge(declared, &[bytes]), expected, "{what}");
    }
}

#[test]
fn the_operator_has_the_last_word() {
    let mut samples = Samples::default();
    samples.add(&gb("测试"), TextKind::Name);
    let gbk = CharacterSets::parse("GBK").expect("a set");
    let table = [
        (CharsetPolicy::Always(gbk.clone()), "ISO_IR 100", true),
        (CharsetPolicy::Always(gbk.clone()), "GBK", false),
        (CharsetPolicy::WhenMissing(gbk.clone()), "", true),
    ];
    for (policy, declared, overridden) in table {
        let verdict = CharsetVerdict::of(declared.as_bytes(), &policy, &samples);
        assert_eq!(matches!(verdict, CharsetVerdict::Overridden { .. }), overridden);
        assert_eq!(verdict.used(), &gbk);
    }
    let other = CharsetVerdict::of(b"ISO_IR 100", &CharsetPolicy::WhenMissing(gbk), &samples);
    assert!(matches!(other, CharsetVerdict::Detected { .. }));
}

#[test]
fn groups_of_a_name() {
    let table = [
        ("Wang^XiaoDong=王^小东=", ["Wang^XiaoDong", "王^小东", ""]),
        ("A^B ", ["A^B", "", ""]),
        ("=王", ["", "王", ""]),
        ("", ["", "", ""]),
    ];
    for (name, expected) in table {
        assert_eq!(name_groups(name), expected);
    }
}

#[test]
fn verdicts_are_kept_as_text() {
    let verdict =
        CharsetVerdict::Detected { declared: "ISO_IR 100".into(), used: CharacterSets::one(CharacterSet::Gb18030) };
    let json = serde_json::to_string(&verdict).expect("serializes");
    assert_eq!(json, r#"{"detected":{"declared":"ISO_IR 100","used":"GB18030"}}"#);
    assert_eq!(serde_json::from_str::<CharsetVerdict>(&json).expect("reads back"), verdict);
}

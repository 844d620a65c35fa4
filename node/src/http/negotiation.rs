//! What a client accepts (RFC 9110 section 12.5.1, PS3.18 section 8.7): ranges with weights, and multipart ranges with
//! the type and transfer syntax of their parts.
//!
//! The stored transfer syntax is never changed: what can be chosen is only the packaging. A range without a transfer
//! syntax takes whatever is stored, except where the standard's default would mislead (pixels as octet stream).

use axum::http::{HeaderMap, header};

/// Characters of an Accept header that are looked at; OHIF's are below 200.
const ACCEPT_CHARS_MAX: usize = 4096;

/// One range of an Accept header.
#[derive(Debug, Clone, PartialEq)]
pub struct Range {
    /// `type/subtype` in lower case; of a multipart range, its parts' type.
    pub media: String,
    pub multipart: bool,
    pub transfer_syntax: Option<String>,
    weight: f32,
}

/// How an answer is packed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packing {
    /// Parts of this media type.
    Multipart(String),
    Single(String),
}

/// A representation that can be given.
pub struct Offer<'a> {
    pub media: &'a str,
    /// Transfer syntax of the bytes.
    pub transfer_syntax: &'a str,
    /// The syntax that a range means which names none; `None`: any.
    pub default_syntax: Option<&'a str>,
    /// It can be given without parts around it.
    pub single: bool,
}

/// The ranges that a client sent, the most wanted first. None sent: everything.
pub fn accepted(headers: &HeaderMap) -> Vec<Range> {
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let joined = values.collect::<Vec<_>>().join(",");
    parse(if joined.trim().is_empty() { "*/*" } else { &joined })
}

fn parse(text: &str) -> Vec<Range> {
    let text: String = text.chars().take(ACCEPT_CHARS_MAX).collect();
    let mut ranges: Vec<Range> = split(&text, ',').iter().filter_map(|part| range(part)).collect();
    // Stable: of equal weights the first is wanted most.
    ranges.sort_by(|a, b| b.weight.total_cmp(&a.weight));
    ranges.retain(|range| range.weight > 0.0);
    ranges
}

/// Splits where the separator does not stand in quotes.
fn split(text: &str, separator: char) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut quoted = false;
    for c in text.chars() {
        quoted ^= c == '"';
        if c == separator && !quoted {
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(c);
        }
    }
    parts
}

fn range(text: &str) -> Option<Range> {
    let mut pieces = split(text, ';').into_iter().map(|piece| piece.trim().to_owned());
    let media = pieces.next().filter(|media| !media.is_empty())?.to_ascii_lowercase();
    let mut range = Range { media, multipart: false, transfer_syntax: None, weight: 1.0 };
    let mut parts = None;
    for piece in pieces {
        let (name, value) = piece.split_once('=').unwrap_or((&piece, ""));
        let value = value.trim().trim_matches('"');
        match name.trim().to_ascii_lowercase().as_str() {
            "q" => range.weight = value.parse().unwrap_or(0.0),
            "type" => parts = Some(value.to_ascii_lowercase()),
            "transfer-syntax" => range.transfer_syntax = Some(value.to_owned()),
            _ => {}
        }
    }
    if matches!(range.media.as_str(), "multipart/related" | "multipart/*") {
        range.multipart = true;
        range.media = parts.unwrap_or_else(|| "*/*".into());
    }
    Some(range)
}

impl Range {
    /// Whether its media range holds this type.
    pub fn holds(&self, media: &str) -> bool {
        let family = |text: &str| text.split('/').next().unwrap_or_default().to_owned();
        self.media == "*/*" || self.media == media || self.media == format!("{}/*", family(media))
    }

    fn takes(&self, offer: &Offer<'_>) -> bool {
        let wanted = self.transfer_syntax.as_deref().or(offer.default_syntax.filter(|_| self.media == offer.media));
        self.holds(offer.media) && wanted.is_none_or(|syntax| syntax == "*" || syntax == offer.transfer_syntax)
    }
}

/// The first offer that the most wanted range takes. A bare `*/*` takes parts, which every offer has.
pub fn choose(ranges: &[Range], offers: &[Offer<'_>]) -> Option<Packing> {
    ranges.iter().find_map(|range| {
        let offer = offers.iter().find(|offer| range.takes(offer))?;
        if range.multipart || range.media == "*/*" {
            return Some(Packing::Multipart(offer.media.to_owned()));
        }
        offer.single.then(|| Packing::Single(offer.media.to_owned()))
    })
}

/// Whether one of these media types is accepted as a whole body.
pub fn takes_json(ranges: &[Range]) -> bool {
    let json = ["application/dicom+json", "application/json"];
    ranges.iter().any(|range| !range.multipart && json.iter().any(|media| range.holds(media)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPLICIT: &str = "1.2.840.10008.1.2.1";
    const JPEG_LS: &str = "1.2.840.10008.1.2.4.80";

    #[test]
    fn packings_are_chosen() {
        let dicom = |syntax| [offer("application/dicom", syntax, None, true)];
        let table: [(&str, Option<Packing>); 9] = [
            ("*/*", many("application/dicom")),
            ("multipart/related; type=\"application/dicom\"; transfer-syntax=*", many("application/dicom")),
            ("multipart/related;type=application/dicom", many("application/dicom")),
            ("application/dicom", one("application/dicom")),
            ("application/dicom; transfer-syntax=1.2.840.10008.1.2.4.80", one("application/dicom")),
            ("application/dicom; transfer-syntax=1.2.840.10008.1.2.1", None),
            ("text/html", None),
            ("application/dicom;q=0.1, multipart/related; type=\"application/dicom\"", many("application/dicom")),
            ("application/dicom;q=0", None),
        ];
        for (accept, expected) in table {
            assert_eq!(choose(&parse(accept), &dicom(JPEG_LS)), expected, "{accept}");
        }
    }

    #[test]
    fn frames_are_offered_as_they_are_stored() {
        let octets = "application/octet-stream";
        let compressed = [offer("image/jls", JPEG_LS, None, true), offer(octets, JPEG_LS, Some(EXPLICIT), true)];
        let native = [offer(octets, EXPLICIT, Some(EXPLICIT), true)];
        let table: [(&str, &[Offer<'_>], Option<Packing>); 8] = [
            ("multipart/related; type=application/octet-stream; transfer-syntax=*", &compressed, many(octets)),
            ("multipart/related; type=\"image/jls\"", &compressed, many("image/jls")),
            ("multipart/related; type=\"image/*\"", &compressed, many("image/jls")),
            ("multipart/related; type=\"application/octet-stream\"", &compressed, None),
            ("multipart/related; type=\"application/octet-stream\"", &native, many(octets)),
            ("application/octet-stream", &native, one(octets)),
            ("multipart/related; type=\"image/jpeg\"", &native, None),
            ("image/jpeg, */*;q=0.1", &native, many(octets)),
        ];
        for (accept, offers, expected) in table {
            assert_eq!(choose(&parse(accept), offers), expected, "{accept}");
        }
    }

    #[test]
    fn json_is_known_by_both_names() {
        let table = [
            ("application/dicom+json", true),
            ("application/json, text/plain", true),
            ("*/*", true),
            ("multipart/related; type=\"application/dicom+xml\"", false),
            ("text/html", false),
        ];
        for (accept, expected) in table {
            assert_eq!(takes_json(&parse(accept)), expected, "{accept}");
        }
    }

    fn offer<'a>(media: &'a str, transfer_syntax: &'a str, default: Option<&'a str>, single: bool) -> Offer<'a> {
        Offer { media, transfer_syntax, default_syntax: default, single }
    }

    fn many(media: &str) -> Option<Packing> {
        Some(Packing::Multipart(media.into()))
    }

    fn one(media: &str) -> Option<Packing> {
        Some(Packing::Single(media.into()))
    }
}

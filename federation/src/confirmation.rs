//! The patient's own confirmation of a consent: proof that whoever recorded it had the patient's code.
//!
//! The holder hands the patient a random code (80 bits, 16 characters, on paper or as a QR). At another site the
//! patient types it; that site's node makes a MAC over the consent's id and its canonical terms and records it with
//! the consent. The holder, who knows the code, can check it; nobody can guess it from the MAC. The id is unique in
//! the ledger, so a proof serves one consent.
//!
//! Whoever learns the code could confirm any terms with it. So the code stands for what the patient agreed to when it
//! was handed out, and the holder keeps that with it ([`HandedOut`]):
//! 1. it confirms only terms that lie within the agreed ones;
//! 2. only a consent that entered the ledger, by the ledger's time, before the code's last moment;
//! 3. one consent: the first in the ledger spends it for good, whatever becomes of that consent.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tessera_consensus::wire::encode;
use tessera_consensus::{LedgerIndex, SiteId, UnixMillis};
use tessera_policy::{ConsentId, ConsentTerms};
use zeroize::Zeroizing;

use crate::wire::v1::{ConsentDetails, EvidenceProof};

/// BLAKE3 `derive_key` context: frozen.
const CODE_CONTEXT: &str = "tessera v1 patient code";
/// Crockford's base 32: no I, L, O, U.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// Random bytes of a code.
const CODE_BYTES: usize = 10;
/// Characters of a code.
const CODE_CHARS: usize = 16;

/// A code that a site handed to a patient. Secret.
#[derive(Clone, PartialEq, Eq)]
pub struct PatientCode(Zeroizing<[u8; CODE_BYTES]>);

/// Why a text is not a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a patient's code has 16 letters and digits, such as ABCD-EFGH-JKMN-PQRS")]
pub struct PatientCodeError;

impl PatientCode {
    /// From random bytes, which the caller draws.
    pub fn from_bytes(bytes: [u8; CODE_BYTES]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The code as it is printed, in groups of four.
    pub fn reveal(&self) -> String {
        let number = self.0.iter().fold(0u128, |number, byte| number << 8 | u128::from(*byte));
        let mut text = String::with_capacity(CODE_CHARS + 3);
        for position in 0..CODE_CHARS {
            if position > 0 && position % 4 == 0 {
                text.push('-');
            }
            let shift = 5 * (CODE_CHARS - 1 - position);
            text.push(char::from(ALPHABET[(number >> shift & 31) as usize]));
        }
        text
    }

    /// The proof that the patient, to whom `site` handed the code, confirmed these terms.
    pub fn confirm(&self, site: &SiteId, consent: &ConsentId, terms: &ConsentTerms) -> EvidenceProof {
        EvidenceProof::Code { site: site.clone(), mac: *self.mac(site, consent, terms).as_bytes() }
    }

    /// Whether `proof` was made with this code of `site` for this consent and these terms. In constant time.
    pub fn confirms(&self, site: &SiteId, consent: &ConsentId, terms: &ConsentTerms, proof: &EvidenceProof) -> bool {
        match proof {
            EvidenceProof::Code { site: named, mac } => named == site && self.mac(site, consent, terms) == *mac,
            EvidenceProof::Attestation | EvidenceProof::Form(_) => false,
        }
    }

    fn mac(&self, site: &SiteId, consent: &ConsentId, terms: &ConsentTerms) -> blake3::Hash {
        let mut material = Zeroizing::new(self.0.to_vec());
        material.extend_from_slice(site.as_str().as_bytes());
        let key = Zeroizing::new(blake3::derive_key(CODE_CONTEXT, &material));
        let mut hasher = blake3::Hasher::new_keyed(&key);
        hasher.update(consent.as_bytes()).update(&encode(terms));
        hasher.finalize()
    }
}

/// A code as the site that handed it out keeps it. To be kept sealed: it holds the code.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandedOut {
    code: [u8; CODE_BYTES],
    site: SiteId,
    /// What the patient agreed to.
    terms: ConsentTerms,
    /// The last moment, by the ledger's time, at which a consent may enter the ledger with it.
    use_until: UnixMillis,
    spent: Option<ConsentId>,
}

/// A certified consent, as a holder of codes looks at it.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    pub index: LedgerIndex,
    /// The ledger's time of the entry; what the author's clock says does not count.
    pub at: UnixMillis,
    pub details: &'a ConsentDetails,
}

impl HandedOut {
    pub fn new(code: &PatientCode, site: SiteId, terms: ConsentTerms, use_until: UnixMillis) -> Self {
        Self { code: *code.0, site, terms, use_until, spent: None }
    }

    /// Whether nothing that this code confirmed, or still could confirm, is in force at `now`.
    pub fn is_over(&self, now: UnixMillis) -> bool {
        now > self.use_until && self.terms.is_expired(crate::policy_time(now))
    }

    fn confirms(&self, candidate: &Candidate<'_>) -> bool {
        let ConsentDetails { consent, terms, proof, .. } = candidate.details;
        candidate.at <= self.use_until
            && terms.lies_within(&self.terms)
            && PatientCode::from_bytes(self.code).confirms(&self.site, consent, terms, proof)
    }

    /// The consent that this code confirms among `certified`: the one that spent it, or else the first that does now.
    /// When [`Self::spent`] has changed it must be durable before anything is decided on it.
    pub fn confirmed(&mut self, certified: &[Candidate<'_>]) -> Option<ConsentId> {
        let mut confirmed: Vec<&Candidate<'_>> =
            certified.iter().filter(|candidate| self.confirms(candidate)).collect();
        confirmed.sort_by_key(|candidate| candidate.index);
        let ids = || confirmed.iter().map(|candidate| candidate.details.consent);
        match self.spent {
            Some(spent) => ids().find(|consent| *consent == spent),
            None => {
                self.spent = ids().next();
                self.spent
            }
        }
    }

    pub fn spent(&self) -> Option<ConsentId> {
        self.spent
    }
}

impl fmt::Debug for HandedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HandedOut(code secret, until {:?}, spent {:?})", self.use_until, self.spent)
    }
}

/// Reads what a person typed: any case, blanks and hyphens anywhere, I and L for 1, O for 0.
impl FromStr for PatientCode {
    type Err = PatientCodeError;
    fn from_str(text: &str) -> Result<Self, PatientCodeError> {
        let mut number = 0u128;
        let mut chars = 0;
        for character in text.chars().filter(|c| !matches!(c, ' ' | '-')) {
            let folded = match character.to_ascii_uppercase() {
                'I' | 'L' => '1',
                'O' => '0',
                other => other,
            };
            let digit = ALPHABET.iter().position(|known| char::from(*known) == folded).ok_or(PatientCodeError)?;
            chars += 1;
            if chars > CODE_CHARS {
                return Err(PatientCodeError);
            }
            number = number << 5 | digit as u128;
        }
        if chars != CODE_CHARS {
            return Err(PatientCodeError);
        }
        let bytes = number.to_be_bytes();
        let (_, code) = bytes.split_at(bytes.len() - CODE_BYTES);
        Ok(Self::from_bytes(code.try_into().map_err(|_| PatientCodeError)?))
    }
}

impl fmt::Debug for PatientCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("patient's code (secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use tessera_consensus::Hash;
    use tessera_policy::{ConsentDecision, Grantee, Purpose, PurposeScope, StudyScope};

    fn terms(purpose: Purpose) -> ConsentTerms {
        let purposes = PurposeScope::Only(BTreeSet::from([purpose]));
        ConsentTerms::new(ConsentDecision::Grant, Grantee::AllTreatingSites, StudyScope::All, purposes, None)
            .expect("terms")
    }

    #[test]
    fn a_proof_serves_one_code_one_site_one_consent_and_one_text() {
        let site = |name: &str| name.parse::<SiteId>().expect("site");
        let (code, other_code) = (PatientCode::from_bytes([1; 10]), PatientCode::from_bytes([2; 10]));
        let (consent, other_consent) = (ConsentId::from_bytes([1; 16]), ConsentId::from_bytes([2; 16]));
        let proof = code.confirm(&site("holder"), &consent, &terms(Purpose::Treatment));
        let form = EvidenceProof::Form(Hash::blake3(&[b"form"]));
        for (name, code, holder, consent, purpose, proof, expected) in [
            ("right", &code, "holder", &consent, Purpose::Treatment, &proof, true),
            ("other code", &other_code, "holder", &consent, Purpose::Treatment, &proof, false),
            ("other site", &code, "another", &consent, Purpose::Treatment, &proof, false),
            ("other consent", &code, "holder", &other_consent, Purpose::Treatment, &proof, false),
            ("other terms", &code, "holder", &consent, Purpose::Research, &proof, false),
            ("a form", &code, "holder", &consent, Purpose::Treatment, &form, false),
        ] {
            assert_eq!(code.confirms(&site(holder), consent, &terms(purpose), proof), expected, "{name}");
        }
    }

    fn consent(code: &PatientCode, id: u8, purpose: Purpose, until: u64) -> ConsentDetails {
        let site: SiteId = "holder".parse().expect("site");
        let terms = until_terms(purpose, until);
        let consent = ConsentId::from_bytes([id; 16]);
        let proof = code.confirm(&site, &consent, &terms);
        ConsentDetails {
            version: crate::wire::v1::VERSION,
            consent,
            terms,
            author: "requester".parse().expect("site"),
            evidence: proof.class(),
            proof,
            // The requester's own date, which it can write as it likes.
            recorded_at: UnixMillis(0),
        }
    }

    fn until_terms(purpose: Purpose, until: u64) -> ConsentTerms {
        let purposes = PurposeScope::Only(BTreeSet::from([purpose]));
        let until = Some(tessera_policy::UnixMillis::new(until));
        ConsentTerms::new(ConsentDecision::Grant, Grantee::AllTreatingSites, StudyScope::All, purposes, until)
            .expect("terms")
    }

    #[test]
    fn a_code_confirms_one_consent_within_what_the_patient_agreed_to_and_in_time() {
        let code = PatientCode::from_bytes([1; 10]);
        let good = |id| consent(&code, id, Purpose::Treatment, 100);
        let id = |id| Some(ConsentId::from_bytes([id; 16]));
        // Each consent with its index and the ledger's time; codes are good until 50 and for treatment until 100.
        for (name, certified, expected) in [
            ("in time", vec![(9, 50, good(1))], id(1)),
            ("too late by the ledger", vec![(9, 51, good(1))], None),
            ("another purpose", vec![(9, 50, consent(&code, 1, Purpose::Research, 100))], None),
            ("longer than agreed", vec![(9, 50, consent(&code, 1, Purpose::Treatment, 101))], None),
            ("the first of two", vec![(9, 50, good(1)), (8, 50, good(2))], id(2)),
            ("the first that holds", vec![(9, 50, good(1)), (8, 51, good(2))], id(1)),
        ] {
            let terms = until_terms(Purpose::Treatment, 100);
            let site = "holder".parse().expect("site");
            let mut handed_out = HandedOut::new(&code, site, terms, UnixMillis(50));
            let candidates: Vec<Candidate<'_>> = certified
                .iter()
                .map(|(index, at, details)| Candidate { index: LedgerIndex(*index), at: UnixMillis(*at), details })
                .collect();
            assert_eq!(handed_out.confirmed(&candidates), expected, "{name}");
            assert_eq!(handed_out.spent(), expected, "{name}");
        }
    }

    #[test]
    fn a_spent_code_stays_with_its_consent() {
        let code = PatientCode::from_bytes([1; 10]);
        let site = "holder".parse().expect("site");
        let mut handed_out = HandedOut::new(&code, site, until_terms(Purpose::Treatment, 100), UnixMillis(50));
        let (first, again) = (consent(&code, 1, Purpose::Treatment, 90), consent(&code, 2, Purpose::Treatment, 90));
        let candidate = |index, details| Candidate { index: LedgerIndex(index), at: UnixMillis(10), details };
        assert_eq!(handed_out.confirmed(&[candidate(5, &first)]), Some(first.consent));
        assert_eq!(handed_out.confirmed(&[candidate(4, &again)]), None, "an older entry that shows up later");
        assert_eq!(handed_out.confirmed(&[candidate(4, &again), candidate(5, &first)]), Some(first.consent));
        assert!(!handed_out.is_over(UnixMillis(100)) && handed_out.is_over(UnixMillis(101)));
    }

    #[test]
    fn codes_are_read_as_people_type_them() {
        let code = PatientCode::from_bytes([0x00, 0x44, 0x32, 0x14, 0xC7, 0x42, 0x54, 0xB6, 0x35, 0xCF]);
        assert_eq!(code.reveal(), "0123-4567-89AB-CDEF");
        for text in ["0123-4567-89ab-cdef", "O l23 4567 89AB CDEF", "012345678 9ABCDEF"] {
            assert_eq!(text.parse(), Ok(code.clone()), "{text:?}");
        }
        for text in ["", "0123-4567-89AB-CDE", "0123-4567-89AB-CDEFF", "0123-4567-89AB-CDEU", "０123-4567-89AB-CDEF"] {
            assert_eq!(text.parse::<PatientCode>(), Err(PatientCodeError), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn every_code_reads_back(bytes: [u8; 10]) {
            let code = PatientCode::from_bytes(bytes);
            prop_assert_eq!(code.reveal().parse(), Ok(code));
        }
    }
}

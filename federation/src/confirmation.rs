//! The patient's own confirmation of a consent: proof that whoever recorded it had the patient's code.
//!
//! The holder hands the patient a random code (80 bits, 16 characters, on paper or as a QR). At another site the
//! patient types it; that site's node makes a MAC over the consent's id and its canonical terms and records it with
//! the consent. The holder, who knows the code, can check it; nobody can guess it from the MAC. The id is unique in
//! the ledger, so a proof serves one consent. A code serves one consent too: the holder counts it as spent with the
//! first one that is certified.

use std::fmt;
use std::str::FromStr;

use tessera_consensus::SiteId;
use tessera_consensus::wire::encode;
use tessera_policy::{ConsentId, ConsentTerms};
use zeroize::Zeroizing;

use crate::wire::v1::EvidenceProof;

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

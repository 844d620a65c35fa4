//! Generated persons and the hospitals that examine them. Nobody real: names say "test patient" and a number, and
//! resident numbers lie in a region (000000) that does not exist, though their check digits are right.
//! The same number always gives the same person, so that several hospitals meet the same patient.

use super::element_writer::Characters;
use super::texture::{mix, mix_all};

/// Chinese digits; zero as it is written in years and numbers.
const DIGITS: [char; 10] = ['〇', '一', '二', '三', '四', '五', '六', '七', '八', '九'];

/// The region code of resident numbers that no authority issues.
const NO_REGION: &str = "000000";

/// Weights and check characters of resident numbers (GB 11643-1999).
const WEIGHTS: [u32; 17] = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2];
const CHECK_CHARACTERS: [char; 11] = ['1', '0', 'X', '9', '8', '7', '6', '5', '4', '3', '2'];

/// A generated person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    pub index: u32,
    pub is_male: bool,
    pub birth_year: u16,
    pub birth_month: u8,
    pub birth_day: u8,
}

impl Person {
    pub fn generate(seed: u64, index: u32) -> Self {
        let dice = mix_all(&[seed, 1, index.into()]);
        let pick = |salt: u64, count: u64| mix(dice ^ salt) % count;
        Self {
            index,
            is_male: pick(1, 2) == 0,
            birth_year: 1940 + pick(2, 60) as u16,
            birth_month: 1 + pick(3, 12) as u8,
            birth_day: 1 + pick(4, 28) as u8,
        }
    }

    pub fn sex(&self) -> &'static str {
        if self.is_male { "M" } else { "F" }
    }

    pub fn birth_date(&self) -> String {
        format!("{:04}{:02}{:02}", self.birth_year, self.birth_month, self.birth_day)
    }

    /// `Ceshi^Huanzhe01=测试^患者〇一`: "test, patient 01".
    pub fn name(&self) -> String {
        let number = self.index + 1;
        let digits = format!("{number:02}");
        let written: String = digits.bytes().map(|digit| DIGITS[usize::from(digit - b'0')]).collect();
        format!("Ceshi^Huanzhe{digits}=测试^患者{written}")
    }

    /// A resident number with a right check digit and a region that does not exist.
    pub fn resident_number(&self) -> String {
        // The order number is odd for men, even for women.
        let order = 2 * (self.index % 499) + u32::from(self.is_male);
        let body = format!("{NO_REGION}{}{order:03}", self.birth_date());
        let sum: u32 = body.bytes().zip(WEIGHTS).map(|(digit, weight)| u32::from(digit - b'0') * weight).sum();
        format!("{body}{}", CHECK_CHARACTERS[sum as usize % 11])
    }

    /// Age at a date as an AS value.
    pub fn age(&self, year: u16, month: u8, day: u8) -> String {
        let had_birthday = (month, day) >= (self.birth_month, self.birth_day);
        let years = year.saturating_sub(self.birth_year).saturating_sub(u16::from(!had_birthday));
        format!("{years:03}Y")
    }

    pub fn weight_kg(&self) -> f64 {
        f64::from(55 + self.index % 30)
    }
}

/// A generated hospital.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hospital {
    pub index: u32,
    pub issuer: String,
    pub characters: Characters,
}

impl Hospital {
    pub fn new(index: u32, issuer: &str) -> Self {
        let characters = match index % 4 {
            0 => Characters::Gb18030,
            1 => Characters::Utf8,
            2 => Characters::GbkAsLatin1,
            _ => Characters::Gbk,
        };
        Self { index, issuer: issuer.to_owned(), characters }
    }

    pub fn name(&self) -> String {
        format!("测试医院{}", char::from(b'A' + (self.index % 26) as u8))
    }

    /// The number under which this hospital knows a person: different at each, so that only a crosswalk tells.
    pub fn patient_id(&self, seed: u64, person: &Person) -> String {
        let base = mix_all(&[seed, 2, self.index.into()]) % 900_000;
        // 7919 and 900,000 have no common factor: no two persons share a number.
        let number = 100_000 + (base + u64::from(person.index) * 7919) % 900_000;
        format!("{}{number}", ["M", "P", "Z", "H"][self.index as usize % 4])
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn persons_are_obviously_generated() {
        let person = Person { index: 0, is_male: true, birth_year: 1970, birth_month: 1, birth_day: 31 };
        assert_eq!(person.name(), "Ceshi^Huanzhe01=测试^患者〇一");
        assert_eq!(person.resident_number().len(), 18);
        assert!(person.resident_number().starts_with("00000019700131001"));
        assert_eq!(person.age(2025, 1, 30), "054Y");
        assert_eq!(person.age(2025, 1, 31), "055Y");
    }

    #[test]
    fn numbers_do_not_collide() {
        let hospital = Hospital::new(1, "SITEB");
        let persons: Vec<Person> = (0..2000).map(|index| Person::generate(1, index)).collect();
        let local: BTreeSet<String> = persons.iter().map(|person| hospital.patient_id(1, person)).collect();
        assert_eq!(local.len(), 2000);
        assert!(local.iter().all(|number| number.starts_with('P')));
    }

    #[test]
    fn resident_numbers_keep_their_rules() {
        for index in 0..50 {
            let number = Person::generate(3, index).resident_number();
            let identifier = tessera_policy::Identifier::parse(&format!("resident:{number}")).expect("a number");
            assert_eq!(identifier.check(), Ok(()), "{number}");
        }
    }
}

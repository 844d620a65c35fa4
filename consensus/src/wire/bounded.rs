//! Sequences with a limit that holds while they are read, not after: what a peer announces costs memory only up to it.
//!
//! A sequence of small items can be a hundred times larger in memory than on the wire (an outcome of one byte there has
//! dozens here), so a bound on the bytes alone is none. The limit is checked against the announced length, before
//! anything is allocated, and against each item. The encoding is that of a plain sequence.
//! Not here: bounds on bytes, which [`super::decode`] checks first.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// Reads a sequence of at most `MAX` items; for `#[serde(deserialize_with)]`.
pub fn at_most<'de, D, T, const MAX: usize>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    deserializer.deserialize_seq(Items::<T, MAX>(PhantomData))
}

/// A sequence of at most `MAX` items, where it stands alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct AtMost<T, const MAX: usize>(pub Vec<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for AtMost<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        at_most::<_, _, MAX>(deserializer).map(Self)
    }
}

struct Items<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Items<T, MAX> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a sequence of at most {MAX} items")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
        let announced = items.size_hint().unwrap_or(0);
        if announced > MAX {
            return Err(A::Error::invalid_length(announced, &self));
        }
        let mut read = Vec::new();
        while let Some(item) = items.next_element()? {
            if read.len() == MAX {
                return Err(A::Error::invalid_length(MAX + 1, &self));
            }
            read.push(item);
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{DecodeError, decode, encode};
    use super::*;

    type Three = AtMost<u64, 3>;

    #[test]
    fn the_limit_holds_and_the_encoding_is_a_plain_sequences() {
        for count in 0..=3 {
            let plain: Vec<u64> = (0..count).collect();
            assert_eq!(encode(&AtMost::<u64, 3>(plain.clone())), encode(&plain));
            assert_eq!(decode::<Three>("three", &encode(&plain), 64), Ok(AtMost(plain)));
        }
        let four: Vec<u64> = (0..4).collect();
        let refused = Err(DecodeError::Malformed { what: "three" });
        assert_eq!(decode::<Three>("three", &encode(&four), 64), refused);
        // A length of 2^60, and nothing behind it.
        let absurd = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10];
        assert_eq!(decode::<Three>("three", &absurd, 64), refused);
    }
}

//! Enumerations with frozen wire numbers.
//!
//! What is signed or hashed must not depend on the order in which a source file lists its variants. So each
//! enumeration that may reach signed bytes is declared with an explicit number and one stable name, and serde
//! writes the number (a `u16`). A number that this version does not know is refused on reading: a node that
//! meets newer vocabulary says so instead of guessing.
//!
//! Numbers are added, never changed and never reused; golden files in `federation` hold the bytes.

/// A number or a name that this version of the vocabulary does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NumberedError {
    /// Read from the wire.
    #[error("{what} number {number} is unknown to this version; update this node or ask the sender what it means")]
    UnknownNumber { what: &'static str, number: u16 },
    /// Typed by a person or read from a file.
    #[error("{what} {name:?} is unknown; use one of: {known}")]
    UnknownName { what: &'static str, name: String, known: String },
}

/// How much of an unknown name an error message repeats.
pub(crate) const ECHO_CHARS_MAX: usize = 40;

/// Declares an enumeration with a number and a name for each variant, `serde` by number, `FromStr` and
/// `Display` by name.
macro_rules! numbered {
    (
        $(#[$meta:meta])*
        pub enum $name:ident ($what:literal) {
            $( $(#[$vmeta:meta])* $variant:ident = $number:literal $text:literal, )+
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(into = "u16", try_from = "u16")]
        #[repr(u16)]
        pub enum $name {
            $( $(#[$vmeta])* $variant = $number, )+
        }

        impl $name {
            /// Every value that this version knows, in the order of declaration.
            pub const ALL: &'static [$name] = &[$( $name::$variant ),+];

            /// The number in signed bytes.
            pub const fn number(self) -> u16 {
                self as u16
            }

            /// The name in commands, rules and logs.
            pub const fn as_str(self) -> &'static str {
                match self { $( $name::$variant => $text, )+ }
            }
        }

        impl From<$name> for u16 {
            fn from(value: $name) -> u16 {
                value.number()
            }
        }

        impl TryFrom<u16> for $name {
            type Error = $crate::numbered::NumberedError;
            fn try_from(number: u16) -> Result<Self, Self::Error> {
                match number {
                    $( $number => Ok($name::$variant), )+
                    _ => Err($crate::numbered::NumberedError::UnknownNumber { what: $what, number }),
                }
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::numbered::NumberedError;
            fn from_str(name: &str) -> Result<Self, Self::Err> {
                match name {
                    $( $text => Ok($name::$variant), )+
                    _ => Err($crate::numbered::NumberedError::UnknownName {
                        what: $what,
                        name: name.chars().take($crate::numbered::ECHO_CHARS_MAX).collect(),
                        known: [$( $text ),+].join(", "),
                    }),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::NumberedError;

    numbered! {
        /// Two values for the tests below.
        pub enum Token ("token") {
            Left = 1 "left",
            Right = 7 "right",
        }
    }

    #[test]
    fn names_and_numbers_round_trip() {
        for value in Token::ALL {
            assert_eq!(Token::try_from(value.number()), Ok(*value));
            assert_eq!(value.to_string().parse(), Ok(*value));
        }
    }

    #[test]
    fn unknown_numbers_and_names_are_refused() {
        assert_eq!(Token::try_from(2), Err(NumberedError::UnknownNumber { what: "token", number: 2 }));
        let error = "middle".parse::<Token>().unwrap_err();
        assert_eq!(error.to_string(), "token \"middle\" is unknown; use one of: left, right");
    }

    #[test]
    fn every_vocabulary_has_distinct_numbers_and_names() {
        fn check(what: &str, entries: Vec<(u16, &str)>) {
            let numbers: std::collections::BTreeSet<_> = entries.iter().map(|entry| entry.0).collect();
            let names: std::collections::BTreeSet<_> = entries.iter().map(|entry| entry.1).collect();
            assert_eq!((numbers.len(), names.len()), (entries.len(), entries.len()), "{what}");
        }
        macro_rules! check_all {
            ($($name:ty),+) => {$(
                check(stringify!($name), <$name>::ALL.iter().map(|v| (v.number(), v.as_str())).collect());
            )+};
        }
        check_all!(
            crate::IdentifierKind,
            crate::Purpose,
            crate::EvidenceClass,
            crate::ConsentDecision,
            crate::VisibilityClass,
            crate::SensitiveMark,
            crate::BodyRegion,
            crate::ReleaseState,
            crate::RejectionReason,
            crate::Role,
            crate::Title,
            crate::Sex
        );
    }
}

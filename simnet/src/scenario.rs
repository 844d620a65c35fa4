//! Scenarios that people write and read: a federation, and what happens to it at which time, in a few lines of TOML.
//!
//! A scenario becomes a [`Plan`]; the seed decides the rest (jitter, losses, whose write a power cut meets). The library is
//! the folder `scenarios`. Not here: what a fault does ([`crate::world`]) and what is checked ([`crate::oracle`]).

use std::str::FromStr;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use crate::network::{Host, Line, Lines};
use crate::plan::{Fault, Plan, Size, Timed, Who};

/// Sizes for which there is a core that decides.
const CORE_SIZES: [u16; 4] = [1, 3, 4, 7];

/// Why a text is no scenario.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    #[error("{0}")]
    Toml(#[from] toml::de::Error),
    #[error("core = {0}: a core has 1, 3, 4 or 7 hospitals")]
    Core(u16),
    #[error("{0} is no host of this scenario")]
    Nobody(String),
}

/// What a person wrote, as a plan that waits for its seed.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What it shows, in sentences for people.
    pub about: String,
    plan: Plan,
}

/// What a file says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    about: String,
    core: u16,
    members: u16,
    /// Lines of the core hospitals, and of those that follow.
    #[serde(default)]
    core_lines: Profile,
    #[serde(default)]
    member_lines: Profile,
    /// Matters that each hospital registers, spread over this time.
    matters: u32,
    over: Span,
    /// After the last event everything must be done within this.
    patience: Span,
    #[serde(rename = "event", default)]
    events: Vec<Event>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Profile {
    #[default]
    Fibre,
    County,
    Satellite,
}

impl Profile {
    const fn line(self) -> Line {
        match self {
            Self::Fibre => Line::FIBRE,
            Self::County => Line::COUNTY,
            Self::Satellite => Line::SATELLITE,
        }
    }
}

/// A time such as `1500ms`, `20s` or `3m`, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span(u64);

impl FromStr for Span {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
        let unit_ms = match &text[digits..] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(format!("{text:?} is no time; write 1500ms, 20s, 3m or 1h")),
        };
        let no_time = || format!("{text:?} is no time");
        let count: u64 = text[..digits].parse().map_err(|_| no_time())?;
        count.checked_mul(unit_ms).map(Self).ok_or_else(no_time)
    }
}

/// `leader`, `another core hospital`, `core 2` or `member 1`, as the file names it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Named {
    Leader,
    Another,
    Core(u16),
    Member(u16),
}

impl FromStr for Named {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let number = |digits: &str| digits.parse().map_err(|_| format!("{text:?} has no number"));
        match text.split_once(' ') {
            None if text == "leader" => Ok(Self::Leader),
            Some(("another", "core hospital")) => Ok(Self::Another),
            Some(("core", digits)) => Ok(Self::Core(number(digits)?)),
            Some(("member", digits)) => Ok(Self::Member(number(digits)?)),
            _ => Err(format!("{text:?} is nobody; write leader, another core hospital, core 2 or member 1")),
        }
    }
}

macro_rules! from_text {
    ($($kind:ty),*) => {$(
        impl<'de> Deserialize<'de> for $kind {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
    )*};
}
from_text!(Span, Named);

#[derive(Clone, Debug, Deserialize)]
struct Event {
    at: Span,
    lasts: Span,
    #[serde(flatten)]
    what: What,
}

/// What happens; to each of `who`, where several are named.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
enum What {
    PowerCut { who: Vec<Named> },
    PowerCutInWrite { who: Vec<Named> },
    Freeze { who: Vec<Named> },
    Partition { side: Vec<Named> },
    Muted { side: Vec<Named> },
    Bridge { between: [Named; 2] },
    FailedSync { who: Vec<Named> },
    FullDisk { who: Vec<Named> },
    SlowDisk { who: Vec<Named>, factor: u32 },
    ClockAhead { who: Vec<Named>, by: Span },
    ClockBehind { who: Vec<Named>, by: Span },
    BadLines { lost_per_10000: u32, repeated_per_10000: u32 },
}

impl Scenario {
    pub fn parse(text: &str) -> Result<Self, ScenarioError> {
        let file: File = toml::from_str(text)?;
        if !CORE_SIZES.contains(&file.core) {
            return Err(ScenarioError::Core(file.core));
        }
        let plan = Plan {
            seed: 0,
            size: Size { core: file.core, members: file.members },
            lines: Lines { core: file.core_lines.line(), members: file.member_lines.line() },
            commands: file.matters,
            pause_ms_max: file.over.0.saturating_mul(2) / u64::from(file.matters.max(1)),
            faults: file.faults()?,
            lag_ms_max: None,
            patience_ms: file.patience.0,
            mutation: None,
        };
        Ok(Self { about: file.about, plan })
    }

    /// What happens in a run with this seed.
    pub fn plan(&self, seed: u64) -> Plan {
        Plan { seed, ..self.plan.clone() }
    }
}

impl File {
    fn faults(&self) -> Result<Vec<Timed>, ScenarioError> {
        let mut faults = Vec::new();
        for event in &self.events {
            let timed = |fault| Timed { at_ms: event.at.0, lasts_ms: event.lasts.0, fault };
            faults.extend(self.faults_of(&event.what)?.into_iter().map(timed));
        }
        faults.sort_by_key(|timed| timed.at_ms);
        Ok(faults)
    }

    fn faults_of(&self, what: &What) -> Result<Vec<Fault>, ScenarioError> {
        let all = |named: &[Named]| named.iter().map(|one| self.who(one)).collect::<Result<Vec<Who>, _>>();
        let each = |named: &[Named], fault: &dyn Fn(Who) -> Fault| Ok(all(named)?.into_iter().map(fault).collect());
        let signed = |by: &Span| i64::try_from(by.0).unwrap_or(i64::MAX);
        match what {
            What::PowerCut { who } => each(who, &|who| Fault::PowerCut { who }),
            What::PowerCutInWrite { who } => each(who, &|who| Fault::PowerCutInWrite { who }),
            What::Freeze { who } => each(who, &|who| Fault::Freeze { who }),
            What::Partition { side } => Ok(vec![Fault::Partition { side: all(side)? }]),
            What::Muted { side } => Ok(vec![Fault::Muted { side: all(side)? }]),
            What::Bridge { between: [one, other] } => {
                Ok(vec![Fault::Bridge { between: [self.who(one)?, self.who(other)?] }])
            }
            What::FailedSync { who } => each(who, &|who| Fault::FailedSync { who }),
            What::FullDisk { who } => each(who, &|who| Fault::FullDisk { who }),
            What::SlowDisk { who, factor } => each(who, &|who| Fault::SlowDisk { who, factor: *factor }),
            What::ClockAhead { who, by } => each(who, &|who| Fault::ClockJump { who, by_ms: signed(by) }),
            What::ClockBehind { who, by } => each(who, &|who| Fault::ClockJump { who, by_ms: -signed(by) }),
            What::BadLines { lost_per_10000, repeated_per_10000 } => {
                Ok(vec![Fault::BadLines { lost_per_10000: *lost_per_10000, repeated_per_10000: *repeated_per_10000 }])
            }
        }
    }

    fn who(&self, named: &Named) -> Result<Who, ScenarioError> {
        let within = |number: u16, count: u16| (1..=count).contains(&number);
        match named {
            Named::Leader => Ok(Who::Leader),
            Named::Another => Ok(Who::Other),
            Named::Core(number) if within(*number, self.core) => Ok(Who::Host(Host(*number))),
            Named::Core(number) => Err(ScenarioError::Nobody(format!("core {number}"))),
            Named::Member(number) if within(*number, self.members) => Ok(Who::Host(Host(self.core + number))),
            Named::Member(number) => Err(ScenarioError::Nobody(format!("member {number}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "about = \"x\"\ncore = 4\nmembers = 2\nmatters = 4\nover = \"20s\"\npatience = \"1m\"\n";

    fn event(lines: &str) -> Result<Plan, ScenarioError> {
        Scenario::parse(&format!("{HEAD}[[event]]\nat = \"3s\"\nlasts = \"1500ms\"\n{lines}"))
            .map(|scenario| scenario.plan(1))
    }

    #[test]
    fn what_is_written_is_what_happens() {
        let table: [(&str, Vec<Fault>); 4] = [
            (
                "what = \"partition\"\nside = [\"leader\", \"member 2\"]",
                vec![Fault::Partition { side: vec![Who::Leader, Who::Host(Host(6))] }],
            ),
            (
                "what = \"power-cut\"\nwho = [\"core 1\", \"another core hospital\"]",
                vec![Fault::PowerCut { who: Who::Host(Host(1)) }, Fault::PowerCut { who: Who::Other }],
            ),
            (
                "what = \"clock-behind\"\nwho = [\"leader\"]\nby = \"2h\"",
                vec![Fault::ClockJump { who: Who::Leader, by_ms: -7_200_000 }],
            ),
            (
                "what = \"bad-lines\"\nlost-per-10000 = 500\nrepeated-per-10000 = 0",
                vec![Fault::BadLines { lost_per_10000: 500, repeated_per_10000: 0 }],
            ),
        ];
        for (lines, expected) in table {
            let plan = event(lines).unwrap_or_else(|error| panic!("{lines}: {error}"));
            let faults: Vec<Timed> =
                expected.into_iter().map(|fault| Timed { at_ms: 3_000, lasts_ms: 1_500, fault }).collect();
            assert_eq!(plan.faults, faults);
            assert_eq!((plan.size, plan.pause_ms_max), (Size { core: 4, members: 2 }, 10_000));
        }
    }

    #[test]
    fn what_nobody_can_mean_is_refused_with_a_reason() {
        for (lines, why) in [
            ("what = \"freeze\"\nwho = [\"member 3\"]", "member 3 is no host"),
            ("what = \"freeze\"\nwho = [\"core 5\"]", "core 5 is no host"),
            ("what = \"freeze\"\nwho = [\"everybody\"]", "is nobody"),
            ("what = \"flood\"\nwho = [\"leader\"]", "unknown variant `flood`"),
            ("what = \"slow-disk\"\nwho = [\"leader\"]", "missing field `factor`"),
        ] {
            let refused = event(lines).expect_err(why).to_string();
            assert!(refused.contains(why), "{lines}: {refused}");
        }
        for (text, why) in [
            (HEAD.replace("core = 4", "core = 2"), "a core has 1, 3, 4 or 7"),
            (HEAD.replace("20s", "20"), "is no time"),
            (format!("{HEAD}pace = 3\n"), "unknown field `pace`"),
        ] {
            let refused = Scenario::parse(&text).expect_err(why).to_string();
            assert!(refused.contains(why), "{text}: {refused}");
        }
    }
}

//! The integrity score: a pure function of what is known, with what was attested told apart from what was said.

use serde::{Deserialize, Serialize};

/// The score of a node of which nothing bad is known, in thousandths.
const FULL_SCORE: u16 = 1_000;
/// What a known vulnerability costs, in thousandths.
const VULNERABLE: u16 = 300;
/// What old firmware costs, in thousandths.
const OLD_FIRMWARE: u16 = 200;
/// What suspicious processes cost, in thousandths.
const SUSPICIOUS: u16 = 400;
/// Days after which firmware is old.
const OLD_FIRMWARE_DAYS: u32 = 365;

/// One thing that is known, by whom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input<T> {
    /// What evidence says that a vendor's key signs.
    pub attested: Option<T>,
    /// What the node says of itself. Only what lowers the score counts.
    pub reported: Option<T>,
}

impl<T: PartialOrd + Copy> Input<T> {
    /// The worse of both, where more is worse.
    fn worst(&self) -> Option<T> {
        match (self.attested, self.reported) {
            (Some(attested), Some(reported)) if reported > attested => Some(reported),
            (Some(attested), _) => Some(attested),
            (None, reported) => reported,
        }
    }
}

/// What the score follows from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntegrityInputs {
    /// Whether something that runs has a known vulnerability.
    pub vulnerable: Input<bool>,
    /// How old the firmware is, in days.
    pub firmware_age_days: Input<u32>,
    /// Processes that inspect or change others.
    pub suspicious_processes: Input<u32>,
}

/// Which inputs were attested, as a mask: the lowest bit is the vulnerability, then the age of firmware, then processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AttestedInputs(u8);

impl AttestedInputs {
    /// Its mask.
    pub fn mask(self) -> u8 {
        self.0
    }
}

impl IntegrityInputs {
    /// Which of them were attested.
    pub fn attested(&self) -> AttestedInputs {
        let bits = [
            self.vulnerable.attested.is_some(),
            self.firmware_age_days.attested.is_some(),
            self.suspicious_processes.attested.is_some(),
        ];
        AttestedInputs(bits.iter().enumerate().map(|(index, set)| u8::from(*set) << index).sum())
    }
}

/// The score in thousandths: 1,000, less 300 for a known vulnerability, 200 for firmware older than 365 days, 400 for
/// suspicious processes; never under 0. What is not known costs nothing, which is why the inputs are named beside it.
pub fn integrity_score(inputs: &IntegrityInputs) -> u16 {
    let mut score = FULL_SCORE;
    if inputs.vulnerable.worst() == Some(true) {
        score = score.saturating_sub(VULNERABLE);
    }
    if inputs.firmware_age_days.worst().is_some_and(|days| days > OLD_FIRMWARE_DAYS) {
        score = score.saturating_sub(OLD_FIRMWARE);
    }
    if inputs.suspicious_processes.worst().is_some_and(|count| count > 0) {
        score = score.saturating_sub(SUSPICIOUS);
    }
    score
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reported<T>(value: T) -> Input<T> {
        Input { attested: None, reported: Some(value) }
    }

    #[test]
    fn each_input_costs_what_is_written() {
        let none = IntegrityInputs::default();
        assert_eq!(integrity_score(&none), 1_000);
        assert_eq!(integrity_score(&IntegrityInputs { vulnerable: reported(true), ..none }), 700);
        assert_eq!(integrity_score(&IntegrityInputs { vulnerable: reported(false), ..none }), 1_000);
        assert_eq!(integrity_score(&IntegrityInputs { firmware_age_days: reported(365), ..none }), 1_000);
        assert_eq!(integrity_score(&IntegrityInputs { firmware_age_days: reported(366), ..none }), 800);
        assert_eq!(integrity_score(&IntegrityInputs { suspicious_processes: reported(1), ..none }), 600);
        let all = IntegrityInputs {
            vulnerable: reported(true),
            firmware_age_days: reported(366),
            suspicious_processes: reported(2),
        };
        assert_eq!(integrity_score(&all), 100);
    }

    #[test]
    fn attested_inputs_are_named() {
        let inputs = IntegrityInputs {
            vulnerable: Input { attested: Some(false), reported: None },
            firmware_age_days: reported(3),
            suspicious_processes: Input { attested: Some(0), reported: Some(1) },
        };
        assert_eq!(inputs.attested().mask(), 0b101);
    }

    fn input<T: std::fmt::Debug + Clone + 'static>(
        value: impl Strategy<Value = T> + Clone + 'static,
    ) -> impl Strategy<Value = Input<T>> {
        (proptest::option::of(value.clone()), proptest::option::of(value))
            .prop_map(|(attested, reported)| Input { attested, reported })
    }

    proptest! {
        #[test]
        fn what_a_node_says_of_itself_never_raises_its_score(
            vulnerable in input(any::<bool>()),
            firmware_age_days in input(0_u32..1_000),
            suspicious_processes in input(0_u32..3),
        ) {
            let said = IntegrityInputs { vulnerable, firmware_age_days, suspicious_processes };
            let silent = IntegrityInputs {
                vulnerable: Input { reported: None, ..vulnerable },
                firmware_age_days: Input { reported: None, ..firmware_age_days },
                suspicious_processes: Input { reported: None, ..suspicious_processes },
            };
            prop_assert!(integrity_score(&said) <= integrity_score(&silent));
        }
    }
}

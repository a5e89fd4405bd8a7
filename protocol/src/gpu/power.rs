//! Watts, hours, batteries and what electricity costs; and what follows from all limits together.

use super::{
    heat::{Heat, SensorFault},
    owner::OwnerUse,
};
use crate::MicroCredits;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{fmt, str::FromStr};

/// Minutes of a day.
const DAY: u16 = 24 * 60;
/// By how much jobs get faster at a reading, and how slow they get, where watts limit them, in percent of the full speed.
const PACE_STEP: u8 = 3;
const SLOWEST: u8 = 10;
/// Speed of jobs at a critical temperature, in percent of the full one.
const SLOW: u8 = 40;

/// A time of the day during which jobs are taken, such as `22:00-06:30`; it may run over midnight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hours {
    /// Minutes after midnight, 0 to 1439.
    from: u16,
    /// Minutes after midnight, not included; 1440 for the end of the day.
    until: u16,
}

/// What is no time of the day.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no time of the day: write it as 22:00-06:30, from 00:00 to 24:00")]
pub struct HoursError(String);

impl Hours {
    /// Whether `minute` of the day is within.
    pub fn contains(&self, minute: u16) -> bool {
        if self.from < self.until {
            (self.from..self.until).contains(&minute)
        } else {
            minute >= self.from || minute < self.until
        }
    }
}

impl FromStr for Hours {
    type Err = HoursError;

    fn from_str(text: &str) -> Result<Self, HoursError> {
        let minutes = |text: &str| -> Option<u16> {
            let (hour, minute) = text.split_once(':').unwrap_or((text, "00"));
            let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()) && text.len() <= 2;
            if !digits(hour) || !digits(minute) {
                return None;
            }
            let (hour, minute): (u16, u16) = (hour.parse().ok()?, minute.parse().ok()?);
            let of_day = hour * 60 + minute;
            (minute < 60 && of_day <= DAY).then_some(of_day)
        };
        let error = || HoursError(text.chars().take(40).collect());
        let (from, until) = text.split_once('-').ok_or_else(error)?;
        match (minutes(from.trim()), minutes(until.trim())) {
            (Some(from), Some(until)) if from != until && from < DAY => Ok(Self { from, until }),
            _ => Err(error()),
        }
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, until } = self;
        write!(formatter, "{:02}:{:02}-{:02}:{:02}", from / 60, from % 60, until / 60, until % 60)
    }
}

impl Serialize for Hours {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hours {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// What feeds the machine.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "supply", rename_all = "snake_case")]
pub enum Supply {
    /// A socket, and no battery that is known.
    Mains,
    /// A battery, which a socket may be charging.
    Battery {
        /// Whether it runs from the socket now.
        plugged: bool,
        /// Charge in percent, where it is told.
        charge: Option<u8>,
    },
}

/// What the owner allows.
#[derive(Clone, Debug, PartialEq)]
pub struct Allowed {
    /// When jobs are taken; always if empty. In local time.
    pub hours: Vec<Hours>,
    /// Most watts of all GPUs together.
    pub watts: Option<u32>,
    /// Whether jobs are taken while the machine runs from its battery.
    pub on_battery: bool,
    /// Charge in percent below which nothing is taken, whatever feeds the machine.
    pub least_charge: u8,
}

/// What is so now.
#[derive(Clone, Debug, PartialEq)]
pub struct Conditions {
    /// Minute of the day in local time.
    pub minute: u16,
    /// How the machine is fed.
    pub supply: Supply,
    /// The hottest of the GPUs whose sensors are believed.
    pub heat: Heat,
    /// Sensors that are not believed.
    pub faults: Vec<Faulty>,
    /// Whether the owner uses a GPU.
    pub owner: Option<OwnerUse>,
    /// Watts that all GPUs draw, where that is measured.
    pub drawn: Option<u32>,
    /// Speed in percent to which the budget in watts slows the GPUs down now.
    pub pace: u8,
    /// Jobs that run.
    pub running: u32,
}

/// A sensor that is not believed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Faulty {
    /// Of which GPU.
    pub gpu: String,
    /// Why.
    pub fault: SensorFault,
    /// How hot the GPU is taken to be.
    pub heat: Heat,
}

/// Why fewer jobs are taken than the owner has set, or none.
#[derive(Clone, Debug, PartialEq, Serialize, thiserror::Error)]
#[serde(tag = "limit", rename_all = "snake_case")]
pub enum Limit {
    /// Outside of the hours.
    #[error("it is not the time: see `hours` under [power]")]
    Hours,
    /// On battery.
    #[error("the machine runs from its battery: plug it in, or set `on_battery` under [power]")]
    OnBattery,
    /// The battery is low.
    #[error("the battery has {charge} %, and takes jobs from {least} % on: see `least_charge` under [power]")]
    LowBattery {
        /// What it has, in percent.
        charge: u8,
        /// What it needs, in percent.
        least: u8,
    },
    /// The charge of the battery is not known.
    #[error("the machine has a battery whose charge cannot be read")]
    UnknownCharge,
    /// It is warm.
    #[error("a GPU is warm, so fewer jobs are taken: clean its fans, give it air, or see [heat]")]
    Warm,
    /// It is too hot.
    #[error("a GPU is too hot, so no job is taken: clean its fans, give it air, or see [heat]")]
    Hot,
    /// It is so hot that everything stopped.
    #[error("a GPU is dangerously hot, so everything stopped: check its fans")]
    Overheated,
    /// A sensor is not believed.
    #[error("{gpu}: {fault}, so the GPU counts as too hot: check its driver")]
    Sensor {
        /// Of which GPU.
        gpu: String,
        /// Why.
        fault: SensorFault,
    },
    /// The owner uses a GPU.
    #[error("{using}, and its owner comes first")]
    Owner {
        /// For what.
        using: OwnerUse,
    },
    /// The watts are used up.
    #[error("the GPUs draw {drawn} W of {budget} W: see `watts` under [power]")]
    Watts {
        /// What they draw.
        drawn: u32,
        /// What they may.
        budget: u32,
    },
}

/// What becomes of jobs that run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Running {
    /// They go on.
    GoOn,
    /// They go on at this percentage of the full speed.
    Slow(u8),
    /// They stop at once; their clients go on elsewhere.
    Stop,
}

/// What follows from all limits.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Decision {
    /// Jobs that may run in all now.
    pub slots: u32,
    /// Jobs that may run as soon as those that run have ended; none where nothing but a change of circumstances helps.
    pub offered: u32,
    /// What becomes of those that run.
    pub running: Running,
    /// Why, the gravest first; empty where nothing limits.
    pub limits: Vec<Limit>,
}

/// How many of `slots` jobs may run now. Draining means that those that run end in peace: no limit but a dangerous
/// temperature, or a sensor that has failed for seconds, ends a job.
pub fn decide(allowed: &Allowed, conditions: &Conditions, slots: u32) -> Decision {
    let mut limits = Vec::new();
    match conditions.heat {
        Heat::Shutdown => limits.push(Limit::Overheated),
        Heat::Critical => limits.push(Limit::Hot),
        Heat::Warning => limits.push(Limit::Warm),
        Heat::Cool => {}
    }
    let faults = conditions.faults.iter();
    limits.extend(faults.clone().map(|it| Limit::Sensor { gpu: it.gpu.clone(), fault: it.fault }));
    let (mut open, mut running) = match faults.map(|it| it.heat).fold(conditions.heat, Heat::max) {
        Heat::Shutdown => (0, Running::Stop),
        Heat::Critical => (0, Running::Slow(SLOW)),
        Heat::Warning => (slots.div_ceil(2).min(slots.saturating_sub(1)).max(slots.min(1)), Running::GoOn),
        Heat::Cool => (slots, Running::GoOn),
    };
    let shut = [
        conditions.owner.map(|using| Limit::Owner { using }),
        supply_limit(allowed, conditions.supply),
        (!allowed.hours.is_empty() && !allowed.hours.iter().any(|hours| hours.contains(conditions.minute)))
            .then_some(Limit::Hours),
    ];
    for limit in shut.into_iter().flatten() {
        open = 0;
        limits.push(limit);
    }
    let (mut now, mut offered) = (open, open);
    if let (Some(budget), Some(drawn)) = (allowed.watts, conditions.drawn) {
        if drawn >= budget {
            limits.push(Limit::Watts { drawn, budget });
            now = open.min(conditions.running);
            if conditions.running == 0 {
                // Nothing that could end would bring the draw down.
                offered = 0;
            }
        }
        let pace = pace_within(budget, drawn, conditions.pace);
        if pace < 100 && running == Running::GoOn {
            running = Running::Slow(pace);
        }
    }
    Decision { slots: now, offered, running, limits }
}

/// The speed in percent that keeps a draw within its budget, where `pace` is the speed that brought the draw about: less at
/// once where it is above, and more a little at a time where there is room, or the two would take turns.
pub fn pace_within(budget: u32, drawn: u32, pace: u8) -> u8 {
    let fitting = u64::from(pace) * u64::from(budget) / u64::from(drawn.max(1));
    let most = if drawn > budget { pace } else { pace.saturating_add(PACE_STEP) };
    u8::try_from(fitting).unwrap_or(100).min(most).clamp(SLOWEST, 100)
}

fn supply_limit(allowed: &Allowed, supply: Supply) -> Option<Limit> {
    let Supply::Battery { plugged, charge } = supply else { return None };
    match charge {
        Some(charge) if charge < allowed.least_charge => {
            Some(Limit::LowBattery { charge, least: allowed.least_charge })
        }
        _ if !plugged && !allowed.on_battery => Some(Limit::OnBattery),
        // From the socket it does not matter.
        None if !plugged => Some(Limit::UnknownCharge),
        _ => None,
    }
}

/// What the electricity for `tokens` costs in micro-credits, rounded up: watts / 1,000 x price x tokens / speed / 3,600.
/// `milliwatts` is what the job adds, `price` what a kilowatt-hour costs, `speed` in milli-tokens a second. `None` where
/// the speed is not known, or the sum has no end.
pub fn electricity(milliwatts: u64, price: MicroCredits, tokens: u64, speed: u32) -> Option<MicroCredits> {
    if speed == 0 {
        return None;
    }
    // mW x uc/kWh x tokens x 1,000 / (milli-tokens/s) is in mW·s·uc/kWh, of which 3,600,000,000 make one uc.
    let energy = u128::from(milliwatts).checked_mul(u128::from(tokens))?.checked_mul(1_000)?;
    let cost = energy.checked_mul(u128::from(price.0))?;
    let cost = cost.div_ceil(u128::from(speed) * 3_600_000_000);
    u64::try_from(cost).ok().map(MicroCredits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn allowed() -> Allowed {
        Allowed { hours: Vec::new(), watts: None, on_battery: false, least_charge: 30 }
    }

    fn conditions() -> Conditions {
        Conditions {
            minute: 12 * 60,
            supply: Supply::Mains,
            heat: Heat::Cool,
            faults: Vec::new(),
            owner: None,
            drawn: None,
            pace: 100,
            running: 0,
        }
    }

    #[test]
    fn hours_run_over_midnight_and_are_read_strictly() {
        let night: Hours = "22:00-06:30".parse().expect("hours");
        let inside = [22 * 60, DAY - 1, 0, 6 * 60 + 29];
        assert!(inside.into_iter().all(|minute| night.contains(minute)));
        assert!([6 * 60 + 30, 12 * 60, 22 * 60 - 1].into_iter().all(|minute| !night.contains(minute)));
        let day: Hours = " 8 - 24:00 ".parse().expect("hours");
        assert!(day.contains(DAY - 1) && day.contains(8 * 60) && !day.contains(0));
        assert_eq!(day.to_string(), "08:00-24:00");
        for wrong in
            ["", "8", "8-8", "24:00-25:00", "24:00-08:00", "08:60-09:00", "-1-3", "8-+9", "008-9", "8-9-10"]
        {
            let error = wrong.parse::<Hours>().expect_err(wrong);
            assert!(error.to_string().contains("22:00-06:30"), "{error}");
        }
    }

    #[test]
    fn every_limit_says_what_to_change() {
        let with = |change: &dyn Fn(&mut Allowed, &mut Conditions)| {
            let (mut allowed, mut conditions) = (allowed(), conditions());
            change(&mut allowed, &mut conditions);
            decide(&allowed, &conditions, 4)
        };
        let free = with(&|_, _| {});
        assert_eq!(free, Decision { slots: 4, offered: 4, running: Running::GoOn, limits: Vec::new() });

        let warm = with(&|_, now| now.heat = Heat::Warning);
        assert_eq!((warm.slots, warm.running, warm.limits), (2, Running::GoOn, vec![Limit::Warm]));
        let hot = with(&|_, now| now.heat = Heat::Critical);
        assert_eq!((hot.slots, hot.running), (0, Running::Slow(SLOW)));
        let burning = with(&|_, now| now.heat = Heat::Shutdown);
        assert_eq!((burning.slots, burning.running, burning.limits), (0, Running::Stop, vec![Limit::Overheated]));

        let faulty = Faulty { gpu: "0000:0b:00.0".to_owned(), fault: SensorFault::Missing, heat: Heat::Critical };
        let broken = with(&|_, now| now.faults = vec![faulty.clone()]);
        assert_eq!((broken.slots, broken.running), (0, Running::Slow(SLOW)));
        let why = broken.limits[0].to_string();
        assert!(
            why.contains("0000:0b:00.0") && why.contains("cannot be read, so the GPU counts as too hot"),
            "{why}"
        );
        let both = with(&|_, now| (now.heat, now.faults) = (Heat::Shutdown, vec![faulty.clone()]));
        assert_eq!(
            (both.running, &both.limits[0]),
            (Running::Stop, &Limit::Overheated),
            "one does not hide the other"
        );

        let owner = with(&|_, now| now.owner = Some(OwnerUse::Computing(0.7)));
        assert_eq!((owner.slots, owner.running), (0, Running::GoOn));
        assert!(owner.limits[0].to_string().contains("owner comes first"));

        let night = with(&|allowed, _| allowed.hours = vec!["22-6".parse().expect("hours")]);
        assert_eq!((night.slots, night.limits), (0, vec![Limit::Hours]));

        let over = with(&|allowed, now| {
            (allowed.watts, now.drawn, now.running) = (Some(200), Some(250), 3);
        });
        assert_eq!((over.slots, over.offered, over.running), (3, 4, Running::Slow(80)));
        let idle = with(&|allowed, now| (allowed.watts, now.drawn) = (Some(20), Some(25)));
        assert_eq!((idle.slots, idle.offered), (0, 0), "no job that ends would help");
        let warm = with(&|allowed, now| {
            (allowed.watts, now.drawn, now.running, now.heat) = (Some(200), Some(200), 1, Heat::Warning);
        });
        assert_eq!((warm.slots, warm.offered), (1, 2));
        assert!(over.limits[0].to_string().contains("250 W of 200 W"));
    }

    #[test]
    fn a_draw_settles_below_its_budget() {
        // A card that draws 50 W at rest and 450 W at full speed.
        let mut pace = 100;
        let draws: Vec<u32> = (0..60)
            .map(|_| {
                let drawn = 50 + 4 * u32::from(pace);
                pace = pace_within(300, drawn, pace);
                drawn
            })
            .collect();
        assert!(draws[20..].iter().all(|drawn| *drawn <= 312), "{draws:?}");
        assert!(draws[20..].iter().all(|drawn| *drawn >= 250), "{draws:?}");
        assert_eq!(pace_within(300, 100, 98), 100);
        assert_eq!(pace_within(0, 0, 100), 10);
    }

    #[test]
    fn one_slot_is_left_at_a_warning() {
        let warm = Conditions { heat: Heat::Warning, ..conditions() };
        let slots: Vec<u32> = (0..6).map(|slots| decide(&allowed(), &warm, slots).slots).collect();
        assert_eq!(slots, [0, 1, 1, 2, 2, 3]);
    }

    #[test]
    fn batteries_are_spared() {
        let limit = |on_battery, plugged, charge| {
            let allowed = Allowed { on_battery, ..allowed() };
            decide(&allowed, &Conditions { supply: Supply::Battery { plugged, charge }, ..conditions() }, 4)
                .limits
                .first()
                .cloned()
        };
        assert_eq!(limit(false, true, Some(80)), None);
        assert_eq!(limit(false, false, Some(80)), Some(Limit::OnBattery));
        assert_eq!(limit(true, false, Some(80)), None);
        let low = Some(Limit::LowBattery { charge: 29, least: 30 });
        assert_eq!(limit(true, false, Some(29)), low, "never below");
        assert_eq!(limit(true, true, Some(29)), low, "it charges first");
        assert_eq!(limit(true, false, None), Some(Limit::UnknownCharge));
        assert_eq!(limit(false, true, None), None);
    }

    #[test]
    fn electricity_is_rounded_up_and_never_overflows() {
        // 200 W at 50 tokens/s: 4 J a token; at 0.30 credits a kWh 1,000 tokens cost 0.000333... credits.
        let price = MicroCredits(300_000);
        assert_eq!(electricity(200_000, price, 1_000, 50_000), Some(MicroCredits(334)));
        assert_eq!(electricity(200_000, price, 1_000, 0), None);
        assert_eq!(electricity(0, price, 1_000, 1), Some(MicroCredits::ZERO));
        assert_eq!(electricity(u64::MAX, MicroCredits(u64::MAX), u64::MAX, 1), None);
    }

    proptest! {
        #[test]
        fn no_limit_gives_more_than_the_owner(
            heat in prop::sample::select(vec![Heat::Cool, Heat::Warning, Heat::Critical, Heat::Shutdown]),
            drawn in prop::option::of(0..2_000_u32),
            watts in prop::option::of(0..2_000_u32),
            running in 0..8_u32,
            minute in 0..DAY,
            plugged: bool,
            charge in prop::option::of(0..=100_u8),
            slots in 0..8_u32,
        ) {
            let allowed = Allowed { hours: vec!["8-20".parse().expect("hours")], watts, ..allowed() };
            let supply = Supply::Battery { plugged, charge };
            let now = Conditions { minute, supply, heat, drawn, running, ..conditions() };
            let decision = decide(&allowed, &now, slots);
            prop_assert!(decision.slots <= decision.offered.max(running) && decision.offered <= slots);
            prop_assert!(decision.slots <= slots);
            prop_assert_eq!(decision.running == Running::Stop, heat == Heat::Shutdown);
            let limited = decision.slots < slots || decision.running != Running::GoOn;
            prop_assert!(!limited || !decision.limits.is_empty(), "never without a reason");
        }
    }
}

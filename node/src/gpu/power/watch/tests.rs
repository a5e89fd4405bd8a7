//! A watch over sensors that show what the tests say.

use super::{super::sensors::tests::sensors, *};
use crate::gpu::telemetry::{Shares, Source};
use aitbc_protocol::gpu::heat::MakerLimits;
use std::sync::mpsc;

/// Shows what it is told, and waits for it.
struct Told(mpsc::Receiver<Sample>);

impl Source for Told {
    fn sample(&mut self, _: Duration, _: &[u32]) -> Sample {
        self.0.recv().unwrap_or_default()
    }

    fn limits(&self) -> MakerLimits {
        MakerLimits::default()
    }
}

fn watch(cards: Vec<(&str, Option<Box<dyn Source>>)>, on_gpu: bool) -> Watch {
    let (_, load) = watch::channel(Load::default());
    let uses = Box::new(move || Uses { on_gpu, ..Uses::default() });
    let parts = PowerParts { uses, load, slots: 4 };
    Watch::new(PowerConfig::default(), parts, &Metrics::default(), sensors(cards))
}

fn at(degrees: f32) -> Sample {
    Sample { core_celsius: Some(degrees), ..Sample::default() }
}

#[tokio::test]
async fn a_driver_that_hangs_stops_jobs_until_it_answers() {
    let (tell, told) = mpsc::channel();
    let mut watch = watch(vec![("a", Some(Box::new(Told(told))))], true);
    assert_eq!(watch.state().decision.running, Running::Stop, "before anything was read");
    tell.send(at(50.0)).expect("it listens");
    watch.read().await;
    assert_eq!(watch.state().decision.slots, 4);
    // Nothing is told: it hangs.
    watch.read().await;
    let state = watch.state();
    assert_eq!((state.decision.slots, state.decision.running), (0, Running::Stop));
    assert!(state.reasons.contains("a card (a): the temperature cannot be read"), "{}", state.reasons);
    tell.send(at(51.0)).expect("it listens");
    watch.read().await;
    assert_eq!(watch.state().decision.slots, 4, "and goes on where it answers again");
}

#[tokio::test]
async fn only_gpus_on_which_models_run_limit() {
    let card = |degrees, own_memory| -> Option<Box<dyn Source>> {
        let (tell, told) = mpsc::channel();
        let shares = Shares { own_memory, ..Shares::default() };
        tell.send(Sample { shares, ..at(degrees) }).expect("it listens");
        Some(Box::new(Told(told)))
    };
    let decide = async |cards, on_gpu| {
        let mut watch = watch(cards, on_gpu);
        watch.read().await;
        watch.state().decision.slots
    };
    assert_eq!(decide(vec![("hot", card(90.0, Some(0)))], false).await, 4, "models run on the processor");
    let both = vec![("hot", card(90.0, Some(0))), ("cool", card(40.0, Some(1 << 30)))];
    assert_eq!(decide(both, true).await, 4, "the hot one is the owner's");
    let both = vec![("hot", card(90.0, Some(1))), ("cool", card(40.0, Some(0)))];
    assert_eq!(decide(both, true).await, 0);
    let unknown = vec![("hot", card(90.0, None)), ("none", None)];
    assert_eq!(decide(unknown, true).await, 0, "where it is not told, each may be the one");
    assert_eq!(decide(vec![("none", None)], true).await, 4, "nothing tells of its heat");
}

#[tokio::test]
async fn electricity_goes_by_the_caps_seen() {
    let (tell, told) = mpsc::channel();
    let mut watch = watch(vec![("a", Some(Box::new(Told(told))))], true);
    watch.config.price = MicroCredits(300_000);
    tell.send(Sample { cap_watts: Some(250.0), ..at(40.0) }).expect("it listens");
    watch.read().await;
    assert_eq!(watch.state().electricity(50_000), MicroCredits(417), "as the guide reckons");
    tell.send(Sample { asleep: true, ..Sample::default() }).expect("it listens");
    watch.read().await;
    assert_eq!(watch.state().electricity(50_000), MicroCredits(417), "also while it sleeps");
    watch.config.allowed.watts = Some(125);
    assert_eq!(watch.state().electricity(50_000), MicroCredits(209));
    assert_eq!(watch.state().electricity(0), MicroCredits::ZERO);
}

/// Has the node use GPUs so from now on.
fn uses(watch: &mut Watch, uses: Uses) {
    watch.parts.uses = Box::new(move || uses.clone());
}

fn drawing(watts: f32, own_memory: u64) -> Sample {
    let shares = Shares { own_memory: Some(own_memory), ..Shares::default() };
    Sample { watts: Some(watts), shares, ..at(40.0) }
}

#[tokio::test]
async fn a_challenge_counts_as_a_job_within_the_watts() {
    let (tell, told) = mpsc::channel();
    let mut watch = watch(vec![("a", Some(Box::new(Told(told))))], true);
    watch.config.allowed.watts = Some(300);
    tell.send(drawing(300.0, 1)).expect("it listens");
    watch.read().await;
    let Decision { slots, offered, .. } = watch.state().decision;
    assert_eq!((slots, offered), (0, 0), "no job's end would bring the draw down");
    uses(&mut watch, Uses { on_gpu: true, proving: true, ..Uses::default() });
    let Decision { slots, offered, running, .. } = watch.state().decision;
    assert_eq!((slots, offered, running), (1, 4, Running::GoOn), "it goes on alone, and jobs come after it");
}

#[tokio::test]
async fn what_a_challenge_draws_slows_no_job_after_it() {
    let after = async |proving| {
        let (tell, told) = mpsc::channel();
        let mut watch = watch(vec![("a", Some(Box::new(Told(told))))], true);
        watch.config.allowed.watts = Some(300);
        uses(&mut watch, Uses { on_gpu: true, proving, ..Uses::default() });
        tell.send(drawing(600.0, 1)).expect("it listens");
        watch.read().await;
        assert_eq!(watch.state().decision.running, Running::Slow(50), "it is above the budget all the same");
        uses(&mut watch, Uses { on_gpu: true, ..Uses::default() });
        tell.send(drawing(100.0, 1)).expect("it listens");
        watch.read().await;
        watch.state().decision.running
    };
    assert_eq!(after(true).await, Running::GoOn);
    assert!(matches!(after(false).await, Running::Slow(_)), "jobs get faster a little at a time");
}

#[tokio::test]
async fn a_gpu_that_only_answers_a_challenge_is_limited_as_one_that_runs_models() {
    let proving = Uses { proving: true, ..Uses::default() };
    let decide = async |cards: Vec<(&'static str, Sample)>, now: Uses| {
        let cards = cards.into_iter().map(|(name, sample)| -> (_, Option<Box<dyn Source>>) {
            let (tell, told) = mpsc::channel();
            tell.send(sample).expect("it listens");
            (name, Some(Box::new(Told(told))))
        });
        let mut watch = watch(cards.collect(), false);
        uses(&mut watch, now);
        watch.read().await;
        watch.state().decision.slots
    };
    let hot = |own_memory| Sample { core_celsius: Some(90.0), ..drawing(100.0, own_memory) };
    assert_eq!(decide(vec![("a", hot(1))], Uses::default()).await, 4, "nothing of this node runs on it");
    assert_eq!(decide(vec![("a", hot(1))], proving.clone()).await, 0);
    let both = vec![("owners", hot(0)), ("proves", drawing(100.0, 1))];
    assert_eq!(decide(both, proving.clone()).await, 4, "the hot one is the owner's");
    let both = vec![("owners", hot(0)), ("will prove", drawing(100.0, 0))];
    assert_eq!(decide(both, proving).await, 4, "also before the child holds anything");
}

#[tokio::test]
async fn every_process_of_the_node_is_known_to_the_sensors() {
    struct Heard(mpsc::Sender<Vec<u32>>);
    impl Source for Heard {
        fn sample(&mut self, _: Duration, own: &[u32]) -> Sample {
            self.0.send(own.to_vec()).expect("the test listens");
            Sample::default()
        }

        fn limits(&self) -> MakerLimits {
            MakerLimits::default()
        }
    }
    let (tell, told) = mpsc::channel();
    let mut watch = watch(vec![("a", Some(Box::new(Heard(tell))))], true);
    uses(&mut watch, Uses { processes: vec![11, 12], on_gpu: true, proving: true });
    watch.read().await;
    assert_eq!(told.recv().expect("it was read"), [std::process::id(), 11, 12]);
}

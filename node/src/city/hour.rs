//! One hour of a city: its nodes start, jobs are asked for, nodes leave and come, and in the end it is summed up.

use super::{
    citizens::{Citizen, MODEL, PRICE},
    laboratory,
    outcome::{Outcome, Seller},
    plan::{Happening, Kind, Plan},
    ring,
};
use crate::{
    network::simulated::World,
    routing::{JobRequest, JobUpdate, Routing, Wishes},
};
use aitbc_protocol::{
    NodeId,
    geo::least_round_trip_ms,
    job::{Input, JobSpec, Sampling},
    price::ONE,
    quote::Quote,
    text::Line,
};
use std::{collections::BTreeMap, path::Path, time::Duration};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

/// Noon of some day, so that no hour of the day changes prices on the way.
const NOON_MS: u64 = 1_800_014_400_000;
/// Within which all nodes start, and what passes before the first job is asked for.
const STARTING: Duration = Duration::from_secs(20);
const SETTLING_IN: Duration = Duration::from_secs(60);
/// How long jobs of the hour may go on after it.
const LAST_JOBS: Duration = Duration::from_secs(1_800);
/// Memory that looks like a disk, where there is some: nothing of the city outlives it.
const MEMORY: &str = "/dev/shm";

/// What came of one job.
struct Done {
    third: usize,
    /// What its quotes asked over their base, in millionths.
    factors: Vec<u64>,
    failure: Option<String>,
}

struct City {
    plan: Plan,
    world: World,
    citizens: Vec<Citizen>,
    kinds: BTreeMap<NodeId, Kind>,
    left: u64,
}

/// Lives the hour of a plan, on a thread and a runtime of its own.
pub(super) fn live(plan: Plan) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime");
    let memory = Path::new(MEMORY);
    let directory = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    let directory = directory.expect("a temporary directory");
    runtime.block_on(async {
        let _open = laboratory::open(plan.seed, NOON_MS);
        hour(plan, directory.path()).await
    })
}

async fn hour(plan: Plan, directory: &Path) -> Outcome {
    let mut city =
        City { plan, world: World::new(plan.seed), citizens: Vec::new(), kinds: BTreeMap::new(), left: 0 };
    let providers = plan.providers();
    let friends = ring::friends(&plan, &providers);
    let sellers = providers.len();
    let kinds = providers.into_iter().chain(std::iter::repeat_n(Kind::Client, plan.clients));
    let pause = STARTING / (sellers + plan.clients) as u32;
    for kind in kinds {
        city.move_in(kind, directory);
        sleep(pause).await;
    }
    sleep(SETTLING_IN).await;
    let praising = tokio::spawn(ring::praise(plan, friends, city.world.clone()));
    let began = Instant::now();
    let mut jobs = JoinSet::new();
    let mut asked = 0;
    for (at, happening) in plan.happenings() {
        sleep_until(began + at).await;
        match happening {
            Happening::Asks { client, prompt, answer } => {
                let third = (3 * at.as_millis() / plan.lasts.as_millis()) as usize;
                let routing = city.citizens[sellers + client].routing.clone();
                asked += 1;
                jobs.spawn(ask(routing, spec(asked, prompt, answer), third));
            }
            Happening::Leaves(which) => city.leave(which, directory),
        }
    }
    sleep_until(began + plan.lasts).await;
    praising.abort();
    let mut outcome = Outcome { asked, ..Outcome::default() };
    let ending = async {
        while let Some(done) = jobs.join_next().await {
            outcome.take_job(done.expect("no job panics"));
        }
    };
    let ended = timeout(LAST_JOBS, ending).await.is_ok();
    assert!(ended, "seed {}: a job has no end", plan.seed);
    city.sum_up(&mut outcome).await;
    for citizen in &mut city.citizens {
        citizen.shutdown().await;
    }
    outcome
}

impl City {
    fn move_in(&mut self, kind: Kind, directory: &Path) {
        let citizen = Citizen::start(&self.plan, self.citizens.len(), kind, &self.world, directory);
        self.kinds.insert(citizen.id, kind);
        self.citizens.push(citizen);
    }

    /// One provider goes without a word, with all its jobs; another of its kind comes somewhere.
    fn leave(&mut self, which: u64, directory: &Path) {
        let sells = |citizen: &&mut Citizen| citizen.here && citizen.kind != Kind::Client;
        let count = self.citizens.iter_mut().filter(sells).count() as u64;
        let mut sellers = self.citizens.iter_mut().filter(sells);
        let Some(leaver) = which.checked_rem(count).and_then(|number| sellers.nth(number as usize)) else {
            return;
        };
        // Its line first, so that its last words reach nobody.
        self.world.leave(&leaver.id);
        leaver.stop();
        let kind = leaver.kind;
        self.left += 1;
        self.move_in(kind, directory);
        if let Some(newcomer) = self.citizens.last_mut() {
            newcomer.native = false;
        }
    }

    async fn sum_up(&self, outcome: &mut Outcome) {
        outcome.left = self.left;
        outcome.counts = self.world.counts();
        outcome.trace = self.world.trace();
        for citizen in self.citizens.iter().filter(|citizen| citizen.here) {
            let totals = citizen.totals().await;
            if citizen.kind == Kind::Client {
                outcome.spent += totals.spent.0;
            } else if citizen.native {
                outcome.sellers.push(Seller {
                    kind: citizen.kind,
                    town: citizen.town,
                    earned: totals.earned.0,
                    given_back: totals.given_back.0,
                    jobs: totals.jobs_provided,
                });
            }
            for report in citizen.routing.reputation(None) {
                for fault in report.faults {
                    let accused = self.kinds.get(&report.provider).copied();
                    *outcome.faults.entry((accused, fault.slashed.fault.to_string())).or_default() += 1;
                }
            }
        }
        outcome.estimates_off = self.estimates_off();
        for (node, count) in &outcome.counts.rejected {
            let kind = self.kinds.get(node).copied();
            *outcome.rejected.entry(kind).or_default() += count;
        }
    }

    /// By how many thousandths the clients' estimates of round trips to everybody who sells are off, at the median: by
    /// coordinates, and by distance alone. Who knows too little of its place to estimate is off by all of it.
    fn estimates_off(&self) -> [u64; 2] {
        let (mut by_coordinates, mut by_distance) = (Vec::new(), Vec::new());
        let clients = self.citizens.iter().enumerate().filter(|(_, citizen)| citizen.kind == Kind::Client);
        for (number, client) in clients {
            let here = self.plan.home(number).1.location;
            let place = client.routing.place().borrow().tell();
            for known in &client.routing.offers().offers {
                let Some(truth) = self.world.round_trip(&client.id, &known.provider) else { continue };
                let truth_ms = truth.as_secs_f64() * 1_000.0;
                let least_ms = least_round_trip_ms(known.offer.cell.distance_km(&here));
                let estimate = known.offer.coordinate.and_then(|theirs| place.estimate_ms(&theirs));
                let off = |ms: f64| ((ms - truth_ms).abs() / truth_ms * 1_000.0) as u64;
                by_distance.push(off(least_ms));
                by_coordinates.push(estimate.map_or(1_000, |ms| off(ms.max(least_ms))));
            }
        }
        [by_coordinates, by_distance].map(|mut off| {
            off.sort_unstable();
            off.get(off.len() / 2).copied().unwrap_or(1_000)
        })
    }
}

fn spec(number: u64, prompt: u32, answer: u32) -> JobSpec {
    JobSpec {
        model: Line::lossy(MODEL),
        weights: None,
        input: Input::Text("x".repeat(prompt as usize * 4)),
        sampling: Sampling { temperature: 0.0, top_p: 1.0, seed: number },
        max_tokens: answer,
        stop: Vec::new(),
        top_logprobs: None,
        prefix: Vec::new(),
    }
}

/// Asks for an answer and reads it to its end.
async fn ask(client: Routing, spec: JobSpec, third: usize) -> Done {
    let mut running = client.submit(JobRequest { spec, wishes: Wishes::default() });
    let mut done = Done { third, factors: Vec::new(), failure: Some("it ended without a word".to_owned()) };
    while let Some(update) = running.updates.recv().await {
        match update {
            JobUpdate::Quoted { quote, .. } => done.factors.push(factor(&quote)),
            JobUpdate::Finished { .. } => done.failure = None,
            JobUpdate::Failed(failure) => done.failure = Some(failure.to_string()),
            _ => {}
        }
    }
    done
}

/// What a quote asks over its base.
fn factor(quote: &Quote) -> u64 {
    let base = u128::from(quote.prompt_tokens) * u128::from(PRICE.prompt.0)
        + u128::from(quote.max_completion_tokens) * u128::from(PRICE.completion.0);
    (u128::from(quote.max_total.0) * 1_000 * u128::from(ONE) / base) as u64
}

impl Outcome {
    fn take_job(&mut self, done: Done) {
        for factor in done.factors {
            self.factors[done.third].0 += factor;
            self.factors[done.third].1 += 1;
        }
        match done.failure {
            None => self.finished += 1,
            Some(failure) => self.failures.push(failure),
        }
    }
}

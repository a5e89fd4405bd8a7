//! The ring: keys without nodes that praise colluding providers for jobs that never were, with those providers' signatures.

use super::{
    citizens::network,
    plan::{Kind, Plan},
};
use crate::{clock::now_ms, network::simulated::World};
use aitbc_crypto::{SecretKey, seal};
use aitbc_protocol::{
    Digest, MicroCredits,
    geo::Cell,
    gossip::Gossip,
    job::Finish,
    qos::{Observation, Served, Uptime},
    wire::{self, MAX_GOSSIP_BYTES},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use std::time::Duration;
use tokio::time::{interval, sleep};

/// How often each member praises each provider of its town.
const EVERY: Duration = Duration::from_secs(120);
/// What it claims to have paid for each of its jobs.
const CLAIMED: MicroCredits = MicroCredits(1_000_000_000);

/// A colluding provider, as its ring knows it.
pub(super) struct Friend {
    pub(super) key: SecretKey,
    pub(super) cell: Cell,
    pub(super) town: usize,
}

/// Numbers of the ring's members: they follow those of all nodes that a plan can have.
const FIRST_MEMBER: usize = 100_000;

/// The colluding providers among those that begin.
pub(super) fn friends(plan: &Plan, providers: &[Kind]) -> Vec<Friend> {
    let colluding = providers.iter().enumerate().filter(|(_, kind)| **kind == Kind::Colluding);
    let friend = |number: usize| {
        let (town, home) = plan.home(number);
        let cell = Cell::at(&home.location, aitbc_protocol::geo::DEFAULT_PRECISION);
        Friend { key: plan.key(number), cell, town }
    };
    colluding.map(|(number, _)| friend(number)).collect()
}

/// Praises for as long as it is polled.
pub(super) async fn praise(plan: Plan, friends: Vec<Friend>, world: World) {
    let mut random = StdRng::seed_from_u64(plan.seed + 2);
    let members: Vec<SecretKey> = (0..plan.ring).map(|member| plan.key(FIRST_MEMBER + member)).collect();
    let mut due = interval(EVERY);
    loop {
        due.tick().await;
        for (number, member) in members.iter().enumerate() {
            for friend in friends.iter().filter(|friend| friend.town == number % plan.towns) {
                say(member, friend, Digest(random.random()), &world);
            }
            sleep(Duration::from_millis(random.random_range(1..1_000))).await;
        }
    }
}

fn say(member: &SecretKey, friend: &Friend, receipt: Digest, world: &World) {
    let served = Served { client: member.node_id(), receipt, total: CLAIMED, ended_ms: now_ms() };
    let observation = Observation {
        served: seal(&friend.key, &network(), &served).expect("a small statement"),
        first_token_ms: Some(20),
        speed: Some(8_000),
        total_ms: 20_000,
        finish: Finish::Stop,
        verified: Some(true),
        uptime: Some(Uptime { heard: 9, of: 9 }),
        issued_ms: now_ms(),
    };
    let signed = seal(member, &network(), &observation).expect("a small statement");
    let message = wire::encode(&Gossip::Observation(signed), MAX_GOSSIP_BYTES).expect("a small message");
    world.say(friend.cell, &message);
}

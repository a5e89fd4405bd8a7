//! A child that is no process: the same orders and the same work, over pipes in memory, so that time can be paused.

use super::{MAX_LINE, Order, Prover, Told, Walker, Work, in_machine};
use aitbc_protocol::{
    Digest,
    gpu::challenge::{Cache, Key},
};
use tokio::{
    io::{self, AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream},
    task::JoinHandle,
};

/// How a child carries out its orders.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Manner {
    /// As it should, in the machine's memory.
    Honest,
    /// As memory does in which a bit has flipped: the last state of one lane is another.
    Miscounting,
    /// It computes nothing and answers at once, so many times; then it hangs.
    Idle(usize),
}

/// A child with its task, which ends with the child.
pub(crate) fn prover(manner: Manner) -> (Prover, JoinHandle<()>) {
    let (near, far) = io::duplex(MAX_LINE as usize);
    let (told, orders) = io::split(near);
    let prover = Prover {
        child: None,
        id: Some(std::process::id()),
        orders: Box::new(orders),
        told: BufReader::new(Box::new(told)),
    };
    let child = tokio::spawn(async move {
        match manner {
            Manner::Honest | Manner::Miscounting => {
                let walker = if manner == Manner::Honest { in_machine } else { miscounting };
                let derive = |cache: &Cache, key: &Key, items| Ok(walker(cache, key, items));
                let mut work = Work { derive, data: None, tree: None };
                serve(far, |order| Some(work.carry_out(order))).await;
            }
            Manner::Idle(mut answers) => {
                serve(far, |order| {
                    answers = answers.checked_sub(1)?;
                    Some(match order {
                        Order::Derive { .. } => Told::Derived(1 << 20),
                        Order::Walk { .. } => Told::Root(Digest([7; 32])),
                        Order::Open(_) => Told::Openings(Vec::new()),
                    })
                })
                .await;
            }
        }
    });
    (prover, child)
}

fn miscounting(cache: &Cache, key: &Key, items: u32) -> Walker<'static> {
    let right = in_machine(cache, key, items);
    Box::new(move |key, task| {
        let mut states = right(key, task)?;
        states[5][3] ^= 1 << 20;
        Ok(states)
    })
}

/// Answers orders until there are no more.
async fn serve(pipe: DuplexStream, mut carry_out: impl FnMut(Order) -> Option<Told>) {
    let (orders, mut told) = io::split(pipe);
    let mut orders = BufReader::new(orders).lines();
    while let Some(line) = orders.next_line().await.expect("a pipe in memory") {
        let Some(answer) = carry_out(serde_json::from_str(&line).expect("an order")) else { continue };
        let mut line = serde_json::to_vec(&answer).expect("JSON");
        line.push(b'\n');
        // The node may have left.
        let _ = told.write_all(&line).await;
    }
}

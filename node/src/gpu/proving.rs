//! Answers challenges of memory in a child process: what fills a GPU's memory may crash with its driver, and its memory is
//! free again when the child is gone.
//!
//! ```text
//! Prover (the node's side) --Order, a line of JSON--> child: data set on a GPU, or in the machine's memory
//!                          <-Told, a line-----------
//! ```

use super::{
    adapters::adapter,
    compute::{ComputeError, Gpu, prover::DataSet},
    worker::WORKER_COMMAND,
};
use aitbc_protocol::{
    Digest,
    gpu::challenge::{self, Cache, Key, Opening, Task, Tree, Words},
};
use serde::{Deserialize, Serialize};
use std::{
    io::{self, BufRead as _, Write as _},
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader},
    process::{Child, Command},
};

#[cfg(test)]
pub(crate) mod in_memory;

/// What the child is asked for.
pub const PROVE: &str = "prove";
/// The machine's own memory, in place of the number of a graphics adapter.
const CPU: &str = "cpu";
/// Longest line of the child: 64 opened lanes.
const MAX_LINE: u64 = 1 << 18;
/// A walk that tells how fast the memory is takes at least as long.
const TRIAL: Duration = Duration::from_millis(300);
/// How many of them the slowest counts of.
const TRIALS: usize = 3;
/// Lanes of such a walk: as many as are walked at once.
const TRIAL_LANES: u32 = 1 << 14;

/// Where a data set lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// In that of the adapter of this place in the list of [`super::worker::adapters`].
    Gpu(usize),
    /// In the machine's own: it only pretends to be a GPU.
    Machine,
}

/// Why nothing was proved.
#[derive(Debug, thiserror::Error)]
pub enum ProvingError {
    /// It did not start, or cannot be spoken with.
    #[error("the process that answers challenges: {0}")]
    Process(#[from] io::Error),
    /// It ended.
    #[error("the process that answers challenges ended: a graphics driver crashed, or memory ran out")]
    Ended,
    /// It said something else.
    #[error("the process that answers challenges said something else")]
    OutOfTurn,
    /// The GPU does not do it.
    #[error("{0}")]
    Failed(String),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Order {
    Derive { seed: [u8; 32], data: [u32; 8], items: u32 },
    Walk { walk: [u32; 8], task: Task },
    Open(Vec<u32>),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Told {
    /// Bytes of random reads a second.
    Derived(u64),
    Root(Digest),
    Openings(Vec<Opening>),
    Failed(String),
}

/// A child that holds one data set. Dropping it ends the child.
pub struct Prover {
    /// None where it is no process, in tests.
    child: Option<Child>,
    id: Option<u32>,
    orders: Box<dyn AsyncWrite + Send + Unpin>,
    told: BufReader<Box<dyn AsyncRead + Send + Unpin>>,
}

impl std::fmt::Debug for Prover {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Prover").field("child", &self.child).finish_non_exhaustive()
    }
}

impl Prover {
    /// Starts the child.
    pub fn start(binary: &Path, memory: Memory) -> Result<Self, ProvingError> {
        let place = match memory {
            Memory::Gpu(index) => index.to_string(),
            Memory::Machine => CPU.to_owned(),
        };
        let mut command = Command::new(binary);
        command.args([WORKER_COMMAND, PROVE, &place]).stdin(Stdio::piped()).stdout(Stdio::piped());
        // Drivers print what they like. Ctrl-C in a terminal goes to the node, which ends its children itself.
        command.stderr(Stdio::null()).kill_on_drop(true);
        #[cfg(unix)]
        command.process_group(0);
        let mut child = command.spawn()?;
        let orders = child.stdin.take().expect("stdin is piped");
        let told = child.stdout.take().expect("stdout is piped");
        let id = child.id();
        Ok(Self { child: Some(child), id, orders: Box::new(orders), told: BufReader::new(Box::new(told)) })
    }

    /// Its process id, as it was started.
    pub fn id(&self) -> Option<u32> {
        self.id
    }

    /// Derives a data set; how many bytes a second are then read from it at random.
    pub async fn derive(&mut self, seed: [u8; 32], data: [u32; 8], items: u32) -> Result<u64, ProvingError> {
        match self.ask(&Order::Derive { seed, data, items }).await? {
            Told::Derived(rate) => Ok(rate),
            _ => Err(ProvingError::OutOfTurn),
        }
    }

    /// Walks all lanes; their root.
    pub async fn walk(&mut self, walk: [u32; 8], task: Task) -> Result<Digest, ProvingError> {
        match self.ask(&Order::Walk { walk, task }).await? {
            Told::Root(root) => Ok(root),
            _ => Err(ProvingError::OutOfTurn),
        }
    }

    /// Opens lanes of the last walk.
    pub async fn open(&mut self, lanes: Vec<u32>) -> Result<Vec<Opening>, ProvingError> {
        match self.ask(&Order::Open(lanes)).await? {
            Told::Openings(openings) => Ok(openings),
            _ => Err(ProvingError::OutOfTurn),
        }
    }

    /// Ends the child and waits until its memory is free.
    pub async fn end(mut self) {
        if let Some(child) = &mut self.child {
            // Gone already is as good.
            let _ = child.kill().await;
        }
    }

    async fn ask(&mut self, order: &Order) -> Result<Told, ProvingError> {
        let mut line = serde_json::to_vec(order).map_err(io::Error::other)?;
        line.push(b'\n');
        // A child that has ended says so by its silence below.
        let _ = self.orders.write_all(&line).await;
        let mut answer = String::new();
        if (&mut self.told).take(MAX_LINE).read_line(&mut answer).await? == 0 {
            return Err(ProvingError::Ended);
        }
        match serde_json::from_str(&answer) {
            Ok(Told::Failed(reason)) => Err(ProvingError::Failed(reason)),
            Ok(told) => Ok(told),
            Err(_) => Err(ProvingError::OutOfTurn),
        }
    }
}

/// The child's main function: carries out orders until there are no more.
pub(super) fn main(place: &str) -> io::Result<()> {
    if place == CPU {
        return serve(|cache, key, items| Ok(in_machine(cache, key, items)));
    }
    let gpu = adapter(place)
        .map_err(|error| error.to_string())
        .and_then(|(wgpu, _)| Gpu::open(&wgpu).map_err(|error| error.to_string()));
    match gpu {
        Ok(gpu) => serve(|cache, key, items| {
            let data = DataSet::derive(&gpu, cache, key, items).map_err(|error| error.to_string())?;
            let kernel = data.walker().map_err(|error| error.to_string())?;
            Ok(Box::new(move |key: &Key, task: &Task| data.walk(&kernel, key, task)))
        }),
        Err(reason) => serve(|_, _, _| Err(reason.clone())),
    }
}

/// Walks the data set that it holds.
type Walker<'a> = Box<dyn Fn(&Key, &Task) -> Result<Vec<Words>, ComputeError> + Send + 'a>;

fn serve<'a>(derive: impl Fn(&Cache, &Key, u32) -> Result<Walker<'a>, String>) -> io::Result<()> {
    let mut work = Work { derive, data: None, tree: None };
    for line in io::stdin().lock().lines() {
        let told = work.carry_out(serde_json::from_str(&line?)?);
        let mut stdout = io::stdout().lock();
        serde_json::to_writer(&mut stdout, &told)?;
        writeln!(stdout)?;
        stdout.flush()?;
    }
    Ok(())
}

/// What the child holds: a data set with its key and its items, and the last walk over it.
struct Work<'a, D> {
    derive: D,
    data: Option<(Walker<'a>, [u32; 8], u32)>,
    tree: Option<Tree>,
}

impl<'a, D: Fn(&Cache, &Key, u32) -> Result<Walker<'a>, String>> Work<'a, D> {
    fn carry_out(&mut self, order: Order) -> Told {
        match (order, &self.data, &self.tree) {
            (Order::Derive { seed, data: of_data, items }, ..) => {
                let key = Key { data: of_data, walk: [0; 8] };
                let cache = Cache::new(&seed, challenge::CACHE_ROWS);
                let derived = (self.derive)(&cache, &key, items).and_then(|walker| {
                    Ok((trial(&walker, &key, items).map_err(|error| error.to_string())?, walker))
                });
                match derived {
                    Ok((rate, walker)) => {
                        self.data = Some((walker, of_data, items));
                        Told::Derived(rate)
                    }
                    Err(reason) => Told::Failed(reason),
                }
            }
            (Order::Walk { walk, task }, Some((walker, of_data, items)), _) if task.items == *items => {
                match walker(&Key { data: *of_data, walk }, &task) {
                    Ok(states) => Told::Root(self.tree.insert(Tree::new(states)).root()),
                    Err(error) => Told::Failed(error.to_string()),
                }
            }
            (Order::Open(lanes), _, Some(tree)) => {
                Told::Openings(lanes.into_iter().filter_map(|lane| tree.open(lane)).collect())
            }
            _ => Told::Failed("nothing was derived or walked for that".to_owned()),
        }
    }
}

/// Bytes a second of the slowest of [`TRIALS`] walks that take [`TRIAL`], their roots included: what the answer to a
/// challenge takes. Whoever tells what it reaches in a good moment is late in a bad one.
fn trial(walker: &Walker<'_>, key: &Key, items: u32) -> Result<u64, ComputeError> {
    let mut task = Task { items, lanes: TRIAL_LANES, steps: 4 };
    let walks = |task: &Task| {
        let began = Instant::now();
        Tree::new(walker(key, task)?);
        Ok::<_, ComputeError>(began.elapsed())
    };
    loop {
        let mut took = walks(&task)?;
        if took >= TRIAL || task.steps >= challenge::MAX_STEPS {
            for _ in 1..TRIALS {
                took = took.max(walks(&task)?);
            }
            return Ok((task.read_bytes() as f64 / took.as_secs_f64()) as u64);
        }
        // Hashing weighs as it does in a challenge, which has more lanes before longer ones.
        if task.steps < 64 || task.lanes == challenge::MAX_LANES {
            task.steps *= 2;
        } else {
            task.lanes *= 2;
        }
    }
}

/// Derives a data set in the machine's memory.
fn in_machine(cache: &Cache, key: &Key, items: u32) -> Walker<'static> {
    let mut data = vec![[0; 16]; items as usize];
    in_parts(&mut data, |index| challenge::item(cache, key, index));
    Box::new(move |key, task| {
        let mut states = vec![[0; 16]; task.lanes as usize];
        in_parts(&mut states, |lane| challenge::walk(key, task, lane, |index| data[index as usize]));
        Ok(states)
    })
}

/// Fills `words` with what `of` gives for each place, on all processors.
fn in_parts(words: &mut [Words], of: impl Fn(u32) -> Words + Sync) {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let length = words.len().div_ceil(processors).max(1);
    std::thread::scope(|scope| {
        for (part, words) in words.chunks_mut(length).enumerate() {
            let of = &of;
            let first = u32::try_from(part * length).unwrap_or(u32::MAX);
            scope.spawn(move || {
                for (index, word) in (first..).zip(words) {
                    *word = of(index);
                }
            });
        }
    });
}

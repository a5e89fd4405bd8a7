//! The engine child as the node sees it: started, written to, read from, ended.

use super::frames::{FROM_WORKER_LIMIT, Frames, FromWorker};
use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::mpsc as blocking,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tokio_util::codec::FramedRead;

/// Frames that wait for the child to read.
const OUTBOX: usize = 64;
/// Lines of stderr that explain an end.
const LAST_LINES: usize = 3;
/// Most bytes of a line that are kept.
const LINE_BYTES: usize = 300;
/// How long the last lines are waited for after the end.
const LINES_WAIT: Duration = Duration::from_secs(1);

struct SpawnRequest {
    worker: PathBuf,
    reply: oneshot::Sender<io::Result<Child>>,
}

/// Starts children from one thread that lives as long as the engines: Linux ends a child when the thread that started
/// it ends, and a runtime's threads come and go.
#[derive(Clone, Debug)]
pub(super) struct Spawner(blocking::Sender<SpawnRequest>);

impl Spawner {
    /// Starts the thread. It ends with the last clone.
    pub(super) fn start() -> io::Result<Self> {
        let (requests, inbox) = blocking::channel::<SpawnRequest>();
        let runtime = tokio::runtime::Handle::current();
        std::thread::Builder::new().name("engine-spawner".to_owned()).spawn(move || {
            for request in inbox {
                let _guard = runtime.enter();
                // A supervisor that is gone drops the child, which ends it.
                let _ = request.reply.send(spawn(&request.worker));
            }
        })?;
        Ok(Self(requests))
    }

    async fn spawn(&self, worker: &Path) -> io::Result<Child> {
        let (reply, child) = oneshot::channel();
        let gone = || io::Error::other("the thread that starts engines has ended");
        self.0.send(SpawnRequest { worker: worker.to_owned(), reply }).map_err(|_| gone())?;
        child.await.map_err(|_| gone())?
    }
}

fn spawn(worker: &Path) -> io::Result<Child> {
    let mut command = Command::new(worker);
    command
        .arg(super::WORKER_COMMAND)
        // The debugger that an assertion would start is not allowed in the sandbox.
        .env("GGML_NO_BACKTRACE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    // Ctrl-C in a terminal goes to the node, which ends its children itself.
    #[cfg(unix)]
    command.process_group(0);
    command.spawn()
}

/// A running child with its pipes. Dropping it ends the child.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    /// What it says.
    pub(super) frames: FramedRead<ChildStdout, Frames<FromWorker>>,
    /// Frames for it, already encoded; a task of its own writes them, so that neither side waits for the other.
    pub(super) outbox: mpsc::Sender<Vec<u8>>,
    last_lines: JoinHandle<VecDeque<String>>,
}

impl Process {
    /// Starts `worker engine-worker`.
    pub(super) async fn start(spawner: &Spawner, worker: &Path) -> io::Result<Self> {
        let mut child = spawner.spawn(worker).await?;
        let stdin = child.stdin.take().expect("stdin is piped");
        let stdout = child.stdout.take().expect("stdout is piped");
        let stderr = child.stderr.take().expect("stderr is piped");
        let (outbox, frames) = mpsc::channel(OUTBOX);
        tokio::spawn(write(stdin, frames));
        Ok(Self {
            child,
            frames: FramedRead::with_capacity(stdout, Frames::new(FROM_WORKER_LIMIT), 16 * 1024),
            outbox,
            last_lines: tokio::spawn(read_lines(stderr)),
        })
    }

    /// Its process id, while it runs.
    pub(super) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Ends the child, waits until it is gone, and tells how it ended and what it said last.
    pub(super) async fn end(mut self) -> String {
        // Gone already is as good.
        let _ = self.child.start_kill();
        let how = match self.child.wait().await {
            Ok(status) => describe(status),
            Err(error) => format!("ended, how is not known: {error}"),
        };
        match tokio::time::timeout(LINES_WAIT, self.last_lines).await {
            Ok(Ok(lines)) if !lines.is_empty() => {
                format!("{how}; it said last: {}", Vec::from(lines).join(" | "))
            }
            _ => how,
        }
    }

    /// Waits a moment for a child whose output has ended to end itself, so that its own exit status is told.
    pub(super) async fn settle(&mut self) {
        let _ = tokio::time::timeout(LINES_WAIT, self.child.wait()).await;
    }
}

fn describe(status: ExitStatus) -> String {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        let name = match signal {
            4 => " (illegal instruction)",
            6 => " (failed assertion)",
            7 => " (bus error)",
            8 => " (arithmetic error)",
            9 => " (killed, or out of memory)",
            11 => " (invalid memory access)",
            31 => " (forbidden system call)",
            _ => "",
        };
        return format!("ended by signal {signal}{name}");
    }
    status.code().map_or_else(|| "ended".to_owned(), |code| format!("ended with exit code {code}"))
}

async fn write(mut stdin: ChildStdin, mut frames: mpsc::Receiver<Vec<u8>>) {
    while let Some(frame) = frames.recv().await {
        // A child that is gone is seen by its reader.
        if stdin.write_all(&frame).await.is_err() {
            return;
        }
    }
}

/// Logs what the library says and keeps the last lines. The child never writes prompts there.
async fn read_lines(mut stderr: ChildStderr) -> VecDeque<String> {
    let mut last = VecDeque::with_capacity(LAST_LINES + 1);
    let mut line = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = stderr.read(&mut buffer).await {
        for &byte in &buffer[..count] {
            if byte == b'\n' {
                keep(&mut last, &line);
                line.clear();
            } else if line.len() < LINE_BYTES {
                line.push(byte);
            }
        }
    }
    keep(&mut last, &line);
    last
}

fn keep(last: &mut VecDeque<String>, line: &[u8]) {
    let text: String = String::from_utf8_lossy(line).chars().filter(|c| !c.is_control()).collect();
    let text = text.trim();
    if text.is_empty() {
        return;
    }
    tracing::debug!(engine = text);
    last.push_back(text.to_owned());
    if last.len() > LAST_LINES {
        last.pop_front();
    }
}

//! The engine child: one model, served over stdin and stdout until stdin closes.
//!
//! ```text
//! stdin -> reader --commands--> main: batcher --questions--> tokenizer
//!                                 ^   |                        |
//!                                 |   +--frames--> stdout <----+ counts
//!                                 +--------- prepared ---------+
//! ```
//!
//! The process gives up its rights before it opens the model file ([`sandbox`]); a panic, an assertion in the library
//! and a closed stdin all end it.

use super::{
    batch::Batcher,
    frames::{self, FromWorker, Load, MAX_WARNINGS, TO_WORKER_LIMIT, ToWorker},
    llama,
    mailbox::{Command, Output, Question},
    prompt::Prompter,
    sandbox,
};
use std::{
    io::{self, Write as _},
    process::ExitCode,
    sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TryRecvError},
    thread,
    time::{Duration, Instant},
};

/// Commands that wait for the end of a step. A full queue stops the reader, and with it the node's writer.
const COMMANDS: usize = 256;
/// How long a step may go on after stdin has closed.
const LAST_STEP: Duration = Duration::from_secs(5);
/// Longest rest between two steps of a device that is to be slower.
const LONGEST_REST: Duration = Duration::from_secs(10);
/// Stack of the thread that tokenizes: the regular expressions of some vocabularies recurse with the text.
const TOKENIZER_STACK: usize = 64 * 1024 * 1024;

/// Serves until stdin closes.
pub(super) fn run() -> ExitCode {
    prepare_process();
    let output = Output::new();
    let load = match frames::read_frame::<ToWorker>(&mut io::stdin().lock(), TO_WORKER_LIMIT) {
        Ok(Some(ToWorker::Load(load))) => load,
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(_)) | Err(_) => {
            tracing::error!("the engine worker is started by the node itself, not by hand");
            return ExitCode::FAILURE;
        }
    };
    match serve(&load, &output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output.send(&FromWorker::LoadFailed { reason: error.to_string() });
            ExitCode::FAILURE
        }
    }
}

/// What must hold before the first byte is read.
fn prepare_process() {
    #[cfg(target_os = "linux")]
    sandbox::close_inherited();
    // The default hook prints the panic's message, which may quote a prompt.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(io::stderr(), "panic at {place}");
        std::process::abort();
    }));
    // With a node that is gone nobody would end this process.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)) {
        let _ = writeln!(io::stderr(), "no signal when the node ends: {error}");
    }
    // What is logged already is no reason to stop.
    let _ = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(false)
        .without_time()
        .with_target(false)
        .with_max_level(tracing::Level::WARN)
        .try_init();
    llama_cpp_2::send_logs_to_tracing(llama_cpp_2::LogOptions::default());
}

fn serve(load: &Load, output: &Output) -> Result<(), llama::LoadError> {
    let mut warnings = sandbox::enter(load);
    // From here on a closed stdin ends the process, in the middle of loading too.
    let (commands, inbox) = mpsc::sync_channel(COMMANDS);
    spawn("reader", None, {
        let commands = commands.clone();
        move || read_commands(&commands)
    })?;
    let progress = {
        let output = output.clone();
        move |percent| output.send(&FromWorker::Loading { percent })
    };
    let llama = llama::load(load, progress)?;
    let (ask, questions) = mpsc::sync_channel(2 * llama.loaded.slots as usize + 64);
    let prompter = Prompter::new(llama.model, llama.loaded.context);
    spawn("tokenizer", Some(TOKENIZER_STACK), {
        let output = output.clone();
        move || answer_questions(&prompter, &questions, &commands, &output)
    })?;
    warnings.extend(sandbox::seal());
    let mut loaded = llama.loaded.clone();
    loaded.warnings.extend(warnings);
    loaded.warnings.truncate(MAX_WARNINGS);
    let batcher = Batcher::new(llama, ask, output.clone());
    output.send(&FromWorker::Loaded(loaded));
    batch(batcher, &inbox, output);
    Ok(())
}

fn spawn(name: &str, stack: Option<usize>, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let mut thread = thread::Builder::new().name(name.to_owned());
    if let Some(stack) = stack {
        thread = thread.stack_size(stack);
    }
    thread.spawn(body).map(drop)
}

/// How long the device rests after a step that took `step`, at this percentage of the full speed.
fn rest(step: Duration, percent: u8) -> Duration {
    let percent = u32::from(percent.clamp(1, 100));
    (step * (100 - percent) / percent).min(LONGEST_REST)
}

/// Steps as long as there is work, waits for commands otherwise.
fn batch(mut batcher: Batcher, inbox: &Receiver<Command>, output: &Output) {
    let mut pace = 100;
    let mut rested_until: Option<Instant> = None;
    loop {
        if !batcher.has_work() {
            output.flush();
            match inbox.recv() {
                Ok(Command::End) | Err(_) => return,
                Ok(Command::Pace { percent }) => pace = percent,
                Ok(command) => batcher.handle(command),
            }
        }
        for _ in 0..COMMANDS {
            match inbox.try_recv() {
                Ok(Command::End) | Err(TryRecvError::Disconnected) => return,
                Ok(Command::Pace { percent }) => pace = percent,
                Ok(command) => batcher.handle(command),
                Err(TryRecvError::Empty) => break,
            }
        }
        // What comes meanwhile is heard at once: a job that is cancelled must not wait for the rest to end.
        if let Some(left) = rested_until.map(|until| until.saturating_duration_since(Instant::now()))
            && !left.is_zero()
        {
            output.flush();
            match inbox.recv_timeout(left) {
                Ok(Command::End) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(Command::Pace { percent }) => {
                    pace = percent;
                    if pace >= 100 {
                        rested_until = None;
                    }
                }
                Ok(command) => batcher.handle(command),
                Err(RecvTimeoutError::Timeout) => {}
            }
            continue;
        }
        let began = Instant::now();
        batcher.step();
        output.flush_due();
        rested_until = (pace < 100).then(|| Instant::now() + rest(began.elapsed(), pace));
    }
}

fn read_commands(commands: &SyncSender<Command>) {
    let mut stdin = io::stdin().lock();
    loop {
        let command = match frames::read_frame(&mut stdin, TO_WORKER_LIMIT) {
            Ok(Some(ToWorker::Count { id, spec })) => Command::Count { id, spec },
            Ok(Some(ToWorker::Generate { id, spec, credit })) => Command::Generate { id, spec, credit },
            Ok(Some(ToWorker::Grant { id, tokens })) => Command::Grant { id, tokens },
            Ok(Some(ToWorker::Cancel { id })) => Command::Cancel { id },
            Ok(Some(ToWorker::Pace { percent })) => Command::Pace { percent },
            Ok(Some(ToWorker::Load(_)) | None) => break,
            Err(error) => {
                tracing::error!(%error, "the node's frames cannot be read");
                break;
            }
        };
        if commands.send(command).is_err() {
            return;
        }
    }
    let _ = commands.try_send(Command::End);
    thread::sleep(LAST_STEP);
    // Still loading, or in a step without end.
    std::process::abort();
}

fn answer_questions(
    prompter: &Prompter,
    questions: &Receiver<Question>,
    commands: &SyncSender<Command>,
    output: &Output,
) {
    while let Ok(question) = questions.recv() {
        match question {
            Question::Count { id, spec } => {
                output.send(&FromWorker::Counted { id, result: prompter.count(&spec) });
            }
            Question::Prepare { id, spec } => {
                if commands.send(Command::Prepared { id, outcome: prompter.prepare(spec) }).is_err() {
                    return;
                }
            }
        }
    }
}

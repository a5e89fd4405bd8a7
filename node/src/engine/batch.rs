//! Continuous batching: sequences join and leave between decode steps.
//!
//! Each step decodes one token of every running answer together with a piece of the prompts that are still being read.
//! A job without allowance keeps its sequence and is left out of the steps. The last known token of a job is always
//! the next one to be decoded, so that whatever is in the context was decoded once and what pauses needs no memory of
//! its logits.

use super::{
    frames::{FromWorker, JobFailure},
    llama::{BATCH_TOKENS, Llama, is_embedder},
    mailbox::{Command, Output, Question},
    prompt::Prepared,
    sampling::{self, Scratch},
    stops::Text,
};
use aitbc_protocol::job::{Finish, JobSpec, Logprobs, Sampling, TokenLogprob};
use llama_cpp_2::{context::LlamaContext, llama_batch::LlamaBatch, model::LlamaModel, token::LlamaToken};
use std::sync::mpsc::SyncSender;

/// Most prompt tokens in a step while answers are being generated: their next tokens wait no longer than this takes.
const PROMPT_TOKENS_BESIDE_ANSWERS: usize = 128;

/// An answer in the making.
struct Answer {
    /// Prompt, prefix, and what was generated.
    tokens: Vec<LlamaToken>,
    /// How many of them are in the context.
    decoded: usize,
    /// Tokens of the answer so far, the prefix included: the position of the next draw.
    position: u32,
    text: Text,
    /// Nothing of the answer was told yet: who asked waits for the first token.
    silent: bool,
}

/// What is asked of an answer.
struct Wishes {
    sampling: Sampling,
    max_tokens: u32,
    top_logprobs: Option<u8>,
}

/// Texts that become vectors, one a step.
struct Vectors {
    texts: Vec<Vec<LlamaToken>>,
    done: Vec<Vec<f32>>,
}

enum Work {
    /// Being tokenized.
    Preparing,
    Answer(Box<Answer>),
    Vectors(Vectors),
}

struct Job {
    id: u64,
    credit: u32,
    wishes: Wishes,
    work: Work,
    /// Its sequence in the context, from when it starts.
    sequence: Option<i32>,
    /// Tokens of it are in the batch.
    in_step: bool,
}

impl Job {
    /// Tokens to decode before the next draw; `None` where there is nothing to do now.
    fn pending(&self) -> Option<usize> {
        match &self.work {
            Work::Answer(answer) if self.sequence.is_some() => {
                let rest = answer.tokens.len() - answer.decoded;
                // The last one is followed by a draw, which needs allowance.
                let allowed = if self.credit > 0 { rest } else { rest.saturating_sub(1) };
                (allowed > 0).then_some(allowed)
            }
            _ => None,
        }
    }
}

/// Owns the model's context and all jobs.
pub(super) struct Batcher {
    llama: Llama,
    batch: LlamaBatch<'static>,
    embedder: Option<(LlamaContext<'static>, u32)>,
    free: Vec<i32>,
    /// In order of arrival.
    jobs: Vec<Job>,
    /// Jobs whose logits the step yields, with their place in the batch.
    drawing: Vec<(usize, i32)>,
    scratch: Scratch,
    piece: Vec<u8>,
    questions: SyncSender<Question>,
    output: Output,
}

impl Batcher {
    /// Runs jobs on `llama`; `questions` go to the thread that tokenizes.
    pub(super) fn new(llama: Llama, questions: SyncSender<Question>, output: Output) -> Self {
        let slots = i32::try_from(llama.loaded.slots).expect("bounded when it was loaded");
        Self {
            batch: LlamaBatch::new(llama.context.n_batch() as usize, 1),
            free: (0..slots).rev().collect(),
            llama,
            embedder: None,
            jobs: Vec::new(),
            drawing: Vec::new(),
            scratch: Scratch::default(),
            piece: Vec::with_capacity(64),
            questions,
            output,
        }
    }

    /// Whether a step would do anything.
    pub(super) fn has_work(&self) -> bool {
        self.jobs.iter().any(|job| match (&job.work, job.sequence) {
            (Work::Preparing, _) => false,
            (Work::Answer(_), None) => !self.free.is_empty(),
            (Work::Answer(_), Some(_)) => job.pending().is_some(),
            (Work::Vectors(_), _) => true,
        })
    }

    /// Takes what the node or the tokenizing thread says.
    pub(super) fn handle(&mut self, command: Command) {
        match command {
            Command::Generate { id, spec, credit } => self.generate(id, spec, credit),
            Command::Prepared { id, outcome } => self.prepared(id, outcome),
            Command::Grant { id, tokens } => {
                if let Some(job) = self.jobs.iter_mut().find(|job| job.id == id) {
                    job.credit = job.credit.saturating_add(tokens);
                }
            }
            Command::Cancel { id } => {
                if let Some(index) = self.index(id) {
                    self.finish(index, Finish::Cancelled, String::new());
                }
            }
            Command::Count { id, spec } => {
                if self.questions.try_send(Question::Count { id, spec }).is_err() {
                    let failure = JobFailure::Failed("too many questions at once".to_owned());
                    self.output.queue(&FromWorker::Counted { id, result: Err(failure) });
                }
            }
            // What the loop around the steps goes by.
            Command::Pace { .. } | Command::End => {}
        }
    }

    fn index(&self, id: u64) -> Option<usize> {
        self.jobs.iter().position(|job| job.id == id)
    }

    fn generate(&mut self, id: u64, spec: JobSpec, credit: u32) {
        let wishes = Wishes {
            sampling: spec.sampling.clone(),
            max_tokens: spec.max_tokens,
            top_logprobs: spec.top_logprobs,
        };
        if self.questions.try_send(Question::Prepare { id, spec }).is_err() {
            let failure = JobFailure::Failed("too many jobs at once".to_owned());
            self.output.queue(&FromWorker::Failed { id, failure });
            return;
        }
        self.jobs.push(Job { id, credit, wishes, work: Work::Preparing, sequence: None, in_step: false });
    }

    fn prepared(&mut self, id: u64, outcome: Result<Prepared, JobFailure>) {
        // A job that was cancelled meanwhile is not there any more.
        let Some(index) = self.index(id) else { return };
        match outcome {
            Err(failure) => self.fail(index, failure),
            Ok(Prepared::Embeddings(texts)) => {
                self.output.queue(&FromWorker::Started { id });
                let done = Vec::with_capacity(texts.len());
                self.jobs[index].work = Work::Vectors(Vectors { texts, done });
            }
            Ok(Prepared::Answer { .. }) if is_embedder(&self.llama.loaded.architecture) => {
                let reason = format!("{} models only turn texts into vectors", self.llama.loaded.architecture);
                self.fail(index, JobFailure::Unsupported(reason));
            }
            Ok(Prepared::Answer { stopped: true, .. }) => {
                self.output.queue(&FromWorker::Started { id });
                self.finish(index, Finish::Stop, String::new());
            }
            Ok(Prepared::Answer { tokens, text, stopped: false, prefix }) => {
                let answer = Answer { tokens, decoded: 0, position: prefix, text, silent: true };
                self.jobs[index].work = Work::Answer(Box::new(answer));
            }
        }
    }

    /// Ends a job and frees its sequence.
    fn finish(&mut self, index: usize, finish: Finish, text: String) {
        let id = self.remove(index);
        self.output.queue(&FromWorker::Finished { id, finish, text });
    }

    fn fail(&mut self, index: usize, failure: JobFailure) {
        let id = self.remove(index);
        self.output.queue(&FromWorker::Failed { id, failure });
    }

    fn remove(&mut self, index: usize) -> u64 {
        let job = self.jobs.remove(index);
        if let Some(sequence) = job.sequence {
            // Whole sequences are always removed; its number is small.
            let _ = self.llama.context.clear_kv_cache_seq(Some(sequence.unsigned_abs()), None, None);
            self.free.push(sequence);
        }
        job.id
    }

    /// One step: what waits starts, one text becomes a vector, one batch is decoded, one token of each answer drawn.
    pub(super) fn step(&mut self) {
        self.start_waiting();
        self.embed_one();
        self.fill_batch();
        if self.batch.n_tokens() == 0 {
            return;
        }
        if let Err(error) = self.llama.context.decode(&mut self.batch) {
            // Which sequence it was about cannot be told: all that took part end.
            let reason = format!("llama.cpp does not decode: {error}");
            for index in (0..self.jobs.len()).rev() {
                if self.jobs[index].in_step {
                    self.fail(index, JobFailure::Failed(reason.clone()));
                }
            }
            return;
        }
        // From the last to the first, so that ended ones can be removed on the way.
        while let Some((index, place)) = self.drawing.pop() {
            self.draw(index, place);
        }
    }

    fn start_waiting(&mut self) {
        for job in &mut self.jobs {
            if job.sequence.is_none() && matches!(job.work, Work::Answer(_)) {
                let Some(sequence) = self.free.pop() else { return };
                job.sequence = Some(sequence);
                self.output.queue(&FromWorker::Started { id: job.id });
            }
        }
    }

    /// Puts one token of every running answer and a piece of the prompts into the batch.
    fn fill_batch(&mut self) {
        self.batch.clear();
        self.drawing.clear();
        let running = self.jobs.iter().filter(|job| job.pending() == Some(1)).count();
        let mut room = if running > 0 { PROMPT_TOKENS_BESIDE_ANSWERS } else { BATCH_TOKENS as usize };
        room = room.min((self.llama.context.n_batch() as usize).saturating_sub(running));
        for (index, job) in self.jobs.iter_mut().enumerate() {
            job.in_step = false;
            let Some(pending) = job.pending() else { continue };
            let take = if pending == 1 { 1 } else { pending.min(room) };
            if pending > 1 {
                room -= take;
            }
            job.in_step = take > 0;
            let (Work::Answer(answer), Some(sequence)) = (&mut job.work, job.sequence) else { continue };
            for _ in 0..take {
                let last = answer.decoded + 1 == answer.tokens.len();
                let position = i32::try_from(answer.decoded).expect("sequences are shorter than the context");
                let place = self.batch.n_tokens();
                self.batch
                    .add(answer.tokens[answer.decoded], position, &[sequence], last)
                    .expect("one token a running answer and `room` for the others fit");
                answer.decoded += 1;
                if last {
                    self.drawing.push((index, place));
                }
            }
        }
    }

    /// Draws the next token of one answer from the logits at `place`.
    fn draw(&mut self, index: usize, place: i32) {
        let job = &mut self.jobs[index];
        let Work::Answer(answer) = &mut job.work else { return };
        let logits = self.llama.context.get_logits_ith(place);
        let id = sampling::draw(logits, &job.wishes.sampling, answer.position, &mut self.scratch);
        let token = LlamaToken::new(id.cast_signed());
        let vocab = self.llama.model.vocab();
        if vocab.is_eog(token) {
            let rest = answer.text.finish();
            self.finish(index, Finish::Stop, rest.text);
            return;
        }
        let logprobs = job
            .wishes
            .top_logprobs
            .map(|count| log_probabilities(self.llama.model, logits, id, count, &mut self.scratch));
        self.piece.clear();
        vocab.token_to_piece_into(token, &mut self.piece, false, None);
        let certain = answer.text.push(&self.piece);
        answer.tokens.push(token);
        answer.position += 1;
        job.credit -= 1;
        let told = FromWorker::Token { id: job.id, token: id, text: certain.text, logprobs };
        // The first is waited for, and so is the last before a pause: it is to be paid for.
        if std::mem::take(&mut answer.silent) || job.credit == 0 {
            self.output.queue(&told);
        } else {
            self.output.queue_patient(&told);
        }
        if certain.stopped {
            self.finish(index, Finish::Stop, String::new());
        } else if answer.position >= job.wishes.max_tokens
            || answer.tokens.len() > self.llama.loaded.context as usize
        {
            let rest = answer.text.finish();
            // A character that never became complete may complete a stop sequence no more than anything else.
            let finish = if rest.stopped { Finish::Stop } else { Finish::Length };
            self.finish(index, finish, rest.text);
        }
    }

    /// Turns the next text of the first embedding job into a vector.
    fn embed_one(&mut self) {
        let Some(index) = self.jobs.iter().position(|job| matches!(job.work, Work::Vectors(_))) else { return };
        let Work::Vectors(vectors) = &mut self.jobs[index].work else { return };
        if let Some(tokens) = vectors.texts.get(vectors.done.len()) {
            match embed(&self.llama, &mut self.embedder, tokens) {
                Ok(vector) => vectors.done.push(vector),
                Err(failure) => return self.fail(index, failure),
            }
        }
        if vectors.done.len() == vectors.texts.len() {
            let vectors = std::mem::take(&mut vectors.done);
            let id = self.jobs[index].id;
            self.output.queue(&FromWorker::Embeddings { id, vectors });
            self.finish(index, Finish::Stop, String::new());
        }
    }
}

/// The vector of one text, of length one. The context for it is made when it is first needed.
fn embed(
    llama: &Llama,
    embedder: &mut Option<(LlamaContext<'static>, u32)>,
    tokens: &[LlamaToken],
) -> Result<Vec<f32>, JobFailure> {
    let failed = |reason: String| JobFailure::Failed(format!("no vector of the text: {reason}"));
    if embedder.is_none() {
        *embedder = Some(llama.embedding_context().map_err(|error| failed(error.to_string()))?);
    }
    let (context, most) = embedder.as_mut().expect("just made");
    if tokens.len() > *most as usize {
        let needed = u32::try_from(tokens.len()).unwrap_or(u32::MAX);
        return Err(JobFailure::ContextTooSmall { needed, context: *most });
    }
    if tokens.is_empty() {
        return Err(failed("it has no tokens".to_owned()));
    }
    context.clear_kv_cache();
    let mut batch = LlamaBatch::new(tokens.len(), 1);
    for (position, &token) in (0..).zip(tokens) {
        batch.add(token, position, &[0], true).expect("the batch is as long as the text");
    }
    context.decode(&mut batch).map_err(|error| failed(error.to_string()))?;
    let vector = context.embeddings_seq_ith(0).map_err(|error| failed(error.to_string()))?;
    let length = vector.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    if !(length.is_finite() && length > 0.0) {
        return Err(failed("it has no direction".to_owned()));
    }
    Ok(vector.iter().map(|value| (f64::from(*value) / length) as f32).collect())
}

fn log_probabilities(
    model: &LlamaModel,
    logits: &[f32],
    chosen: u32,
    count: u8,
    scratch: &mut Scratch,
) -> Logprobs {
    let total = sampling::log_sum(logits);
    let entry = |token: u32| TokenLogprob {
        token,
        bytes: model.vocab().token_to_piece(LlamaToken::new(token.cast_signed()), true, None),
        logprob: sampling::logprob(logits, total, token),
    };
    Logprobs {
        chosen: entry(chosen),
        top: sampling::top(logits, usize::from(count), scratch).into_iter().map(entry).collect(),
    }
}

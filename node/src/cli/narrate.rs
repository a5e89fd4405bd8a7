//! Tells people what happens to a job.

use super::output;
use crate::routing::{JobUpdate, RankedCandidate};

/// One line on stderr for what is worth a line; the answer itself is the caller's.
pub(super) fn progress(update: &JobUpdate) {
    match update {
        JobUpdate::Searching { precision, ring, found } => {
            eprintln!("searching cells of {precision} characters, ring {ring}: {found} found so far");
        }
        JobUpdate::Found { provider, cell, distance_km, through } => {
            eprintln!("found     …{} in {cell}, {distance_km:.0} km away, through {through}", provider.short());
        }
        JobUpdate::Ranked { candidates } => {
            for (place, candidate) in candidates.iter().enumerate() {
                eprintln!("ranked    {}. {}", place + 1, ranked(candidate));
            }
        }
        JobUpdate::Declined { provider, reason } => eprintln!("declined  …{}: {reason}", provider.short()),
        JobUpdate::Quoted { provider, quote } => eprintln!(
            "quote     …{}: at most {} for {} prompt tokens and up to {} of the answer, binding for {}",
            provider.short(),
            quote.max_total,
            quote.prompt_tokens,
            quote.max_completion_tokens,
            output::duration(quote.expires_ms.saturating_sub(quote.issued_ms)),
        ),
        JobUpdate::Started { provider, after_ms } => {
            eprintln!("started   on …{} after {}", provider.short(), output::duration(*after_ms));
        }
        JobUpdate::Paid { provider, sequence, job_total, tokens } => eprintln!(
            "cheque    number {sequence} to …{}: {job_total} for this job so far, {tokens} tokens",
            provider.short()
        ),
        JobUpdate::FailedOver { from, reason, kept } => {
            eprintln!("failover  …{} failed ({reason}): going on elsewhere after {kept} tokens", from.short());
        }
        JobUpdate::Receipt { provider, id, receipt, checks } => {
            eprintln!(
                "receipt   {id} by …{}: {} prompt + {} answer tokens, {} on {}, {}",
                provider.short(),
                receipt.prompt_tokens,
                receipt.completion_tokens,
                receipt.total,
                receipt.device.name,
                output::duration(receipt.timings.total_ms),
            );
            for check in checks {
                eprintln!("          {} {}: {}", mark(check.passed), check.name, check.detail);
            }
        }
        JobUpdate::ReceiptMissing { provider, paid, reason } => {
            eprintln!("receipt   missing from …{} ({reason}); it was paid {paid}", provider.short());
        }
        JobUpdate::Finished { prompt_tokens, completion_tokens, paid, .. } => {
            eprintln!("finished  {prompt_tokens} prompt + {completion_tokens} answer tokens, paid {paid}");
        }
        JobUpdate::Delta { .. } | JobUpdate::Embeddings { .. } | JobUpdate::Failed(_) => {}
    }
}

/// How a check came out.
pub(super) fn mark(passed: Option<bool>) -> &'static str {
    match passed {
        Some(true) => "ok     ",
        Some(false) => "FAILED ",
        None => "skipped",
    }
}

fn ranked(candidate: &RankedCandidate) -> String {
    let provider = candidate.provider.short();
    match &candidate.excluded {
        Some(excluded) => format!("…{provider} in {}: out, {excluded}", candidate.cell),
        None => format!("…{provider} in {} on {}: {}", candidate.cell, candidate.device.name, candidate.reasons),
    }
}

/// A ranking on stdout.
pub(super) fn ranking(candidates: &[RankedCandidate]) {
    for (place, candidate) in candidates.iter().enumerate() {
        println!("{}. {}  {}", place + 1, candidate.provider, ranked(candidate));
    }
}

//! Tells people what happens to a job.

use super::output;
use crate::routing::{JobUpdate, RankedCandidate, ShownBy};
use aitbc_protocol::{
    NodeId,
    price::{Explained, TokenPrice},
    quote::Quote,
};
use std::collections::BTreeMap;

/// Names for nodes that the teller has a better word for than the end of their id.
#[derive(Debug, Default)]
pub(super) struct Narrator {
    /// Node and name.
    pub(super) names: BTreeMap<NodeId, String>,
    /// Whether jobs are private ones, which count values and bootstraps in place of tokens.
    pub(super) is_private: bool,
}

impl Narrator {
    /// What to call a node.
    pub(super) fn name(&self, node: &NodeId) -> String {
        self.names.get(node).cloned().unwrap_or_else(|| format!("…{}", node.short()))
    }

    /// What went in and what was made of it, in the words of the kind of job.
    fn amounts(&self, given: u32, made: u32) -> String {
        if self.is_private {
            format!("{given} encrypted values + {made} bootstraps")
        } else {
            format!("{given} prompt + {made} answer tokens")
        }
    }

    /// One line on stderr for what is worth a line; the answer itself is the caller's.
    pub(super) fn progress(&self, update: &JobUpdate) {
        match update {
            // A ring more is worth no line; the size of the cells tells how far the search is.
            JobUpdate::Searching { precision, ring: 0, found } => {
                eprintln!("searching cells of {precision} characters and around them, {found} found so far");
            }
            JobUpdate::Found { provider, cell, distance_km, through } => {
                eprintln!(
                    "found     {} in {cell}, {distance_km:.0} km away, through {through}",
                    self.name(provider)
                );
            }
            JobUpdate::Ranked { candidates } => {
                for (place, candidate) in candidates.iter().enumerate() {
                    eprintln!("ranked    {}. {}", place + 1, self.ranked(candidate));
                }
            }
            JobUpdate::Declined { provider, reason } => eprintln!("declined  {}: {reason}", self.name(provider)),
            JobUpdate::Retrying { provider, reason } => {
                eprintln!("retrying  {}: {reason}", self.name(provider));
            }
            JobUpdate::Quoted { provider, quote, factors } => {
                eprintln!(
                    "quote     {}: at most {} for up to {}, binding for {}",
                    self.name(provider),
                    quote.max_total,
                    self.amounts(quote.prompt_tokens, quote.max_completion_tokens),
                    output::duration(quote.expires_ms.saturating_sub(quote.issued_ms)),
                );
                for line in price_lines(quote, factors) {
                    eprintln!("          {line}");
                }
            }
            JobUpdate::Started { provider, after_ms } => {
                eprintln!("started   on {} after {}", self.name(provider), output::duration(*after_ms));
            }
            JobUpdate::Cloud { host, model, most, reason } => eprintln!(
                "cloud     going to {host} for {model} ({reason}), at most {most}; its operator can read the prompt"
            ),
            JobUpdate::CloudBill { host, model, prompt_tokens, completion_tokens, counted, cost } => eprintln!(
                "cloud     {host} answered with {model}: {}{}, {cost} by its price, charged there",
                self.amounts(*prompt_tokens, *completion_tokens),
                if *counted { "" } else { " by this node's count" },
            ),
            JobUpdate::CloudFailed { host, reason } => eprintln!("cloud     {host} failed: {reason}"),
            JobUpdate::Paid { provider, sequence, job_total, tokens } => eprintln!(
                "cheque    number {sequence} to {}: {job_total} for this job so far, {tokens} {}",
                self.name(provider),
                if self.is_private { "bootstraps" } else { "tokens" },
            ),
            JobUpdate::PathLost { provider, reason } => {
                eprintln!("lost      the path to {} ({reason}): looking for another", self.name(provider));
            }
            JobUpdate::Resumed { provider, after_ms } => {
                eprintln!("resumed   on {} after {}", self.name(provider), output::duration(*after_ms));
            }
            JobUpdate::FailedOver { from, reason, kept } => {
                eprintln!(
                    "failover  {} failed ({reason}): going on elsewhere after {kept} tokens",
                    self.name(from)
                );
            }
            JobUpdate::Hedged { late, after_ms, expected_ms, beside } => eprintln!(
                "late      {} has sent nothing for {}, {} were expected: asking {} as well",
                self.name(late),
                output::duration(*after_ms),
                output::duration(*expected_ms),
                self.name(beside),
            ),
            JobUpdate::Outrun { provider, by, paid, reserved } => {
                let more = if reserved.0 > 0 { format!(", {reserved} more at most") } else { String::new() };
                eprintln!(
                    "outrun    {} by {}: cancelled, paid {paid} for what it had delivered{more}",
                    self.name(provider),
                    self.name(by),
                );
            }
            JobUpdate::Receipt { provider, id, receipt, checks } => {
                eprintln!(
                    "receipt   {id} by {}: {}, {} on {}, {}",
                    self.name(provider),
                    self.amounts(receipt.prompt_tokens, receipt.completion_tokens),
                    receipt.total,
                    receipt.device.name,
                    output::duration(receipt.timings.total_ms),
                );
                for check in checks {
                    eprintln!("          {} {}: {}", mark(check.passed), check.name, check.detail);
                }
            }
            JobUpdate::ReceiptMissing { provider, paid, reason } => {
                eprintln!("receipt   missing from {} ({reason}); it was paid {paid}", self.name(provider));
            }
            JobUpdate::Finished { prompt_tokens, completion_tokens, paid, .. } => {
                eprintln!("finished  {}, paid {paid}", self.amounts(*prompt_tokens, *completion_tokens));
            }
            JobUpdate::Computed { .. }
            | JobUpdate::Sealed { .. }
            | JobUpdate::Searching { .. }
            | JobUpdate::Delta { .. }
            | JobUpdate::Embeddings { .. }
            | JobUpdate::Failed(_) => {}
        }
    }

    fn ranked(&self, candidate: &RankedCandidate) -> String {
        let provider = self.name(&candidate.provider);
        let RankedCandidate { cell, device, reasons, excluded, .. } = candidate;
        if let Some(excluded) = excluded {
            return format!("{provider} in {cell}: out, {excluded}");
        }
        let measured = device.measured.map_or_else(String::new, |measured| {
            format!(" ({:.0} GB/s by its own word)", f64::from(measured.bandwidth_mb_s) / 1e3)
        });
        let private = candidate.private.as_ref().map_or_else(String::new, |private| {
            format!(
                ", computes on encrypted values: {} bootstraps, a key of {} once",
                private.bootstraps,
                output::bytes(private.key_bytes)
            )
        });
        format!("{provider} in {cell} on {}{measured}{private}: {reasons}", device.name)
    }
}

/// What a quote's price is made of: the base, and each factor that changes it.
fn price_lines(quote: &Quote, factors: &[Explained]) -> Vec<String> {
    let TokenPrice { prompt, completion } = quote.price;
    let base = format!("base {prompt} for a thousand prompt tokens, {completion} for a thousand of the answer");
    std::iter::once(base).chain(factors.iter().map(ToString::to_string)).collect()
}

/// How a check came out.
pub(super) fn mark(passed: Option<bool>) -> &'static str {
    match passed {
        Some(true) => "ok     ",
        Some(false) => "FAILED ",
        None => "skipped",
    }
}

/// A ranking on stdout.
pub(super) fn ranking(candidates: &[RankedCandidate]) {
    let narrator = Narrator::default();
    for (place, candidate) in candidates.iter().enumerate() {
        println!("{}. {}  {}", place + 1, candidate.provider, narrator.ranked(candidate));
        if let (tier, Some(through)) = (candidate.trust.tier, candidate.trust.through) {
            let by = candidate.trust.verifier.map(|verifier| narrator.name(&verifier));
            let by = by.map_or_else(|| "a proof".to_owned(), |by| format!("the word of {by}"));
            let own = matches!(through, crate::trust::Through::Own);
            println!("   attestation {tier}, by {}", if own { "this node's own check" } else { &by });
        }
        for ShownBy { verifier, shown } in &candidate.shown {
            let (gib, rate) = (shown.bytes as f64 / 1_073_741_824.0, shown.rate as f64 / 1e9);
            let simulated = if shown.simulated { ", SIMULATED" } else { "" };
            let by = narrator.name(verifier);
            println!(
                "   {}: showed {gib:.2} GiB at {rate:.2} GB/s of random reads to {by}{simulated}",
                shown.device
            );
        }
    }
}

//! What follows from evidence that is genuine: PCRs explained by their logs, and what the aspects are worth.

use super::{
    Pending, QUOTED_PCRS, TpmError, TpmEvidence,
    event_log::{EventLog, Policy, SecureBoot},
    ima::{self, IMA_PCR},
};
use aitbc_protocol::{
    Digest,
    attestation::{Appraisal, EvidenceKind, Measurement, TrustVector},
};

/// Values of the AR4SI claims that are used here (draft-ietf-rats-ar4si, section 2.3.4).
mod claim {
    /// Known and genuine.
    pub(super) const RECOGNISED: i8 = 2;
    /// What runs was approved at boot.
    pub(super) const APPROVED_BOOT: i8 = 3;
    /// With known weaknesses.
    pub(super) const WEAK: i8 = 32;
    /// Seen, and not recognised.
    pub(super) const UNKNOWN: i8 = 33;
    /// In a way that cannot be supported.
    pub(super) const UNSUPPORTABLE: i8 = 96;
}

/// The PCRs of a measurement, out of [`QUOTED_PCRS`]: PCR 10 grows with every file that is opened.
const MEASURED: usize = 8;

/// What was measured: SHA-256 over the values of the PCRs 0 to 7, in that order.
pub(super) fn measurement(pcrs: &[Digest; 9]) -> Measurement {
    let values: Vec<u8> = pcrs.iter().take(MEASURED).flat_map(|value| value.0).collect();
    Digest::of(&values).0.into()
}

/// Explains the PCRs and judges what they say. The values are those of the quote already.
pub(super) fn appraise(
    pending: &Pending,
    evidence: &TpmEvidence,
    approved: &[Measurement],
) -> Result<Appraisal, TpmError> {
    let mut notes = Vec::new();
    let policy = explain_boot(evidence, &mut notes)?;
    explain_ima(evidence, &mut notes)?;
    let measurement = measurement(&evidence.pcrs);
    if let Some(first) = approved.first()
        && !approved.contains(&measurement)
    {
        return Err(TpmError::PcrsChanged { expected: *first, found: measurement });
    }
    let (instance_identity, hardware) = if let Some(endorsed) = &pending.endorsed {
        notes.push(format!("The vendor vouches for the TPM: {}.", endorsed.root));
        if endorsed.is_virtual {
            notes.push("It is a virtual TPM: its cloud provider's software speaks for the hardware.".into());
        }
        (claim::RECOGNISED, if endorsed.is_virtual { claim::WEAK } else { claim::RECOGNISED })
    } else {
        notes.push("The TPM has no endorsement certificate: it may be software.".into());
        (claim::UNKNOWN, 0)
    };
    let executables = match approved {
        // All but the locality that the TPM was started from.
        _ if evidence.pcrs[0].0[..31] == [0; 31] => {
            notes.push("The firmware measured nothing into PCR 0.".into());
            claim::UNKNOWN
        }
        [_, ..] => claim::APPROVED_BOOT,
        [] => {
            notes.push("No measurement was approved for this machine yet.".into());
            0
        }
    };
    let vector = TrustVector {
        instance_identity,
        hardware,
        executables,
        configuration: configuration(policy, &mut notes),
        ..TrustVector::default()
    };
    Ok(Appraisal {
        kind: EvidenceKind::Tpm,
        vector,
        hardware: pending.hardware,
        measurement,
        firmware_ms: None,
        vulnerable: None,
        expires_ms: None,
        notes,
    })
}

/// Replays the firmware's log over the PCRs 0 to 7; `None` where there is no log.
fn explain_boot(evidence: &TpmEvidence, notes: &mut Vec<String>) -> Result<Option<Policy>, TpmError> {
    let Some(bytes) = &evidence.event_log else {
        notes.push("There is no event log: the PCRs are known and not explained.".into());
        return Ok(None);
    };
    let log = EventLog::parse(bytes)?;
    for (pcr, value) in QUOTED_PCRS.into_iter().zip(&evidence.pcrs).take(MEASURED) {
        if log.replay(pcr) != value.0 {
            return Err(TpmError::EventLog { pcr });
        }
    }
    notes.push(format!("The event log explains the PCRs 0 to 7 with {} events.", log.events.len()));
    Ok(Some(log.policy()))
}

/// Replays the kernel's log up to the quote.
fn explain_ima(evidence: &TpmEvidence, notes: &mut Vec<String>) -> Result<(), TpmError> {
    let value = QUOTED_PCRS.into_iter().zip(&evidence.pcrs).find(|(pcr, _)| *pcr == IMA_PCR);
    let quoted = value.map_or([0; 32], |(_, value)| value.0);
    match &evidence.ima_log {
        Some(log) => {
            let covered = ima::covered_prefix(log, &quoted)?;
            notes.push(format!(
                "The IMA log explains PCR 10 with {} entries; {} came after the quote.",
                covered.entries, covered.later
            ));
            if covered.only_sha1 {
                notes.push(
                    "The kernel fills the SHA-256 bank with SHA-1 digests: IMA's entries prove nothing.".into(),
                );
            }
        }
        None if quoted == [0; 32] => notes.push("IMA measures nothing on this machine.".into()),
        None => notes.push("There is no IMA log: PCR 10 is known and not explained.".into()),
    }
    Ok(())
}

/// What the firmware's policy is worth.
fn configuration(policy: Option<Policy>, notes: &mut Vec<String>) -> i8 {
    let secure_boot = policy.map_or(SecureBoot::Unknown, |policy| policy.secure_boot);
    let mut worth = match secure_boot {
        SecureBoot::On => {
            notes.push("Secure Boot was on.".into());
            claim::RECOGNISED
        }
        SecureBoot::Off => {
            notes.push("Secure Boot was off.".into());
            claim::WEAK
        }
        SecureBoot::Unknown => {
            notes.push("Nothing proves whether Secure Boot was on.".into());
            claim::WEAK
        }
    };
    if policy.is_some_and(|policy| policy.no_dma_protection) {
        notes.push("Devices could reach all memory while the firmware started.".into());
        worth = worth.max(claim::WEAK);
    }
    if policy.is_some_and(|policy| policy.debug) {
        notes.push("The firmware is in debug mode.".into());
        worth = claim::UNSUPPORTABLE;
    }
    worth
}

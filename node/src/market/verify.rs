//! Receipts as files, and their verification with nothing else at hand.

use crate::storage::JobRecord;
use aitbc_protocol::{
    MicroCredits, NetworkId, NodeId, Signed, Statement,
    checks::Check,
    quote::Quote,
    receipt::{Cheque, Receipt, ReceiptFile},
};

/// The schema of a receipt file.
pub const RECEIPT_SCHEMA: &str = "aitbc.receipt/1";

/// The file that proves a job to others; `None` while the job has no receipt.
pub fn receipt_file(record: &JobRecord, network: &NetworkId) -> Option<ReceiptFile> {
    Some(ReceiptFile {
        schema: RECEIPT_SCHEMA.to_owned(),
        network: network.clone(),
        quote: record.quote.clone(),
        receipt: record.receipt.clone()?,
        cheque: record.cheque.clone(),
    })
}

/// Every check that needs nothing but the file: signatures, that quote, receipt and cheque belong together, and that
/// the sums follow from them. The file holds if no check failed.
pub fn verify_receipt_file(file: &ReceiptFile) -> Vec<Check> {
    let mut checks = vec![Check::of("schema", Some(file.schema == RECEIPT_SCHEMA), &file.schema)];
    let quote = opened(&file.quote, file, "quote signature", None, &mut checks);
    let receipt = opened(&file.receipt, file, "receipt signature", Some(file.quote.signer()), &mut checks);
    let (Some(quote), Some(receipt)) = (quote, receipt) else { return checks };
    checks.extend(receipt.check(&quote, None));
    match &file.cheque {
        None => checks.push(unpaid(&receipt)),
        Some(signed) => {
            if let Some(cheque) = opened(signed, file, "cheque signature", Some(quote.client), &mut checks) {
                checks.push(pays(&cheque, &quote, &receipt, file.quote.signer()));
            }
        }
    }
    checks
}

/// Opens a statement of the file and notes whether it is signed, and by whom it should be.
fn opened<T: Statement>(
    signed: &Signed<T>,
    file: &ReceiptFile,
    name: &str,
    signer: Option<NodeId>,
    checks: &mut Vec<Check>,
) -> Option<T> {
    let expected = signer.unwrap_or(signed.signer());
    let (statement, detail) = match aitbc_crypto::open(signed, &file.network) {
        Ok(_) if signed.signer() != expected => {
            (None, format!("signed by {} where {expected} belongs", signed.signer()))
        }
        Ok(statement) => (Some(statement), format!("by {expected} on network {}", file.network)),
        Err(error) => (None, error.to_string()),
    };
    checks.push(Check::of(name, Some(statement.is_some()), detail));
    statement
}

fn unpaid(receipt: &Receipt) -> Check {
    Check::of("cheque", Some(receipt.total == MicroCredits::ZERO), format!("none, {} billed", receipt.total))
}

fn pays(cheque: &Cheque, quote: &Quote, receipt: &Receipt, provider: NodeId) -> Check {
    if cheque.provider != provider {
        return Check::of("cheque", Some(false), format!("made out to {}", cheque.provider));
    }
    match cheque.check(quote, receipt.completion_tokens) {
        Ok(()) => Check::of(
            "cheque",
            Some(cheque.job_total >= receipt.total),
            format!("pays {} of {}", cheque.job_total, receipt.total),
        ),
        Err(fault) => Check::of("cheque", Some(false), fault.to_string()),
    }
}

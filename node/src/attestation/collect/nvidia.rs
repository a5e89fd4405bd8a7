//! Reports of this machine's NVIDIA GPUs, through NVML's calls for confidential computing.
//!
//! Only data-centre GPUs (Hopper and later) have that mode, and only a virtual machine that a GPU was given to in that
//! mode gets reports.

use aitbc_crypto::tee::{
    nvidia::{MAX_REFERENCE_BYTES, NvidiaError, NvidiaEvidence, ReferenceFile, reference_names},
    x509::{CertificateError, pem_chain},
};
use aitbc_protocol::{
    bytes::{BoundedBytes, TooManyBytes},
    text::Line,
};
use nvml_wrapper::{Nvml, error::NvmlError};
use std::{ffi::OsStr, fs::File, io::Read as _, path::Path};

/// What one GPU gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Collected {
    /// NVML's number of the GPU.
    pub(super) gpu: u32,
    /// The evidence, with those of its reference files that are in the directory.
    pub(super) evidence: NvidiaEvidence,
}

/// Why there are no reports.
#[derive(Debug, thiserror::Error)]
pub(super) enum Why {
    /// No driver, or one that does not start.
    #[error("there is no driver of NVIDIA's: {0}")]
    NoLibrary(NvmlError),
    /// The driver has no such calls.
    #[error("NVIDIA's driver knows nothing of confidential computing: it needs to be 535 or newer")]
    OldDriver,
    /// There is no GPU.
    #[error("NVIDIA's driver sees no GPU")]
    NoGpu,
    /// No GPU has the mode, or has it switched on.
    #[error("no GPU is in confidential-computing mode: consumer GPUs have none, and others need it switched on")]
    NotConfidential,
    /// A GPU that should answer does not.
    #[error("GPU {gpu} gives no report: {error}")]
    Failed {
        /// NVML's number of the GPU.
        gpu: u32,
        /// What NVML says.
        error: NvmlError,
    },
    /// What a GPU gives is longer than a report is.
    #[error("GPU {gpu} gives more than a report: {error}")]
    TooLarge {
        /// NVML's number of the GPU.
        gpu: u32,
        /// How much more.
        error: TooManyBytes,
    },
    /// What a GPU gives for certificates are none.
    #[error("GPU {gpu} gives no certificates: {error}")]
    Certificates {
        /// NVML's number of the GPU.
        gpu: u32,
        /// What is wrong with them.
        error: CertificateError,
    },
    /// What a GPU gives is no report.
    #[error("GPU {gpu}: {error}")]
    Report {
        /// NVML's number of the GPU.
        gpu: u32,
        /// What is wrong with it.
        error: NvidiaError,
    },
}

/// Asks every GPU in confidential-computing mode for a report with this `nonce`.
///
/// NVML is loaded from `library`, or from where the driver puts it. Reference files, named by NVIDIA's names for them with
/// `.xml`, are taken from the directory `references`, where there is one and they are in it. Asking takes a GPU up to a
/// few seconds.
pub(super) fn report(
    nonce: &[u8; 32],
    library: Option<&OsStr>,
    references: Option<&Path>,
) -> Result<Vec<Collected>, Why> {
    let nvml = match library {
        Some(library) => Nvml::builder().lib_path(library).init(),
        // The name without a version comes only with the development package.
        None => Nvml::builder().lib_path(OsStr::new("libnvidia-ml.so.1")).init().or_else(|_| Nvml::init()),
    };
    let nvml = nvml.map_err(Why::NoLibrary)?;
    let count = nvml.device_count().map_err(Why::NoLibrary)?;
    if count == 0 {
        return Err(Why::NoGpu);
    }
    let mut collected = Vec::new();
    for gpu in 0..count {
        if let Some(mut evidence) = ask(&nvml, gpu, nonce)? {
            if let Some(directory) = references {
                let names = reference_names(&evidence).map_err(|error| Why::Report { gpu, error })?;
                evidence.references = names.iter().filter_map(|name| read_reference(directory, name)).collect();
            }
            collected.push(Collected { gpu, evidence });
        }
    }
    if collected.is_empty() { Err(Why::NotConfidential) } else { Ok(collected) }
}

/// The evidence of one GPU, or nothing where it is not in confidential-computing mode.
fn ask(nvml: &Nvml, gpu: u32, nonce: &[u8; 32]) -> Result<Option<NvidiaEvidence>, Why> {
    let failed = |error| match error {
        NvmlError::FailedToLoadSymbol(_) => Why::OldDriver,
        error => Why::Failed { gpu, error },
    };
    let device = nvml.device_by_index(gpu).map_err(failed)?;
    let report = match device.confidential_compute_gpu_attestation_report(*nonce) {
        Ok(report) => report.attestation_report,
        Err(NvmlError::NotSupported) => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let chain = device.confidential_compute_gpu_certificate().map_err(failed)?.attestation_cert_chain;
    // NVML has PEM in an array that zero bytes fill up.
    let end = chain.iter().position(|byte| *byte == 0).unwrap_or(chain.len());
    let chain = pem_chain(&chain[..end]).map_err(|error| Why::Certificates { gpu, error })?;
    let too_large = |error| Why::TooLarge { gpu, error };
    Ok(Some(NvidiaEvidence {
        report: BoundedBytes::new(report).map_err(too_large)?,
        certificates: chain.into_iter().map(BoundedBytes::new).collect::<Result<_, _>>().map_err(too_large)?,
        references: Vec::new(),
    }))
}

/// A reference file out of a directory. Without it the verifier's own counts, so its absence is no error.
pub(in crate::attestation) fn read_reference(directory: &Path, name: &str) -> Option<ReferenceFile> {
    let id = Line::new(name).ok()?;
    let mut xml = Vec::new();
    let file = File::open(directory.join(format!("{name}.xml"))).ok()?;
    file.take(MAX_REFERENCE_BYTES as u64 + 1).read_to_end(&mut xml).ok()?;
    Some(ReferenceFile { id, xml: BoundedBytes::new(xml).ok()? })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use aitbc_crypto::tee::nvidia::{NvidiaTrust, verify};
    use std::{path::PathBuf, process::Command};

    const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/attestation/nvidia");
    /// 2025-09-01.
    const NOW_MS: u64 = 1_756_684_800_000;
    /// The nonce that the recorded report was asked with.
    const NONCE: &str = "931d8dd0add203ac3d8b4fbde75e115278eefcdceac5b87671a748f32364dfcb";

    /// Builds a library with NVML's functions that answers what `fake.c` says.
    fn fake(directory: &Path, defines: &[&str]) -> PathBuf {
        let library = directory.join("libnvidia-ml.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/attestation/collect/nvidia/fake.c");
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-Wall", "-Werror", "-o"])
            .arg(&library)
            .args([format!("-DREPORT=\"{FIXTURES}/hopperAttestationReport.txt\"")])
            .args([format!("-DCHAIN=\"{FIXTURES}/hopperCertChain.txt\"")])
            .args(defines)
            .arg(source)
            .status()
            .expect("a C compiler, which building this needs too");
        assert!(built.success(), "fake.c does not compile");
        library
    }

    fn nonce() -> [u8; 32] {
        let digits = |at: usize| u8::from_str_radix(&NONCE[2 * at..2 * at + 2], 16).expect("two digits");
        std::array::from_fn(digits)
    }

    #[test]
    fn gpus_give_evidence_that_verifies() {
        let directory = tempfile::tempdir().expect("a directory");
        let library = fake(directory.path(), &["-DCARDS=2"]);
        let collected = report(&nonce(), Some(library.as_os_str()), Some(Path::new(FIXTURES))).expect("reports");
        assert_eq!(collected.iter().map(|each| each.gpu).collect::<Vec<_>>(), [0, 1]);
        for each in &collected {
            assert_eq!(each.evidence.references.len(), 2);
            let appraisal = verify(&each.evidence, &nonce(), &NvidiaTrust::new(Vec::new()), NOW_MS);
            assert!(appraisal.is_ok(), "{appraisal:?}");
        }
        // Without the files the verifier's own count.
        let bare = report(&[7; 32], Some(library.as_os_str()), Some(directory.path())).expect("reports");
        assert!(bare[0].evidence.references.is_empty());
        assert_eq!(bare[0].evidence.report.as_slice()[4..36], [7; 32]);
    }

    #[test]
    fn why_there_is_no_report_is_told() {
        let why = |defines: &[&str]| {
            let directory = tempfile::tempdir().expect("a directory");
            let library = fake(directory.path(), defines);
            report(&[0; 32], Some(library.as_os_str()), None).expect_err("no report")
        };
        assert!(matches!(why(&["-DCARDS=0"]), Why::NoGpu));
        assert!(matches!(why(&["-DCARDS=1", "-DPLAIN"]), Why::NotConfidential));
        assert!(matches!(why(&["-DCARDS=1", "-DOLD"]), Why::OldDriver));
        assert!(matches!(why(&["-DCARDS=1", "-DLOST"]), Why::Failed { gpu: 0, error: NvmlError::GpuLost }));
        assert!(matches!(why(&["-DCARDS=1", "-UCHAIN", "-DCHAIN=REPORT"]), Why::Certificates { gpu: 0, .. }));
        let nowhere = OsStr::new("/nowhere/libnvidia-ml.so");
        assert!(matches!(report(&[0; 32], Some(nowhere), None), Err(Why::NoLibrary(_))));
    }

    #[test]
    fn a_file_that_is_too_large_is_not_taken() {
        let directory = tempfile::tempdir().expect("a directory");
        let write = |bytes: usize| std::fs::write(directory.path().join("NAME.xml"), vec![b' '; bytes]);
        write(MAX_REFERENCE_BYTES).expect("a file");
        assert!(read_reference(directory.path(), "NAME").is_some());
        write(MAX_REFERENCE_BYTES + 1).expect("a file");
        assert!(read_reference(directory.path(), "NAME").is_none());
        assert!(read_reference(directory.path(), "OTHER").is_none());
    }
}

//! `aitbc circuits`: keys and parameters for proofs in zero knowledge.

use super::{Exit, Global, Outcome, output};
use crate::trust::zero_knowledge::{PARAMETERS, PROVING_KEY, VERIFYING_KEY};
use aitbc_circuits::{
    Fixed, IssuerKey, IssuerPublic, ProvingKey, VerifyingKey,
    ceremony::{Ceremony, MAX_CEREMONY},
    contribution::ContributionFile,
    parameters::{File, Keys, PolicyFile},
    rand::rngs::OsRng,
    setup,
};
use aitbc_protocol::{
    NetworkId, NodeId,
    attestation::{EvidenceKind, Kinds},
    text::Line,
};
use std::{
    io::Write as _,
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// Arguments of `circuits`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make the keys of a verifier: one that signs credentials, and one that the verifiers of a set share
    Keys {
        /// Where the signing key goes; its public part is printed
        issuer: PathBuf,
        /// Where a new shared key goes; not given by those who join a set and get its key from another verifier
        set: Option<PathBuf>,
    },
    /// Make development keys and parameters for network "local": whoever makes them can forge credentials
    Setup(SetupArgs),
    /// Add a contribution to a ceremony; the file is made if it is not there
    Contribute {
        /// The ceremony
        file: PathBuf,
        /// Who contributes, for the transcript
        #[arg(long)]
        name: Line<64>,
    },
    /// End the first phase of a ceremony, once three have contributed
    Next {
        /// The ceremony
        file: PathBuf,
    },
    /// Verify every contribution of a ceremony, and take its keys if it is complete
    Verify {
        /// The ceremony
        file: PathBuf,
        /// Directory for the keys
        #[arg(long)]
        keys: Option<PathBuf>,
    },
}

#[derive(Debug, clap::Args)]
struct SetupArgs {
    /// Directory for parameters and keys; must not hold any
    directory: PathBuf,
    /// Public part of a verifier's key, as `circuits keys` printed it; once for each
    #[arg(long, required = true)]
    issuer: Vec<String>,
    /// PeerId of a verifier of the set, whose revocations count; once for each
    #[arg(long, required = true)]
    node: Vec<NodeId>,
    /// Name of the policy
    #[arg(long, default_value = "affirmed")]
    policy: Line<32>,
    /// Measurement that the policy allows, in hexadecimal; once for each
    #[arg(long, required = true)]
    measurement: Vec<String>,
    /// Kind of evidence that the policy requires; once for each
    #[arg(long, default_value = "tpm")]
    require: Vec<EvidenceKind>,
    /// Least score that it requires, in thousandths
    #[arg(long, default_value_t = 0)]
    least_score: u16,
}

/// Runs the command.
pub(super) async fn run(global: &Global, args: Args) -> Outcome {
    let json = global.json;
    let work = move || match args.command {
        Command::Keys { issuer, set } => keys(json, &issuer, set.as_deref()),
        Command::Setup(args) => set_up(json, args),
        Command::Contribute { file, name } => contribute(json, &file, name),
        Command::Next { file } => next(json, &file),
        Command::Verify { file, keys } => verify(json, &file, keys.as_deref()),
    };
    tokio::task::spawn_blocking(work).await.map_err(Exit::error)?
}

fn about(path: &Path) -> impl Fn(std::io::Error) -> Exit {
    move |error| Exit::message(format_args!("{}: {error}", path.display()))
}

/// Writes a new file that only its owner can read; one that is there stays.
fn write_new(path: &Path, bytes: &[u8], secret: bool) -> Outcome {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    if secret {
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    }
    let _ = secret;
    let mut file = options.open(path).map_err(about(path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(about(path))
}

fn keys(json: bool, issuer: &Path, set: Option<&Path>) -> Outcome {
    let key = IssuerKey::generate(&mut OsRng);
    let public = key.public(&mut OsRng);
    write_new(issuer, Zeroizing::new(hex::encode(key.to_bytes())).as_bytes(), true)?;
    if let Some(set) = set {
        let mut secret = Zeroizing::new([0_u8; 32]);
        getrandom::fill(secret.as_mut_slice()).map_err(Exit::message)?;
        write_new(set, Zeroizing::new(hex::encode(secret)).as_bytes(), true)?;
    }
    let public = hex::encode(public.to_bytes());
    let document = serde_json::json!({"schema": "aitbc.circuits.keys/1", "public": public});
    output::print(json, &document, || println!("{public}"))
}

fn set_up(json: bool, args: SetupArgs) -> Outcome {
    let mut verifiers = Vec::new();
    for text in &args.issuer {
        let bytes = hex::decode(text.trim()).map_err(|error| Exit::usage(format_args!("--issuer: {error}")))?;
        verifiers
            .push(IssuerPublic::read(&bytes).map_err(|error| Exit::usage(format_args!("--issuer: {error}")))?);
    }
    if !json {
        eprintln!("making development keys: a few seconds; whoever makes them can forge credentials");
    }
    let (proving, verifying) = setup::development(&mut OsRng).map_err(Exit::error)?;
    let policy = PolicyFile {
        name: args.policy,
        // With fewer verifiers a proof tells which of them signed.
        private: verifiers.len() >= aitbc_circuits::parameters::PRIVATE_VERIFIERS,
        required_kinds: args.require.into_iter().collect::<Kinds>().mask(),
        least_score: args.least_score,
        measurements: args.measurement,
    };
    let file = File {
        network: NetworkId::new(NetworkId::LOCAL).map_err(Exit::error)?,
        epoch_ms: 24 * 60 * 60 * 1000,
        keys: Keys {
            proving: proving.digest(),
            verifying: verifying.digest(),
            development: true,
            contributions: Vec::new(),
        },
        verifiers,
        nodes: args.node,
        policies: vec![policy],
    };
    aitbc_circuits::Parameters::new(file.clone()).map_err(Exit::usage)?;
    std::fs::create_dir_all(&args.directory).map_err(about(&args.directory))?;
    write_keys(&args.directory, &proving, &verifying)?;
    let mut text = serde_json::to_string_pretty(&file)?;
    text.push('\n');
    write_new(&args.directory.join(PARAMETERS), text.as_bytes(), false)?;
    let document = serde_json::json!({
        "schema": "aitbc.circuits.setup/1", "directory": args.directory, "development": true,
        "proving": proving.digest(), "verifying": verifying.digest(),
    });
    output::print(json, &document, || {
        println!("{} holds {PARAMETERS}, {PROVING_KEY} and {VERIFYING_KEY}", args.directory.display());
        println!("set attestation.parameters to it on verifiers, providers and clients");
    })
}

fn write_keys(directory: &Path, proving: &ProvingKey, verifying: &VerifyingKey) -> Outcome {
    write_new(&directory.join(PROVING_KEY), &proving.to_bytes(), false)?;
    write_new(&directory.join(VERIFYING_KEY), &verifying.to_bytes(), false)
}

fn read(file: &Path) -> Result<Ceremony, Exit> {
    let size = std::fs::metadata(file).map_err(about(file))?.len();
    if size > MAX_CEREMONY as u64 {
        return Err(Exit::message(format_args!("{}: larger than any ceremony", file.display())));
    }
    let bytes = std::fs::read(file).map_err(about(file))?;
    Ceremony::from_bytes(&bytes).map_err(|error| Exit::verification(format_args!("{}: {error}", file.display())))
}

/// Puts a ceremony in place of what the file held: whole or not at all.
fn write(file: &Path, ceremony: &Ceremony) -> Outcome {
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut temporary = tempfile::NamedTempFile::new_in(directory).map_err(about(directory))?;
    temporary.write_all(&ceremony.to_bytes()).map_err(about(file))?;
    temporary.as_file().sync_all().map_err(about(file))?;
    temporary.persist(file).map_err(|error| about(file)(error.error))?;
    Ok(())
}

fn contribute(json: bool, file: &Path, name: Line<64>) -> Outcome {
    let mut ceremony = if file.exists() { read(file)? } else { Ceremony::begin() };
    if !json {
        eprintln!("verifying what is there, and adding secrets that are forgotten at once: up to some minutes");
    }
    let phase = ceremony.phase();
    let digest = ceremony.contribute(name, &mut OsRng).map_err(Exit::error)?;
    write(file, &ceremony)?;
    let document = serde_json::json!({"schema": "aitbc.circuits.contribute/1", "phase": phase, "digest": digest});
    output::print(json, &document, || {
        println!("contributed to the phase {phase}; publish this digest, so that others can see it counted:");
        println!("{digest}");
    })
}

fn next(json: bool, file: &Path) -> Outcome {
    let mut ceremony = read(file)?;
    if !json {
        eprintln!("deriving the circuit's key from the powers: up to some minutes");
    }
    ceremony.begin_circuit().map_err(Exit::error)?;
    write(file, &ceremony)?;
    let document = serde_json::json!({"schema": "aitbc.circuits.next/1", "phase": ceremony.phase()});
    output::print(json, &document, || println!("the phase is now {}", ceremony.phase()))
}

fn verify(json: bool, file: &Path, keys: Option<&Path>) -> Outcome {
    let ceremony = read(file)?;
    if !json {
        eprintln!("verifying every contribution: up to some minutes");
    }
    let failed = |error| Exit::verification(format_args!("{}: {error}", file.display()));
    let (contributions, pins) = match keys {
        None => (ceremony.verify().map_err(failed)?, None),
        Some(directory) => {
            let (proving, verifying, contributions) = ceremony.keys().map_err(failed)?;
            std::fs::create_dir_all(directory).map_err(about(directory))?;
            write_keys(directory, &proving, &verifying)?;
            let (proving, verifying) = (proving.digest(), verifying.digest());
            let pins = Keys { proving, verifying, development: false, contributions: contributions.clone() };
            (contributions, Some(pins))
        }
    };
    let document = serde_json::json!({
        "schema": "aitbc.circuits.verify/1", "phase": ceremony.phase(), "contributions": contributions, "keys": pins,
    });
    output::print(json, &document, || {
        for ContributionFile { phase, name, digest } in &contributions {
            println!("{phase:8} {digest} {name}");
        }
        println!("every contribution holds; the phase is {}", ceremony.phase());
        if let Some(pins) = &pins {
            println!("write this into {PARAMETERS} as \"keys\":");
            println!("{}", serde_json::to_string_pretty(pins).unwrap_or_default());
        }
    })
}

//! What `aitbc bench gpu` measured, kept in a file between runs.

use super::{adapters::Adapter, compute::rates::What};
use aitbc_protocol::{UnixMillis, gpu::measured::Measured};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

/// Most adapters kept; the oldest go first.
const MAX_RECORDS: usize = 64;
/// Largest file read, in bytes.
const MAX_FILE: u64 = 256 * 1024;
const VERSION: u32 = 1;

/// Why kept figures are not to be had.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// The file is there and cannot be used.
    #[error(
        "{path} cannot be used ({reason}): remove it, or measure anew with `aitbc bench gpu`, which replaces it"
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// It cannot be written.
    #[error("{path} cannot be written ({source}): what was measured is not kept")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What was measured on one adapter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// The card with its address and driver, as they were.
    adapter: Adapter,
    measured: Measured,
}

#[derive(Debug, Serialize, Deserialize)]
struct File {
    version: u32,
    gpus: Vec<Record>,
}

/// Figures of the adapters of this machine: one record for each card and interface. Programs that pretend to be GPUs are
/// never among them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    records: Vec<Record>,
}

impl Kept {
    /// Reads the file; one that is not there stands for nothing measured.
    pub fn load(path: &Path) -> Result<Self, KeptError> {
        let unreadable = |reason: String| KeptError::Unreadable { path: path.to_owned(), reason };
        let mut bytes = Vec::new();
        let read = fs::File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes));
        match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(unreadable(error.to_string())),
            Ok(_) if bytes.len() as u64 > MAX_FILE => {
                return Err(unreadable(format!("larger than {MAX_FILE} bytes")));
            }
            Ok(_) => {}
        }
        let File { version, gpus } =
            serde_json::from_slice(&bytes).map_err(|error| unreadable(error.to_string()))?;
        if version != VERSION {
            return Err(unreadable(format!("its version is {version}, {VERSION} is known")));
        }
        Ok(Self {
            records: gpus.into_iter().filter(|record| !record.adapter.software).take(MAX_RECORDS).collect(),
        })
    }

    /// Takes in what was measured on an adapter, in place of what was measured on it before. Figures of programs that
    /// pretend to be GPUs are not taken: tells whether they were.
    pub fn put(&mut self, adapter: &Adapter, measured: Measured) -> bool {
        if adapter.software {
            return false;
        }
        self.records.retain(|record| !same_place(&record.adapter, adapter));
        self.records.push(Record { adapter: adapter.clone(), measured });
        let spare = self.records.len().saturating_sub(MAX_RECORDS);
        self.records.drain(..spare);
        true
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// What was measured on this very adapter; `None` where the card or its driver is not what it was then.
    pub fn of(&self, adapter: &Adapter) -> Option<Measured> {
        self.records.iter().find(|record| record.adapter == *adapter).map(|record| record.measured)
    }

    /// Writes the file, whole or not at all.
    pub fn save(&self, path: &Path) -> Result<(), KeptError> {
        let file = File { version: VERSION, gpus: self.records.clone() };
        write(path, &file).map_err(|source| KeptError::Write { path: path.to_owned(), source })
    }
}

fn write(path: &Path, file: &File) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(directory)?;
    let mut temporary = tempfile::NamedTempFile::new_in(directory)?;
    temporary.write_all(&serde_json::to_vec_pretty(file)?)?;
    temporary.as_file().sync_all()?;
    temporary.persist(path)?;
    Ok(())
}

/// Whether both are reached in the same way at the same place: what is measured there last counts.
fn same_place(one: &Adapter, other: &Adapter) -> bool {
    let place = |adapter: &Adapter| {
        if adapter.address.is_empty() { adapter.name.clone() } else { adapter.address.clone() }
    };
    one.api == other.api && place(one) == place(other)
}

/// What rates come to in whole numbers; the first rate that is missing where not everything was measured.
pub fn measured(rate: impl Fn(What) -> Option<f64>, measured_ms: UnixMillis) -> Result<Measured, What> {
    // Casts of floating point saturate.
    let whole = |what, unit: f64| rate(what).map(|rate| (rate / unit).round() as u32);
    let needed = |what, unit| whole(what, unit).ok_or(what);
    Ok(Measured {
        bandwidth_mb_s: needed(What::Bandwidth, 1e6)?,
        random_mb_s: needed(What::RandomReads, 1e6)?,
        fp32_gflops: needed(What::Fp32, 1e9)?,
        fp16_gflops: whole(What::Fp16, 1e9),
        int8_gops: needed(What::Int8, 1e9)?,
        measured_ms,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use aitbc_protocol::gpu::Api;

    pub(crate) fn adapter() -> Adapter {
        Adapter {
            api: Api::Vulkan,
            name: "NVIDIA GeForce RTX 4090".to_owned(),
            vendor: 0x10de,
            device: 0x2684,
            address: "0000:01:00.0".to_owned(),
            driver: "NVIDIA 550.54".to_owned(),
            software: false,
        }
    }

    pub(crate) fn figures(bandwidth_mb_s: u32) -> Measured {
        Measured {
            bandwidth_mb_s,
            random_mb_s: 2,
            fp32_gflops: 3,
            fp16_gflops: None,
            int8_gops: 5,
            measured_ms: 6,
        }
    }

    #[test]
    fn what_was_measured_survives_until_card_or_driver_change() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("data/gpu-rates.json");
        let mut kept = Kept::load(&path).expect("nothing yet");
        assert!(kept.put(&adapter(), figures(1)));
        kept.save(&path).expect("saved");
        let kept = Kept::load(&path).expect("own file");
        assert_eq!(kept.of(&adapter()), Some(figures(1)));
        let newer = Adapter { driver: "NVIDIA 560.1".to_owned(), ..adapter() };
        let other = Adapter { device: 0x2704, ..adapter() };
        let elsewhere = Adapter { address: "0000:02:00.0".to_owned(), ..adapter() };
        assert_eq!([newer, other, elsewhere].map(|it| kept.of(&it)), [None; 3]);
        let left: Vec<_> = fs::read_dir(directory.path().join("data")).expect("listed").collect();
        assert_eq!(left.len(), 1, "no temporary file is left");
    }

    #[test]
    fn the_last_measurement_of_a_place_counts() {
        let mut kept = Kept::default();
        kept.put(&adapter(), figures(1));
        let newer = Adapter { driver: "NVIDIA 560.1".to_owned(), ..adapter() };
        kept.put(&newer, figures(2));
        assert_eq!((kept.of(&adapter()), kept.of(&newer)), (None, Some(figures(2))));
        for number in 0..100 {
            kept.put(&Adapter { address: number.to_string(), ..adapter() }, figures(3));
        }
        assert_eq!((kept.records.len(), kept.of(&newer)), (MAX_RECORDS, None), "it is bounded");
    }

    #[test]
    fn a_program_that_pretends_is_neither_kept_nor_read() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("gpu-rates.json");
        let software = Adapter { software: true, ..adapter() };
        assert!(!Kept::default().put(&software, figures(1)));
        let forged = Kept { records: vec![Record { adapter: software.clone(), measured: figures(1) }] };
        forged.save(&path).expect("saved");
        assert_eq!(Kept::load(&path).expect("readable").of(&software), None);
    }

    #[test]
    fn a_damaged_file_is_named_with_the_remedy_and_can_be_replaced() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("gpu-rates.json");
        for garbage in
            [&b"{"[..], b"[]", b"{\"version\":9,\"gpus\":[]}", b"{\"version\":1,\"gpus\":[{}]}", &[0xff; 64]]
        {
            fs::write(&path, garbage).expect("written");
            let told = Kept::load(&path).expect_err("damaged").to_string();
            assert!(told.contains("gpu-rates.json") && told.contains("`aitbc bench gpu`"), "{told}");
        }
        Kept::default().save(&path).expect("replaced");
        assert_eq!(Kept::load(&path).expect("readable"), Kept::default());
    }

    #[test]
    fn rates_become_whole_numbers_or_name_what_is_missing() {
        let all = |what| Some(if what == What::Int8 { 1e30 } else { 1.6e9 });
        let whole = measured(all, 7).expect("everything is there");
        assert_eq!((whole.bandwidth_mb_s, whole.fp32_gflops, whole.fp16_gflops), (1_600, 2, Some(2)));
        assert_eq!((whole.int8_gops, whole.measured_ms), (u32::MAX, 7));
        let without = |missing| measured(move |what| all(what).filter(|_| what != missing), 7);
        assert_eq!(without(What::RandomReads), Err(What::RandomReads));
        assert_eq!(without(What::Fp16).map(|whole| whole.fp16_gflops), Ok(None));
    }

    #[tokio::test]
    async fn processors_are_offered_whatever_the_file_says() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("gpu-rates.json");
        fs::write(&path, b"{").expect("written");
        let devices = crate::gpu::inventory::devices(&path).await;
        assert!(devices.last().is_some_and(|last| *last == super::super::cpu()), "{devices:?}");
    }
}

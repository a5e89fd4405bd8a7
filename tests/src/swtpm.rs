//! A software TPM 2.0 for tests (Debian's packages swtpm and swtpm-tools), with an endorsement certificate by a CA of its
//! own.
//!
//! It is spoken to in bare TPM commands over TCP, so that the harness needs no library of a TPM's.

use anyhow::{Context as _, Result, bail, ensure};
use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// How long a software TPM may take to listen.
const START: Duration = Duration::from_secs(20);
/// How often ports are chosen anew because somebody else took them meanwhile.
const ATTEMPTS: u32 = 10;

/// A running software TPM. It is killed, and its state removed, when this is dropped.
pub struct Swtpm {
    directory: tempfile::TempDir,
    process: Child,
    port: u16,
}

impl Swtpm {
    /// Makes a TPM with an endorsement certificate and starts it.
    pub fn start() -> Result<Self> {
        Self::make(true)
    }

    /// Makes a TPM without an endorsement certificate and starts it.
    pub fn start_unendorsed() -> Result<Self> {
        Self::make(false)
    }

    fn make(endorsed: bool) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        // Of both tools, which need absolute paths.
        let root = directory.path().canonicalize()?;
        for name in ["state", "ca"] {
            std::fs::create_dir(root.join(name))?;
        }
        let (ca, options) = (root.join("localca.conf"), root.join("localca.options"));
        let tool = std::env::split_paths("/usr/bin:/usr/local/bin:/usr/share/swtpm")
            .map(|directory| directory.join("swtpm_localca"))
            .find(|path| path.exists())
            .context("swtpm_localca is missing: install swtpm-tools")?;
        std::fs::write(
            root.join("setup.conf"),
            format!(
                "create_certs_tool = {}\ncreate_certs_tool_config = {}\ncreate_certs_tool_options = {}\n",
                tool.display(),
                ca.display(),
                options.display()
            ),
        )?;
        let at = root.join("ca");
        let at = at.display();
        std::fs::write(
            ca,
            format!(
                "statedir = {at}\nsigningkey = {at}/key.pem\nissuercert = {at}/issuer.pem\ncertserial = {at}/serial\n"
            ),
        )?;
        std::fs::write(options, "--platform-manufacturer Test\n--platform-version 1\n--platform-model Test\n")?;
        let mut setup = Command::new("swtpm_setup");
        setup.arg("--tpm2").arg("--tpmstate").arg(root.join("state"));
        setup.arg("--config").arg(root.join("setup.conf")).args(["--pcr-banks", "sha256"]);
        if endorsed {
            setup.arg("--create-ek-cert");
        }
        let made = setup.output().context("swtpm_setup cannot be run: install swtpm and swtpm-tools")?;
        ensure!(made.status.success(), "swtpm_setup failed: {}", String::from_utf8_lossy(&made.stdout));

        let (process, port) = launch(&root.join("state"))?;
        let tpm = Self { directory, process, port };
        tpm.startup(0)?;
        Ok(tpm)
    }

    /// How tss-esapi reaches it.
    pub fn tcti(&self) -> String {
        format!("swtpm:host=127.0.0.1,port={}", self.port)
    }

    /// The root of its CA (DER).
    pub fn root_certificate(&self) -> Result<Vec<u8>> {
        self.certificate("swtpm-localca-rootca-cert.pem")
    }

    /// What its CA issues with (DER), signed by the root.
    pub fn issuer_certificate(&self) -> Result<Vec<u8>> {
        self.certificate("issuer.pem")
    }

    /// The same as PEM, for a file of roots.
    pub fn issuer_pem(&self) -> Result<Vec<u8>> {
        Ok(std::fs::read(self.directory.path().join("ca/issuer.pem"))?)
    }

    fn certificate(&self, name: &str) -> Result<Vec<u8>> {
        let text = std::fs::read(self.directory.path().join("ca").join(name))?;
        Ok(aitbc_crypto::tee::x509::pem_chain(&text)?.swap_remove(0))
    }

    /// Loses power and starts again, from a locality: PCRs are zero, but for PCR 0, which is the locality, and the count of
    /// resets goes up.
    pub fn restart(&mut self, locality: u8) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        (self.process, self.port) = launch(&self.directory.path().canonicalize()?.join("state"))?;
        self.startup(locality)
    }

    /// What the firmware does first (`TPM2_Startup` with `TPM_SU_CLEAR`, Part 3, 9.3).
    fn startup(&self, locality: u8) -> Result<()> {
        self.set_locality(locality)?;
        self.command(0x8001, 0x0144, &[0, 0])?;
        self.set_locality(0)
    }

    /// `CMD_SET_LOCALITY` of swtpm's control channel.
    fn set_locality(&self, locality: u8) -> Result<()> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port + 1))?;
        stream.write_all(&[0, 0, 0, 5, locality])?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer)?;
        ensure!(answer == [0; 4], "swtpm does not go to locality {locality}: {answer:?}");
        Ok(())
    }

    /// Extends a PCR of the SHA-256 bank (`TPM2_PCR_Extend`, Part 3, 22.2).
    pub fn extend(&self, pcr: u32, digest: &[u8; 32]) -> Result<()> {
        let mut command = Vec::new();
        command.extend(pcr.to_be_bytes());
        // One authorisation: the empty password (TPM_RS_PW).
        command.extend([0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0]);
        // One digest, TPM_ALG_SHA256.
        command.extend([0, 0, 0, 1, 0x00, 0x0b]);
        command.extend(digest);
        self.command(0x8002, 0x0182, &command)
    }

    /// Extends all that a firmware's log says.
    pub fn replay(&self, log: &aitbc_crypto::tee::tpm::EventLog<'_>) -> Result<()> {
        for event in log.events.iter().filter(|event| event.pcr < 16) {
            self.extend(event.pcr, &event.digest)?;
        }
        Ok(())
    }

    /// One command; its answer must be success.
    fn command(&self, tag: u16, code: u32, rest: &[u8]) -> Result<()> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        let size = u32::try_from(10 + rest.len())?;
        let mut bytes = tag.to_be_bytes().to_vec();
        bytes.extend(size.to_be_bytes());
        bytes.extend(code.to_be_bytes());
        bytes.extend(rest);
        stream.write_all(&bytes)?;
        let mut answer = [0; 10];
        stream.read_exact(&mut answer)?;
        ensure!(answer[6..] == [0; 4], "TPM command {code:#x} failed with {:02x?}", &answer[6..]);
        Ok(())
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Starts a process on a pair of ports of the system's choice, and waits until it listens.
fn launch(state: &Path) -> Result<(Child, u16)> {
    for _ in 0..ATTEMPTS {
        let port = free_ports()?;
        let mut process = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init"])
            .arg("--tpmstate")
            .arg(format!("dir={}", state.display()))
            .args(["--server", &format!("type=tcp,port={port}"), "--ctrl", &format!("type=tcp,port={}", port + 1)])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("swtpm cannot be run: install swtpm")?;
        let deadline = Instant::now() + START;
        // It ends by itself where somebody else took a port meanwhile.
        while process.try_wait()?.is_none() {
            if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return Ok((process, port));
            }
            if Instant::now() > deadline {
                process.kill()?;
                process.wait()?;
                bail!("swtpm does not listen after {START:?}");
            }
            std::thread::yield_now();
        }
    }
    bail!("no two free ports beside each other in {ATTEMPTS} attempts")
}

/// A port that was free just now, and the next one too: libtss2 takes the control channel to be there.
fn free_ports() -> Result<u16> {
    for _ in 0..ATTEMPTS {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = server.local_addr()?.port();
        if port.checked_add(1).is_some_and(|next| TcpListener::bind((Ipv4Addr::LOCALHOST, next)).is_ok()) {
            return Ok(port);
        }
    }
    bail!("no two free ports beside each other in {ATTEMPTS} attempts")
}

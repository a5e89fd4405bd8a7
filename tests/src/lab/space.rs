//! A network namespace with the agent that lives in it.

use super::agent;
use rustix::{
    fd::OwnedFd,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketFlags, SocketType,
        bind, recvmsg, send, socketpair, sockopt::Timeout, sockopt::set_socket_timeout,
    },
};
use std::{
    io::{IoSliceMut, Write},
    mem::MaybeUninit,
    net::{Ipv4Addr, SocketAddrV4},
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::Duration,
};
use tokio::net::{TcpSocket, UdpSocket};

/// How long an agent may take to start or to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why there can be no laboratory here.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// A program that it needs is not installed.
    #[error("{program} does not start ({source}): install {package}")]
    Program {
        /// The program.
        program: &'static str,
        /// Debian's package.
        package: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The system refuses namespaces, or what is done in them.
    #[error("network namespaces are not allowed here: {0}")]
    Refused(String),
    /// TUN interfaces cannot be made, so that there can be no delays.
    #[error("no TUN interface can be made here, so there are no delays or losses: {0}")]
    NoTun(String),
}

/// Owns a network namespace; it ends with this value.
#[derive(Debug)]
pub struct Space {
    name: String,
    agent: Child,
    channel: Mutex<OwnedFd>,
}

impl Space {
    /// A user namespace in which this process may do everything, with a first network namespace.
    pub(super) fn outermost(name: &str) -> Result<Self, Unavailable> {
        for (program, package) in
            [("unshare", "util-linux"), ("nsenter", "util-linux"), ("ip", "iproute2"), ("nft", "nftables")]
        {
            let asked = Command::new(program).arg("-V").stdin(Stdio::null()).output();
            asked.map_err(|source| Unavailable::Program { program, package, source })?;
        }
        let space = Self::start(name, &["unshare", "--user", "--map-root-user", "--net"])?;
        space.attempt("ip", &["link", "add", "trial", "type", "veth", "peer", "name", "other"], "")?;
        space.attempt("ip", &["link", "delete", "trial"], "")?;
        space.attempt("nft", &["add", "table", "ip", "trial"], "")?;
        space.attempt("nft", &["delete", "table", "ip", "trial"], "")?;
        space.prepare();
        Ok(space)
    }

    /// A further network namespace in the user namespace of `outer`.
    pub(super) fn beside(outer: &Self, name: &str) -> Self {
        let user = outer.target();
        let way = ["nsenter", "--target", &user, "--user", "--preserve-credentials", "unshare", "--net"];
        let space = Self::start(name, &way).unwrap_or_else(|error| panic!("{name}: {error}"));
        space.prepare();
        space
    }

    fn start(name: &str, way: &[&str]) -> Result<Self, Unavailable> {
        let refused = |what: &str, error: &dyn std::fmt::Display| Unavailable::Refused(format!("{what}: {error}"));
        let (near, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|error| refused("socketpair", &error))?;
        set_socket_timeout(&near, Timeout::Recv, Some(PATIENCE)).map_err(|error| refused("timeout", &error))?;
        let mut agent = Command::new(way[0])
            .args(&way[1..])
            .arg(crate::process::beside("lab-agent"))
            .stdin(Stdio::from(far))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| refused(way[0], &error))?;
        match receive(&near) {
            Ok((text, _)) if text == agent::READY => {
                Ok(Self { name: name.to_owned(), agent, channel: Mutex::new(near) })
            }
            _ => {
                drop(near);
                let _ = agent.kill();
                let output = agent.wait_with_output().map_err(|error| refused(way[0], &error))?;
                Err(refused(&way.join(" "), &String::from_utf8_lossy(&output.stderr).trim()))
            }
        }
    }

    /// Only IPv4: what the kernel says of its own accord over IPv6 would fall under the losses that are counted.
    fn prepare(&self) {
        self.shell(
            "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6; echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6",
        );
        self.ip("link set lo up");
    }

    fn target(&self) -> String {
        self.agent.id().to_string()
    }

    /// Its name in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Words before a command that make it run inside.
    pub fn entry(&self) -> Vec<String> {
        let words = ["nsenter", "--target", &self.target(), "--user", "--preserve-credentials", "--net"];
        words.map(str::to_owned).to_vec()
    }

    /// Process id of the agent, which stands for the namespace in `ip link … netns`.
    pub(super) fn id(&self) -> u32 {
        self.agent.id()
    }

    fn attempt(&self, program: &str, arguments: &[&str], input: &str) -> Result<(), Unavailable> {
        let refused = |why: String| Unavailable::Refused(format!("{program} {}: {why}", arguments.join(" ")));
        let entry = self.entry();
        let mut child = Command::new(&entry[0])
            .args(&entry[1..])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| refused(error.to_string()))?;
        let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()));
        let output = child.wait_with_output().map_err(|error| refused(error.to_string()))?;
        match written {
            Ok(()) if output.status.success() => Ok(()),
            _ => Err(refused(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
        }
    }

    fn must(&self, program: &str, arguments: &[&str], input: &str) {
        self.attempt(program, arguments, input).unwrap_or_else(|error| panic!("{}: {error}\n{input}", self.name));
    }

    /// Runs `ip` with a command on each line of `batch`.
    pub(super) fn ip(&self, batch: &str) {
        self.must("ip", &["-batch", "-"], batch);
    }

    /// Loads rules of nftables.
    pub(super) fn nft(&self, rules: &str) {
        self.must("nft", &["-f", "-"], rules);
    }

    /// Runs a line of shell.
    pub(super) fn shell(&self, line: &str) {
        self.must("sh", &["-ec", line], "");
    }

    fn ask(&self, request: &str) -> Result<Option<OwnedFd>, String> {
        let channel = self.channel.lock().map_err(|error| error.to_string())?;
        send(&*channel, request.as_bytes(), SendFlags::NOSIGNAL).map_err(|error| error.to_string())?;
        match receive(&channel).map_err(|error| error.to_string())? {
            (text, handed) if text == agent::READY => Ok(handed),
            (text, _) => Err(text),
        }
    }

    fn socket(&self, request: &str) -> OwnedFd {
        let asked = self.ask(request);
        asked
            .and_then(|socket| socket.ok_or_else(|| "nothing was handed out".to_owned()))
            .unwrap_or_else(|error| panic!("{}: {request}: {error}", self.name))
    }

    /// A UDP socket inside, on `port` of all addresses.
    pub fn udp(&self, port: u16) -> UdpSocket {
        let socket = self.socket(agent::UDP);
        bind(&socket, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port))
            .unwrap_or_else(|error| panic!("{}: UDP port {port}: {error}", self.name));
        UdpSocket::from_std(socket.into()).expect("a socket that does not block, on a runtime")
    }

    /// A TCP socket inside, neither bound nor connected.
    pub fn tcp(&self) -> TcpSocket {
        TcpSocket::from_std_stream(self.socket(agent::TCP).into())
    }

    /// A TCP socket inside, on `port` of all addresses, which others may share, as a node's listener shares its port
    /// with its dials.
    pub fn tcp_on(&self, port: u16) -> TcpSocket {
        let socket = self.tcp();
        let bound = socket
            .set_reuseaddr(true)
            .and_then(|()| socket.set_reuseport(true))
            .and_then(|()| socket.bind(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port).into()));
        bound.unwrap_or_else(|error| panic!("{}: TCP port {port}: {error}", self.name));
        socket
    }

    /// The packets of a new TUN interface inside.
    pub(super) fn tun(&self, name: &str) -> Result<OwnedFd, Unavailable> {
        match self.ask(&format!("{}{name}", agent::TUN)) {
            Ok(Some(device)) => Ok(device),
            Ok(None) => Err(Unavailable::NoTun("nothing was handed out".to_owned())),
            Err(error) => Err(Unavailable::NoTun(error)),
        }
    }

    /// Forgets all tracked connections.
    pub(super) fn forget_connections(&self) {
        let asked = self.ask(agent::FORGET);
        assert!(asked.is_ok(), "{}: {}: {asked:?}", self.name, agent::FORGET);
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}

/// One message of an agent, and what it hands out.
fn receive(channel: &OwnedFd) -> rustix::io::Result<(String, Option<OwnedFd>)> {
    let mut text = [0; agent::LONGEST];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(channel, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let handed = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut handed) => handed.next(),
        _ => None,
    });
    Ok((String::from_utf8_lossy(&text[..received.bytes]).into_owned(), handed))
}

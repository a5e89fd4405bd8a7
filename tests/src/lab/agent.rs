//! What runs inside a namespace of the laboratory: a process that keeps it alive and makes sockets there.
//!
//! A socket belongs to the namespace it was made in, whoever uses it. So the agent makes them and hands them out, and
//! the test process binds, connects and reads them itself. The agent ends when the other end of its standard input
//! does, and the namespace with it: nothing is left behind, whatever kills a test.

use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{Mode, OFlags},
    io::{Errno, Result},
    net::{
        AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
        netlink, recv, send, sendmsg, socket_with,
    },
};
use std::{io::IoSlice, mem::MaybeUninit};

/// First word of an agent, once it is there, and its answer to a request that worked.
pub const READY: &str = "ok";
/// Asks for a UDP socket.
pub const UDP: &str = "udp";
/// Asks for a TCP socket.
pub const TCP: &str = "tcp";
/// Asks for the packets of a new TUN interface, whose name follows.
pub const TUN: &str = "tun ";
/// Asks that all tracked connections be forgotten.
pub const FORGET: &str = "forget";
/// Longest request and answer.
pub const LONGEST: usize = 256;

/// Answers requests on standard input, a socket that keeps messages apart, until its other end closes.
pub fn serve() -> Result<()> {
    let input = rustix::stdio::stdin();
    answer(input, Ok(None))?;
    let mut buffer = [0; LONGEST];
    loop {
        let (_, length) = recv(input, &mut buffer, RecvFlags::empty())?;
        let Some(request) = buffer.get(..length).filter(|request| !request.is_empty()) else { return Ok(()) };
        answer(input, perform(&String::from_utf8_lossy(request)))?;
    }
}

fn perform(request: &str) -> Result<Option<OwnedFd>> {
    let socket = |kind| {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        socket_with(AddressFamily::INET, kind, flags, None).map(Some)
    };
    match request {
        UDP => socket(SocketType::DGRAM),
        TCP => socket(SocketType::STREAM),
        FORGET => forget_connections().map(|()| None),
        _ => match request.strip_prefix(TUN) {
            Some(name) => tun(name).map(Some),
            None => Err(Errno::INVAL),
        },
    }
}

fn answer(output: BorrowedFd<'_>, outcome: Result<Option<OwnedFd>>) -> Result<()> {
    let (text, handed) = match outcome {
        Ok(handed) => (READY.to_owned(), handed),
        Err(error) => (error.to_string(), None),
    };
    let handed: Vec<_> = handed.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !handed.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&handed));
    }
    let text = &text.as_bytes()[..text.len().min(LONGEST)];
    sendmsg(output, &[IoSlice::new(text)], &mut control, SendFlags::empty()).map(drop)
}

/// `struct ifreq` as `TUNSETIFF` reads it (`linux/if.h`).
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// A new TUN interface, whose packets are read and written without a header.
fn tun(name: &str) -> Result<OwnedFd> {
    use rustix::ioctl::{Setter, ioctl, opcode};
    /// `TUNSETIFF` (`linux/if_tun.h`).
    const TUNSETIFF: rustix::ioctl::Opcode = opcode::write::<i32>(b'T', 202);
    const IFF_TUN: u16 = 0x0001;
    const IFF_NO_PI: u16 = 0x1000;
    let mut request = InterfaceRequest { name: [0; 16], flags: IFF_TUN | IFF_NO_PI, rest: [0; 22] };
    // The last byte stays zero: it ends the name.
    let space = request.name.get_mut(..name.len().min(16)).filter(|space| space.len() < 16).ok_or(Errno::INVAL)?;
    space.copy_from_slice(name.as_bytes());
    let device =
        rustix::fs::open("/dev/net/tun", OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())?;
    #[expect(
        unsafe_code,
        reason = "the kernel knows no other way to make a TUN interface, and rustix has no call"
    )]
    // SAFETY: TUNSETIFF reads a `struct ifreq`, which is what it is given, and keeps no pointer to it.
    unsafe {
        ioctl(&device, Setter::<TUNSETIFF, InterfaceRequest>::new(request))?;
    }
    Ok(device)
}

/// Forgets all tracked connections, as a router does that starts anew.
fn forget_connections() -> Result<()> {
    const NETFILTER_DELETE_CONNECTION: u16 = 1 << 8 | 2;
    const REQUEST_WITH_ANSWER: u16 = 1 | 4;
    const LENGTH: u32 = 20;
    const INET: u8 = 2;
    let kernel =
        socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(netlink::NETFILTER))?;
    // `struct nlmsghdr`: length, type, flags, sequence, port; then `struct nfgenmsg`: family, version, resource.
    let mut message = Vec::with_capacity(LENGTH as usize);
    message.extend(LENGTH.to_ne_bytes());
    message.extend(NETFILTER_DELETE_CONNECTION.to_ne_bytes());
    message.extend(REQUEST_WITH_ANSWER.to_ne_bytes());
    message.extend([0; 8]);
    message.extend([INET, 0, 0, 0]);
    send(&kernel, &message, SendFlags::empty())?;
    let mut reply = [0; 64];
    let (_, length) = recv(&kernel, &mut reply, RecvFlags::empty())?;
    // `struct nlmsgerr` follows the header: zero, or an error number below it.
    let code = reply.get(16..20).filter(|_| length >= 20).and_then(|code| code.try_into().ok());
    match code.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(error) => Err(Errno::from_raw_os_error(error.saturating_neg())),
        None => Err(Errno::PROTO),
    }
}

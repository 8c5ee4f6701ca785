//! Sockets: the one that `sd_notify` messages come in by, and connections tried to see whether a server is ready.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use libc::c_int;
use nix::errno::Errno;
use nix::sys::socket::{
    self, AddressFamily, SockFlag, SockType, SockaddrLike, SockaddrStorage, UnixAddr, getsockname, sockopt,
};

/// A received datagram.
#[derive(Debug)]
pub(crate) struct Datagram {
    pub(crate) len: usize,
    /// There was more than fitted.
    pub(crate) truncated: bool,
    /// Some of the descriptors that came along found no place.
    pub(super) incomplete: bool,
    /// The sender as the kernel vouches for it; `None` if it is in a pid namespace that we do not see.
    pub(crate) pid: Option<u32>,
    /// What came with it. To close one may block for as long as its maker likes.
    pub(crate) passed: Vec<OwnedFd>,
}

/// A connection that was begun.
#[derive(Debug)]
pub(crate) enum Connecting {
    /// Someone listens.
    Done,
    /// Not known until the descriptor is writable; then ask [`connected`].
    Pending(OwnedFd),
}

/// A bound unix datagram socket and its abstract name, without the NUL in front. The kernel picks an unused name, so
/// that there is no file to leave behind and no race for a path.
pub(crate) fn datagram_listener() -> io::Result<(OwnedFd, Vec<u8>)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket::socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
    socket::setsockopt(&fd, sockopt::PassCred, &true)?;
    // An address of the family alone asks for the autobind.
    socket::bind(fd.as_raw_fd(), &UnixAddr::new_unnamed())?;
    let address: UnixAddr = getsockname(fd.as_raw_fd())?;
    let name = address.as_abstract().ok_or(Errno::EADDRNOTAVAIL)?.to_vec();
    Ok((fd, name))
}

/// Room for credentials and for as many descriptors as one message can carry (`SCM_MAX_FD`), with what the kernel may
/// add to it. `u64` for the alignment of `cmsghdr`.
type Control = [u64; 192];

/// From now on nobody can send to it (`EPIPE`).
pub(crate) fn refuse_more(socket: &OwnedFd) {
    // ENOTCONN: it does it all the same, and says that nobody was connected.
    let _ = socket::shutdown(socket.as_raw_fd(), socket::Shutdown::Read);
}

/// Whether nothing is left in it to be received.
pub(crate) fn is_empty(socket: &OwnedFd) -> bool {
    let flags = socket::MsgFlags::MSG_PEEK | socket::MsgFlags::MSG_DONTWAIT;
    socket::recv(socket.as_raw_fd(), &mut [], flags) == Err(Errno::EAGAIN)
}

/// Receives one datagram; `None` when there is none. To close the descriptors that come with it is the answer to systemd's
/// `BARRIER=1`.
///
/// It may block, as long as a sender likes: descriptors that find no place, there being too many, are closed on the way.
pub(crate) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Option<Datagram>> {
    receive_with(socket, buffer, libc::MSG_DONTWAIT)
}

/// What [`receive_without_blocking`] found.
#[derive(Debug)]
pub(crate) enum Received {
    Datagram(Datagram),
    /// It is still there, since it would block: some of its descriptors find no place. These are copies of the others.
    Blocks(Vec<OwnedFd>),
}

/// The same, without closing anything: what comes along is copied first, so that it is not the last that goes with the datagram.
pub(crate) fn receive_without_blocking(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Option<Received>> {
    let Some(datagram) = receive_with(socket, buffer, libc::MSG_DONTWAIT | libc::MSG_PEEK)? else { return Ok(None) };
    if datagram.incomplete {
        return Ok(Some(Received::Blocks(datagram.passed)));
    }
    let _ = socket::recv(socket.as_raw_fd(), &mut [], socket::MsgFlags::MSG_DONTWAIT);
    Ok(Some(Received::Datagram(datagram)))
}

/// `None`: it would have to wait, and shall not.
pub(super) fn receive_with(socket: BorrowedFd<'_>, buffer: &mut [u8], flags: c_int) -> io::Result<Option<Datagram>> {
    let mut control: Control = [0; 192];
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // nix's recvmsg gives up the control messages of a truncated list, and would leak the descriptors in it.
    // SAFETY: a msghdr is plain numbers and pointers, and all of them may be zero.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    // A size_t for glibc, a socklen_t for musl.
    message.msg_controllen = size_of::<Control>() as _;
    let len = loop {
        let flags = flags | libc::MSG_CMSG_CLOEXEC;
        // SAFETY: `message` points to `part` and `control`, and `part` to `buffer`, with the lengths of each.
        match Errno::result(unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) }) {
            Ok(len) => break len as usize,
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    };
    let truncated = message.msg_flags & libc::MSG_TRUNC != 0;
    let incomplete = message.msg_flags & libc::MSG_CTRUNC != 0;
    // SAFETY: the kernel filled `message` and `control` just now.
    let (sender, passed) = unsafe { take_control(&message) };
    let pid = sender.and_then(|sender| u32::try_from(sender.pid).ok()).filter(|&pid| pid != 0);
    Ok(Some(Datagram { len, truncated, incomplete, pid, passed }))
}

/// The credentials and the descriptors.
///
/// # Safety
/// `message` was filled by `recvmsg`, its control buffer is alive and aligned, and nobody took descriptors out of it.
unsafe fn take_control(message: &libc::msghdr) -> (Option<libc::ucred>, Vec<OwnedFd>) {
    let (mut sender, mut passed) = (None, Vec::new());
    // SAFETY: the caller's promise.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(message) };
    // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR give null or a header inside the control buffer.
    while let Some(header) = unsafe { next.as_ref() } {
        // SAFETY: `header` is a control message.
        let data = unsafe { libc::CMSG_DATA(header) };
        #[allow(clippy::unnecessary_cast, reason = "a u32 with musl")]
        let len = (header.cmsg_len as usize).saturating_sub(data.addr() - next.addr());
        match (header.cmsg_level, header.cmsg_type) {
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if len >= size_of::<libc::ucred>() => {
                // SAFETY: this type carries one ucred, and it is there in full; unaligned reads are allowed for.
                sender = Some(unsafe { data.cast::<libc::ucred>().read_unaligned() });
            }
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                for index in 0..len / size_of::<i32>() {
                    // SAFETY: the message has `len` bytes of descriptors.
                    let place = unsafe { data.cast::<i32>().add(index) };
                    // SAFETY: as above.
                    let fd = unsafe { place.read_unaligned() };
                    // SAFETY: the kernel made it for us with this message, and nobody else knows it.
                    passed.push(unsafe { OwnedFd::from_raw_fd(fd) });
                }
            }
            _ => {}
        }
        // SAFETY: `next` is a header of `message`.
        next = unsafe { libc::CMSG_NXTHDR(message, next) };
    }
    (sender, passed)
}

/// Begins a connection to a TCP port.
pub(crate) fn connect_tcp(address: &SocketAddr) -> io::Result<Connecting> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    connect(family, &SockaddrStorage::from(*address))
}

/// Whether a unix socket can have that path.
pub(crate) fn is_address(path: &Path) -> bool {
    !path.as_os_str().is_empty() && UnixAddr::new(path).is_ok()
}

/// Begins a connection to a unix stream socket. A full backlog counts as done: someone listens.
pub(crate) fn connect_unix(path: &Path) -> io::Result<Connecting> {
    match connect(AddressFamily::Unix, &UnixAddr::new(path)?) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Connecting::Done),
        result => result,
    }
}

fn connect(family: AddressFamily, address: &dyn SockaddrLike) -> io::Result<Connecting> {
    let fd = socket::socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    match socket::connect(fd.as_raw_fd(), address) {
        Ok(()) => is_answered(&fd).map(|()| Connecting::Done),
        // Interrupted, it goes on all the same.
        Err(Errno::EINPROGRESS | Errno::EINTR) => Ok(Connecting::Pending(fd)),
        Err(error) => Err(error.into()),
    }
}

/// Who asks for a port that the kernel may choose from is sometimes given that very port, and is connected to himself (RFC 9293,
/// 3.5, simultaneous open): nobody answered then.
fn is_answered(fd: &impl AsFd) -> io::Result<()> {
    let fd = fd.as_fd();
    let own: SockaddrStorage = getsockname(fd.as_raw_fd())?;
    let peer: SockaddrStorage = match socket::getpeername(fd.as_raw_fd()) {
        // It was, and has been hung up on meanwhile.
        Err(Errno::ENOTCONN) => return Ok(()),
        peer => peer?,
    };
    if own == peer && own.family() != Some(AddressFamily::Unix) {
        // Closed so, it leaves no trace of itself (TIME_WAIT) on the port.
        let _ = socket::setsockopt(&fd, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 });
        return Err(Errno::ECONNREFUSED.into());
    }
    Ok(())
}

/// How a pending connection came out; to be asked when it is writable.
pub(crate) fn connected(fd: BorrowedFd<'_>) -> io::Result<()> {
    match socket::getsockopt(&fd, sockopt::SocketError)? {
        0 => is_answered(&fd),
        // Accepted, and hung up on; EPIPE: after it was closed. A port where nobody listens says ECONNREFUSED.
        libc::ECONNRESET | libc::EPIPE => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

const _: () = assert!(align_of::<Control>() >= align_of::<libc::cmsghdr>());

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr as UnixName, UnixDatagram, UnixListener};

    #[test]
    fn to_be_connected_to_oneself_is_no_answer() {
        let fd = socket::socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        socket::bind(fd.as_raw_fd(), &socket::SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
        let own: SockaddrStorage = getsockname(fd.as_raw_fd()).unwrap();
        socket::connect(fd.as_raw_fd(), &own).unwrap();
        assert!(connected(fd.as_fd()).is_err());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        connected(client.as_fd()).unwrap();
    }

    #[test]
    fn who_accepts_and_hangs_up_has_accepted() {
        for says_so in [false, true] {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, _) = listener.accept().unwrap();
            if says_so {
                server.shutdown(std::net::Shutdown::Write).unwrap();
            }
            socket::setsockopt(&server, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 }).unwrap();
            drop(server);
            connected(client.as_fd()).unwrap();
        }
    }

    fn client(name: &[u8]) -> UnixDatagram {
        let client = UnixDatagram::unbound().unwrap();
        client.connect_addr(&UnixName::from_abstract_name(name).unwrap()).unwrap();
        client
    }

    #[test]
    fn a_message_comes_with_its_sender() {
        let (listener, name) = datagram_listener().unwrap();
        let mut buffer = [0; 4];
        assert!(receive(listener.as_fd(), &mut buffer).unwrap().is_none());
        let client = client(&name);
        client.send(b"READY=1").unwrap();
        client.send(b"").unwrap();
        let pid = Some(std::process::id());
        let first = receive(listener.as_fd(), &mut buffer).unwrap().unwrap();
        assert_eq!((first.len, first.truncated, first.pid), (4, true, pid));
        assert_eq!(&buffer, b"READ");
        let second = receive(listener.as_fd(), &mut buffer).unwrap().unwrap();
        assert_eq!((second.len, second.truncated, second.pid), (0, false, pid));
    }

    #[test]
    fn names_differ() {
        assert_ne!(datagram_listener().unwrap().1, datagram_listener().unwrap().1);
    }

    fn send_with(client: &UnixDatagram, text: &[u8], passed: &[i32]) {
        let mut control: Control = [0; 192];
        let mut part = libc::iovec { iov_base: text.as_ptr().cast_mut().cast(), iov_len: text.len() };
        let bytes = size_of_val(passed);
        // SAFETY: as in `receive_with`.
        let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = (&raw mut control).cast();
        // SAFETY: it only calculates.
        message.msg_controllen = unsafe { libc::CMSG_SPACE(bytes as u32) } as _;
        // A cmsghdr, then the descriptors: `cmsg_len`, then level and type.
        // SAFETY: as above.
        control[0] = unsafe { libc::CMSG_LEN(bytes as u32) }.into();
        control[1] = u64::from(libc::SOL_SOCKET as u32) | u64::from(libc::SCM_RIGHTS as u32) << 32;
        for (place, pair) in control[2..].iter_mut().zip(passed.chunks(2)) {
            *place = pair.iter().rev().fold(0, |all, &fd| all << 32 | u64::from(fd as u32));
        }
        // SAFETY: all that `message` points to is alive.
        assert_eq!(unsafe { libc::sendmsg(client.as_raw_fd(), &raw const message, 0) }, text.len() as isize);
    }

    #[test]
    fn passed_descriptors_come_with_it() {
        let (listener, name) = datagram_listener().unwrap();
        let client = client(&name);
        let (reader, writer) = crate::sys::fd::pipe().unwrap();
        // As many as a message can carry.
        let passed = [writer.as_raw_fd(); 253];
        send_with(&client, b"BARRIER=1", &passed);
        drop(writer);
        let mut buffer = [0; 64];
        let datagram = receive(listener.as_fd(), &mut buffer).unwrap().unwrap();
        assert_eq!((datagram.len, datagram.passed.len()), (9, 253));
        drop(datagram);
        // Would wait for ever if one were left.
        assert_eq!(crate::sys::fd::read(reader.as_fd(), &mut buffer).unwrap(), 0);
    }

    fn outcome(connecting: Connecting) -> io::Result<()> {
        match connecting {
            Connecting::Done => Ok(()),
            Connecting::Pending(fd) => {
                let poller = crate::sys::event::Poller::new()?;
                poller.add(fd.as_fd(), 0, crate::sys::event::Interest::WRITE)?;
                let mut events = Vec::new();
                while events.is_empty() {
                    poller.wait(&mut events, None)?;
                }
                connected(fd.as_fd())
            }
        }
    }

    #[test]
    fn a_port_answers_or_refuses() {
        // In a child: a copy of a descriptor in the fork of another test would keep it open.
        crate::sys::fork::tests::in_fork(|| {
            for host in ["127.0.0.1:0", "[::1]:0"] {
                let Ok(listener) = std::net::TcpListener::bind(host) else { continue };
                let address = listener.local_addr().unwrap();
                connect_tcp(&address).and_then(outcome).unwrap();
                drop(listener);
                let error = connect_tcp(&address).and_then(outcome).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
            }
        });
    }

    #[test]
    fn a_path_answers_or_refuses() {
        // In a child: a copy of a descriptor in the fork of another test would keep it open.
        crate::sys::fork::tests::in_fork(|| {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("socket");
            assert_eq!(connect_unix(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
            let listener = UnixListener::bind(&path).unwrap();
            socket::listen(&listener, socket::Backlog::new(1).unwrap()).unwrap();
            // The backlog is full after two; nobody accepts.
            let held: Vec<_> = (0..2).map(|_| std::os::unix::net::UnixStream::connect(&path).unwrap()).collect();
            assert!(matches!(connect_unix(&path).unwrap(), Connecting::Done));
            drop((held, listener));
            assert_eq!(connect_unix(&path).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        });
    }

    #[test]
    fn who_is_hung_up_on_was_connected() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let Connecting::Pending(pending) = connect_tcp(&address).unwrap() else { panic!("it is connected at once") };
        let (theirs, _) = listener.accept().unwrap();
        socket::setsockopt(&theirs, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 }).unwrap();
        drop(theirs);
        crate::sys::event::wait_readable(pending.as_fd());
        // The error is told once.
        for _ in 0..2 {
            connected(pending.as_fd()).unwrap();
        }
        drop(listener);
        if let Ok(Connecting::Pending(pending)) = connect_tcp(&address) {
            crate::sys::event::wait_readable(pending.as_fd());
            assert_eq!(connected(pending.as_fd()).unwrap_err().raw_os_error(), Some(libc::ECONNREFUSED));
        }
    }
}

//! Messages and descriptors between two processes: a pair of unix sockets that keeps messages apart (`SOCK_SEQPACKET`, unix(7)).
//!
//! Nothing is sent in part, so who dies in the middle of a message has sent none, and no lock is needed between several that send.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, Shutdown, SockFlag, SockType, recv, sendmsg, shutdown, socketpair,
};

use super::pidfd::Pidfd;
use super::socket::receive_with;

/// What one message can carry (`SCM_MAX_FD`, unix(7)).
pub(crate) const MOST_DESCRIPTORS: usize = 253;

/// More than this is not sent: a socket takes 212,992 bytes where nobody changed that (`wmem_default`, socket(7)).
pub(crate) const MOST_BYTES: usize = 64 * 1024;

/// One end.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

/// What was received.
#[derive(Debug)]
pub(crate) struct Message {
    /// None as well where there were more than are ever sent: nobody takes the rest for all of it.
    pub(crate) bytes: Vec<u8>,
    pub(crate) descriptors: Vec<OwnedFd>,
    /// More came, and found no place.
    pub(crate) incomplete: bool,
}

impl Message {
    /// With all of its descriptors.
    ///
    /// # Errors
    /// EMFILE: some found no place.
    pub(crate) fn whole(self) -> io::Result<Message> {
        if self.incomplete { Err(Errno::EMFILE.into()) } else { Ok(self) }
    }
}

impl From<OwnedFd> for Channel {
    fn from(fd: OwnedFd) -> Channel {
        Channel(fd)
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> OwnedFd {
        channel.0
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Channel {
    pub(crate) fn pair() -> io::Result<(Channel, OwnedFd)> {
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        Ok((Channel(ours), theirs))
    }

    /// Sends all of it or nothing. It waits for room.
    ///
    /// # Errors
    /// EPIPE, ECONNRESET: nobody is at the other end any more. EMSGSIZE: more than a message holds (`wmem_default`, socket(7)).
    pub(crate) fn send(&self, bytes: &[u8], descriptors: &[RawFd]) -> io::Result<()> {
        self.send_with(bytes, descriptors, MsgFlags::empty())
    }

    /// The same, but it does not wait.
    ///
    /// # Errors
    /// EAGAIN: there is no room, and so enough for the other end to hear.
    pub(crate) fn send_at_once(&self, bytes: &[u8], descriptors: &[RawFd]) -> io::Result<()> {
        self.send_with(bytes, descriptors, MsgFlags::MSG_DONTWAIT)
    }

    fn send_with(&self, bytes: &[u8], descriptors: &[RawFd], flags: MsgFlags) -> io::Result<()> {
        let rights = [ControlMessage::ScmRights(descriptors)];
        let control = if descriptors.is_empty() { &[][..] } else { &rights[..] };
        loop {
            let parts = [IoSlice::new(bytes)];
            match sendmsg::<()>(self.0.as_raw_fd(), &parts, control, flags | MsgFlags::MSG_NOSIGNAL, None) {
                Err(Errno::EINTR) => {}
                result => return Ok(result.map(drop)?),
            }
        }
    }

    /// The same as [`send`](Channel::send), and it waits as well while too many descriptors of this user are on their way, which are as many
    /// as it may have open (ETOOMANYREFS, unix(7)): until the other end takes some, or is gone.
    pub(crate) fn send_patiently(&self, bytes: &[u8], descriptors: &[RawFd]) -> io::Result<()> {
        /// Nothing tells when there are fewer.
        const PAUSE: Duration = Duration::from_millis(5);
        loop {
            match self.send(bytes, descriptors) {
                Err(error) if error.raw_os_error() == Some(libc::ETOOMANYREFS) => {
                    wait_for(&mut [PollFd::new(self.as_fd(), PollFlags::empty())], PAUSE)?;
                }
                sent => return sent,
            }
        }
    }

    /// The next message, also without the descriptors that found no place; waits for it. `None`: nothing will come any more.
    ///
    /// Whatever came is given: to close its descriptors may block, as long as who sent them likes.
    pub(crate) fn receive(&self) -> io::Result<Option<Message>> {
        self.take(0)
    }

    /// The same of what is there already. `None`: nothing is.
    pub(crate) fn receive_at_once(&self) -> io::Result<Option<Message>> {
        self.take(libc::MSG_DONTWAIT)
    }

    /// Waits until there is a message, or nothing will come any more: at the socket that the number stands for when this is called, or was
    /// interrupted by a signal. (`poll(2)` looks that up again whenever it is woken.)
    pub(crate) fn until_any(&self) -> io::Result<()> {
        if self.length_of_next(0)?.is_none() {
            // Somebody made it non-blocking.
            self.wait_for_message(Duration::MAX)?;
        }
        Ok(())
    }

    fn take(&self, flags: i32) -> io::Result<Option<Message>> {
        let Some(length) = self.length_of_next(flags)? else { return Ok(None) };
        let mut bytes = vec![0; length.min(MOST_BYTES)];
        let received = match receive_with(self.as_fd(), &mut bytes, flags) {
            // (It may have been closed just now.)
            Err(error) if is_reset(&error) => receive_with(self.as_fd(), &mut bytes, flags),
            received => received,
        };
        let Some(datagram) = received? else { return Ok(None) };
        let is_nothing = datagram.len == 0 && datagram.passed.is_empty() && !datagram.incomplete;
        // The kernel says the same of a message without anything and of the end; what comes after that one does not count.
        if is_nothing && self.is_finished()? {
            return Ok(None);
        }
        bytes.truncate(if datagram.truncated { 0 } else { datagram.len });
        Ok(Some(Message { bytes, descriptors: datagram.passed, incomplete: datagram.incomplete }))
    }

    /// Of the next message, which stays; 0: nothing will come any more. `None`: it would have to wait, and shall not.
    fn length_of_next(&self, flags: i32) -> io::Result<Option<usize>> {
        let flags = MsgFlags::from_bits_retain(flags) | MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC;
        let mut is_over = false;
        loop {
            match recv(self.0.as_raw_fd(), &mut [], flags) {
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(error) if is_reset(&error.into()) => {}
                // The kernel looks for a message, and then whether the other end is closed: what was sent between the two is still there.
                Ok(0) if !is_over => is_over = true,
                length => return Ok(Some(length?)),
            }
        }
    }

    /// Which socket it is: another one that gets its number, after something closed it, is not this one.
    ///
    /// # Errors
    /// It was closed.
    pub(crate) fn identity(&self) -> io::Result<(u64, u64)> {
        let status = nix::sys::stat::fstat(&self.0)?;
        Ok((status.st_dev, status.st_ino))
    }

    /// Nothing more is sent from here: the other end finds its end.
    pub(crate) fn finish(&self) {
        // It fails only where the other end is gone.
        let _ = shutdown(self.0.as_raw_fd(), Shutdown::Write);
    }

    /// Whether nothing more is sent from the other end: it is closed, or [finished](Channel::finish).
    pub(crate) fn is_finished(&self) -> io::Result<bool> {
        wait_for(&mut [PollFd::new(self.as_fd(), PollFlags::from_bits_retain(libc::POLLRDHUP))], Duration::ZERO)
    }

    /// Whether nobody has the other end any more.
    pub(crate) fn has_hung_up(&self) -> io::Result<bool> {
        wait_for(&mut [PollFd::new(self.as_fd(), PollFlags::empty())], Duration::ZERO)
    }

    /// Waits until there is something to receive, or nothing will come any more; false: not within `limit`.
    pub(crate) fn wait_for_message(&self, limit: Duration) -> io::Result<bool> {
        wait_for(&mut [PollFd::new(self.as_fd(), PollFlags::POLLIN)], limit)
    }

    /// The same, and until that process has ended.
    pub(crate) fn wait_for_message_of(&self, process: &Pidfd, limit: Duration) -> io::Result<bool> {
        let [message, end] = [self.as_fd(), process.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        wait_for(&mut [message, end], limit)
    }
}

/// Nobody is at the other end.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPIPE | libc::ECONNRESET | libc::ENOTCONN))
}

/// There may be room later.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    const SHORTAGES: [i32; 6] =
        [libc::EAGAIN, libc::ETOOMANYREFS, libc::ENOBUFS, libc::ENOMEM, libc::EMFILE, libc::ENFILE];
    error.raw_os_error().is_some_and(|errno| SHORTAGES.contains(&errno))
}

/// The other end was closed before it had read all of ours: that is told once, and before what it said itself.
fn is_reset(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ECONNRESET)
}

fn wait_for(what: &mut [PollFd<'_>], limit: Duration) -> io::Result<bool> {
    let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
    loop {
        match poll(what, limit) {
            Err(Errno::EINTR) => {}
            result => return Ok(result? > 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn messages_stay_apart_and_carry_descriptors() {
        let (ours, theirs) = Channel::pair().unwrap();
        let theirs = Channel::from(theirs);
        ours.send(b"one", &[]).unwrap();
        let null = super::super::fd::null().unwrap().as_raw_fd();
        ours.send(b"two", &[null; MOST_DESCRIPTORS]).unwrap();
        assert_eq!(theirs.receive().unwrap().unwrap().bytes, b"one");
        let two = theirs.receive().unwrap().unwrap();
        assert_eq!((&two.bytes[..], two.descriptors.len()), (&b"two"[..], MOST_DESCRIPTORS));
        assert!(theirs.receive_at_once().unwrap().is_none() && !theirs.is_finished().unwrap());
        ours.finish();
        assert!(theirs.receive().unwrap().is_none() && theirs.is_finished().unwrap());
    }

    #[test]
    fn what_nobody_sends_comes_with_its_descriptors() {
        let (ours, theirs) = Channel::pair().unwrap();
        let theirs = Channel::from(theirs);
        let null = super::super::fd::null().unwrap().as_raw_fd();
        for (bytes, descriptors) in
            [(vec![], vec![]), (vec![], vec![null; 2]), (vec![1; MOST_BYTES + 1], vec![null; 3])]
        {
            ours.send(&bytes, &descriptors).unwrap();
            let message = theirs.receive().unwrap().unwrap();
            assert_eq!((message.bytes.len(), message.descriptors.len()), (0, descriptors.len()));
        }
        ours.send(&[], &[null]).unwrap();
        drop(ours);
        assert_eq!(theirs.receive().unwrap().unwrap().descriptors.len(), 1, "it is not the end");
        assert!(theirs.receive_at_once().unwrap().is_none());
    }

    #[test]
    fn a_hang_up_is_heard_and_what_was_said_before_it() {
        let (ours, theirs) = Channel::pair().unwrap();
        let theirs = Channel::from(theirs);
        theirs.send(b"last words", &[]).unwrap();
        assert!(!ours.has_hung_up().unwrap());
        assert!(ours.wait_for_message(LONG).unwrap());
        drop(theirs);
        assert!(ours.has_hung_up().unwrap());
        assert_eq!(ours.receive().unwrap().unwrap().bytes, b"last words");
        assert!(ours.receive().unwrap().is_none());
        assert_eq!(ours.send(b"?", &[]).unwrap_err().raw_os_error(), Some(libc::EPIPE));
    }

    #[test]
    fn what_was_said_is_heard_of_one_that_did_not_listen() {
        let (ours, theirs) = Channel::pair().unwrap();
        let theirs = Channel::from(theirs);
        ours.send(b"unheard", &[]).unwrap();
        theirs.send(b"last words", &[]).unwrap();
        drop(theirs);
        assert!(ours.has_hung_up().unwrap());
        assert_eq!(ours.receive_at_once().unwrap().unwrap().bytes, b"last words");
        assert!(ours.receive_at_once().unwrap().is_none());
    }
}

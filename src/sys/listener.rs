//! Signals that a thread waits for, and that mean what they always do when nobody does.
//!
//! By signal-hook, which leaves other handlers their turn, and whose handler stays for ever. So the default is made up for where nobody listens:
//! after the last listener, and in a fork of this program.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use nix::errno::Errno;
use nix::unistd::write;
use signal_hook::SigId;
use signal_hook::low_level::{emulate_default_handler, register, unregister};

/// One past the last signal.
const SIGNALS: usize = 65;

/// How many listen to each.
static LISTENERS: [AtomicUsize; SIGNALS] = [const { AtomicUsize::new(0) }; SIGNALS];
/// The program that listened first; 0: none.
static FIRST: AtomicU32 = AtomicU32::new(0);
/// Whether the default of each is made up for.
static HAS_DEFAULT: [AtomicBool; SIGNALS] = [const { AtomicBool::new(false) }; SIGNALS];

pub(crate) struct Listener {
    read: OwnedFd,
    write: Arc<OwnedFd>,
    heard: Vec<Heard>,
}

/// One signal, for as long as it is listened to.
struct Heard {
    signal: usize,
    action: SigId,
}

impl Listener {
    /// Each of `signals` may be caught: it is none of those that signal-hook forbids.
    ///
    /// # Errors
    /// No descriptor is left; or this process is a fork of one that has listened: there signal-hook takes its handlers for installed.
    pub(crate) fn new(signals: &[i32]) -> io::Result<Listener> {
        let incarnation = super::process::incarnation();
        let first = FIRST.compare_exchange(0, incarnation, Ordering::SeqCst, Ordering::SeqCst);
        if first.is_err_and(|first| first != incarnation) {
            return Err(io::Error::other("this process is a fork of one that has listened to signals"));
        }
        let (read, write) = super::fd::pipe()?;
        super::fd::set_nonblocking(write.as_fd(), true)?;
        let mut listener = Listener { read, write: Arc::new(write), heard: Vec::new() };
        for signal in signals {
            listener.hear(*signal)?;
        }
        Ok(listener)
    }

    fn hear(&mut self, signal: i32) -> io::Result<()> {
        let index = usize::try_from(signal).map_err(io::Error::other)?;
        let (ears, incarnation) = (Arc::clone(&self.write), super::process::incarnation());
        let hear = move || {
            if incarnation == super::process::incarnation() {
                tell(&ears, signal as u8);
            }
        };
        // SAFETY: it is async-signal-safe: it looks at a page of ours, and writes a byte into a pipe that does not block. signal-hook saves errno.
        let action = unsafe { register(signal, hear) }?;
        LISTENERS[index].fetch_add(1, Ordering::SeqCst);
        self.heard.push(Heard { signal: index, action });
        if !HAS_DEFAULT[index].swap(true, Ordering::SeqCst) {
            let otherwise = move || {
                if incarnation != super::process::incarnation() || LISTENERS[index].load(Ordering::SeqCst) == 0 {
                    // What it cannot do is left undone.
                    let _ = emulate_default_handler(signal);
                }
            };
            // SAFETY: it is async-signal-safe, as `emulate_default_handler` says of itself.
            unsafe { register(signal, otherwise) }?;
        }
        Ok(())
    }

    /// Waits for a signal; 0: [`Nudge::nudge`].
    pub(crate) fn next(&self) -> io::Result<i32> {
        let mut byte = [0];
        super::fd::read(self.read.as_fd(), &mut byte)?;
        Ok(i32::from(byte[0]))
    }

    pub(crate) fn nudge(&self) -> Nudge {
        Nudge(Arc::clone(&self.write))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        for Heard { signal, action } in self.heard.drain(..) {
            unregister(action);
            LISTENERS[signal].fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// Lets who waits look up.
pub(crate) struct Nudge(Arc<OwnedFd>);

impl Nudge {
    pub(crate) fn nudge(&self) {
        tell(&self.0, 0);
    }
}

/// Who is full has enough to read.
fn tell(pipe: &OwnedFd, byte: u8) {
    let _: Result<usize, Errno> = write(pipe, &[byte]);
}

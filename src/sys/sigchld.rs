//! Hearing SIGCHLD beside everyone else who does.
//!
//! By signal-hook, which leaves other handlers their turn. But not in a fork: there the copied registry of signal-hook, which the
//! program may use as well, takes its handler for installed though [`super::fork`] put all of them back to their default, knows
//! descriptors that belong to the parent, and may wait for ever for a thread that had its lock, or was running the handler,
//! when the copy was made. And not where the handler that is there asks for no zombies (`SA_NOCLDWAIT`), which signal-hook does
//! not. There a handler of our own takes the place, and calls the one that it found.

use std::ffi::c_void;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use super::event::Bell;
use libc::c_int;
use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// Whether a SIGCHLD came since it was last cleared. Only the first of several rings.
#[derive(Debug, Default)]
pub(crate) struct Flag(AtomicBool);

impl Flag {
    /// To be called before looking, so that what changes meanwhile rings again.
    pub(crate) fn clear(&self) {
        self.0.store(false, Ordering::SeqCst);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// What a handler needs.
struct Ear {
    /// In a fork of this process the bell's number may by now be that of a file, to which a ring would write.
    incarnation: u32,
    flag: Arc<Flag>,
    bell: Arc<Bell>,
    /// The handler that was there before ours.
    before: Option<libc::sigaction>,
}

impl Ear {
    /// Async-signal-safe: it looks at a page of ours, swaps an atomic and calls `write(2)` on an eventfd that does not
    /// block.
    fn hear(&self) {
        if self.incarnation == super::process::incarnation() && !self.flag.0.swap(true, Ordering::SeqCst) {
            self.bell.ring();
        }
    }
}

type Handler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);

/// Our own handlers. There is more than one, for a fork may find one that a library put on top of its parent's, and which calls
/// that: were it the fork's own as well, they would call each other for ever.
const HANDLERS: [Handler; 4] = [handle::<0>, handle::<1>, handle::<2>, handle::<3>];

/// One for each handler. What they point to is never freed: the handler may be running.
static EARS: [AtomicPtr<Ear>; HANDLERS.len()] = [const { AtomicPtr::new(ptr::null_mut()) }; HANDLERS.len()];

/// Sets `flag` and rings `bell` at the first SIGCHLD after each [`Flag::clear`].
///
/// Handlers that were there before are called too. Where it is ignored it stays ignored, and stops and continues are not seen: then
/// it returns false, and may be called again. A handler that replaces ours later takes it from us, until the program ends.
pub(crate) fn hear(flag: Arc<Flag>, bell: Arc<Bell>) -> io::Result<bool> {
    let incarnation = super::process::incarnation();
    let before = disposition()?;
    if before.sa_sigaction == libc::SIG_IGN {
        // The program wants its children reaped by the kernel, those of other code among them. Exits come by pidfd.
        return Ok(false);
    }
    let ear = Ear { incarnation, flag, bell, before: None };
    if super::process::is_fork() || before.sa_flags & libc::SA_NOCLDWAIT != 0 {
        listen(ear, before)?;
    } else {
        // SAFETY: the action is async-signal-safe, and signal-hook saves errno around it.
        unsafe { signal_hook::low_level::register(libc::SIGCHLD, move || ear.hear()) }?;
    }
    Ok(true)
}

/// Puts a handler of our own in the place of `before`.
fn listen(mut ear: Ear, before: libc::sigaction) -> io::Result<()> {
    let own = HANDLERS.iter().position(|handler| before.sa_sigaction == *handler as *const () as usize);
    // The next that no process of which this one is a fork has used.
    let next = EARS.iter().position(|ear| ear.load(Ordering::Acquire).is_null());
    let slot = own.or(next).unwrap_or(HANDLERS.len() - 1);
    ear.before = match (own, next) {
        // That of the process of which this one is a fork, itself a fork: ours takes its place.
        // SAFETY: it is null, or was made by Box::into_raw and is never freed.
        (Some(own), _) => unsafe { EARS[own].load(Ordering::Acquire).as_ref() }.and_then(|ear| ear.before),
        (None, Some(_)) => Some(before).filter(|before| before.sa_sigaction != libc::SIG_DFL),
        // It may call the one that we take the place of.
        (None, None) => None,
    };
    EARS[slot].store(Box::into_raw(Box::new(ear)), Ordering::Release);
    let asked = SaFlags::from_bits_truncate(before.sa_flags) & SaFlags::SA_NOCLDWAIT;
    install(SigHandler::SigAction(HANDLERS[slot]), asked)
}

fn disposition() -> io::Result<libc::sigaction> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: sigaction(2) writes one action and reads none.
    Errno::result(unsafe { libc::sigaction(libc::SIGCHLD, ptr::null(), action.as_mut_ptr()) })?;
    // SAFETY: it was all zero, which is valid, before the call filled it.
    Ok(unsafe { action.assume_init() })
}

fn install(handler: SigHandler, asked: SaFlags) -> io::Result<()> {
    let action = SigAction::new(handler, SaFlags::SA_RESTART | SaFlags::SA_ONSTACK | asked, SigSet::empty());
    // SAFETY: the handler is async-signal-safe and leaves errno as it was.
    unsafe { sigaction(Signal::SIGCHLD, &action) }?;
    Ok(())
}

extern "C" fn handle<const SLOT: usize>(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let errno = Errno::last();
    // SAFETY: it is null, or was made by Box::into_raw and is never freed.
    if let Some(ear) = unsafe { EARS[SLOT].load(Ordering::Acquire).as_ref() } {
        ear.hear();
        if let Some(before) = &ear.before {
            errno.set();
            call(before, signal, info, context);
            return;
        }
    }
    errno.set();
}

/// Calls a handler as the kernel would have.
fn call(handler: &libc::sigaction, signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    if handler.sa_flags & libc::SA_SIGINFO != 0 {
        // SAFETY: it was installed as a handler of this kind.
        let function = unsafe { std::mem::transmute::<usize, Handler>(handler.sa_sigaction) };
        function(signal, info, context);
    } else {
        // SAFETY: as above.
        let function = unsafe { std::mem::transmute::<usize, extern "C" fn(c_int)>(handler.sa_sigaction) };
        function(signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_owner_hears() {
        let ear =
            |incarnation| Ear { incarnation, flag: Arc::default(), bell: Arc::new(Bell::new().unwrap()), before: None };
        let (own, copied) = (ear(super::super::process::incarnation()), ear(super::super::process::incarnation() + 1));
        own.hear();
        copied.hear();
        assert!(own.flag.is_set() && !copied.flag.is_set());
    }
}

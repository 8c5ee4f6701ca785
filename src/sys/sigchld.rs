//! Hearing SIGCHLD beside everyone else who does.
//!
//! By signal-hook, which leaves other handlers their turn. But not in a fork of a process that had done so: there the copied
//! registry of signal-hook takes its handler for installed though [`super::fork`] put all of them back to their default, knows
//! descriptors that belong to the parent, and may wait for ever for a thread that was running the handler when the copy was
//! made. There a handler of our own takes the place, and calls the one that it found.

use std::ffi::c_void;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

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
    owner: u32,
    flag: Arc<Flag>,
    bell: Arc<Bell>,
    /// The handler that was there before ours.
    before: Option<libc::sigaction>,
}

impl Ear {
    /// Async-signal-safe: it looks at a page of ours, swaps an atomic and calls `write(2)` on an eventfd that does not
    /// block.
    fn hear(&self) {
        if self.owner == super::process::incarnation() && !self.flag.0.swap(true, Ordering::SeqCst) {
            self.bell.ring();
        }
    }
}

/// The incarnation in which signal-hook was asked, plus one: this one, or one of which it is a fork.
static REGISTERED: AtomicU64 = AtomicU64::new(0);

/// For our own handler. What it points to is never freed: the handler may be running.
static OWN: AtomicPtr<Ear> = AtomicPtr::new(ptr::null_mut());

/// Sets `flag` and rings `bell` at the first SIGCHLD after each [`Flag::clear`].
///
/// Handlers that were there before are called too, and where it is ignored it stays ignored: stops and continues are
/// not seen then. One that replaces ours later takes it from us, until the program ends.
pub(crate) fn hear(flag: Arc<Flag>, bell: Arc<Bell>) -> io::Result<()> {
    let owner = super::process::incarnation();
    let before = disposition()?;
    if before.sa_sigaction == libc::SIG_IGN {
        // The program wants its children reaped by the kernel, those of other code among them. Exits come by pidfd.
        return Ok(());
    }
    let mut ear = Ear { owner, flag, bell, before: None };
    let us = u64::from(owner) + 1;
    let registered = REGISTERED.compare_exchange(0, us, Ordering::Relaxed, Ordering::Relaxed);
    if registered.is_err_and(|other| other != us) {
        ear.before = if before.sa_sigaction == handle as *const () as usize {
            // That of the process of which this one is a fork, itself a fork: ours takes its place.
            // SAFETY: it is null, or was made by Box::into_raw and is never freed.
            unsafe { OWN.load(Ordering::Acquire).as_ref() }.and_then(|ear| ear.before)
        } else {
            Some(before).filter(|before| before.sa_sigaction != libc::SIG_DFL)
        };
        OWN.store(Box::into_raw(Box::new(ear)), Ordering::Release);
        return install(SigHandler::SigAction(handle));
    }
    // SAFETY: the action is async-signal-safe, and signal-hook saves errno around it.
    unsafe { signal_hook::low_level::register(libc::SIGCHLD, move || ear.hear()) }?;
    Ok(())
}

fn disposition() -> io::Result<libc::sigaction> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: sigaction(2) writes one action and reads none.
    Errno::result(unsafe { libc::sigaction(libc::SIGCHLD, ptr::null(), action.as_mut_ptr()) })?;
    // SAFETY: it was all zero, which is valid, before the call filled it.
    Ok(unsafe { action.assume_init() })
}

fn install(handler: SigHandler) -> io::Result<()> {
    let action = SigAction::new(handler, SaFlags::SA_RESTART | SaFlags::SA_ONSTACK, SigSet::empty());
    // SAFETY: the handler is async-signal-safe and leaves errno as it was.
    unsafe { sigaction(Signal::SIGCHLD, &action) }?;
    Ok(())
}

extern "C" fn handle(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let errno = Errno::last();
    // SAFETY: it is null, or was made by Box::into_raw and is never freed.
    if let Some(ear) = unsafe { OWN.load(Ordering::Acquire).as_ref() } {
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
        type Handler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);
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
        let ear = |owner| Ear { owner, flag: Arc::default(), bell: Arc::new(Bell::new().unwrap()), before: None };
        let (own, copied) = (ear(super::super::process::incarnation()), ear(super::super::process::incarnation() + 1));
        own.hear();
        copied.hear();
        assert!(own.flag.is_set() && !copied.flag.is_set());
    }
}

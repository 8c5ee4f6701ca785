//! The fork server that this program has at the moment.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::server::{Server, Trouble, Work, unasked};
use crate::sys;
use crate::sys::locked;
use crate::sys::spawn::{Child, Failure, Setup};

/// The one of this process.
#[derive(Default)]
struct Current {
    /// Leaf lock.
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    server: Option<Arc<Server>>,
    /// Somebody starts it, or has it run something: it will be there, or not, when that one is done.
    is_taken: bool,
    /// In the order in which they were asked for.
    preloads: Vec<u64>,
}

static CURRENT: sys::PerProcess<Current> = sys::PerProcess::new();

/// One that was killed just now, one that this program has outgrown, and one more.
const ATTEMPTS: usize = 3;

/// Has the server make a child that is set up as told, and runs. The entries of the environment each end in NUL.
pub(super) fn start(setup: &Setup, environment: &[u8], work: &Work<'_>) -> Result<Child, Failure> {
    let current = Current::get();
    attempt(|| {
        let server = current.server()?;
        server.start(setup, environment, work).inspect_err(|trouble| {
            if let Trouble::Replace | Trouble::Late(_) = trouble {
                current.discard(&server);
            }
        })
    })
}

/// Has the server run a function now, and each that comes after it.
pub(super) fn preload(entry: u64) -> io::Result<()> {
    let current = Current::get();
    let preloaded = attempt(|| {
        let server = current.server()?;
        let taken = current.take();
        // What it has half done, it keeps.
        server.preload(entry).inspect_err(|_| current.discard(&server))?;
        taken.current.lock().preloads.push(entry);
        Ok(())
    });
    preloaded.map_err(|failure| failure.error)
}

/// With another server where that may do it.
fn attempt<T>(mut once: impl FnMut() -> Result<T, Trouble>) -> Result<T, Failure> {
    let mut why = io::Error::other(format!("{ATTEMPTS} of them ended before they had done it"));
    for _ in 0..ATTEMPTS {
        match once() {
            Ok(done) => return Ok(done),
            Err(Trouble::Failed(failure)) => return Err(failure),
            Err(Trouble::Late(error)) => return Err(unasked(error)),
            Err(Trouble::Unready(error)) => why = error,
            Err(Trouble::Replace) => {}
        }
    }
    Err(unasked(why))
}

/// The pid of the server.
#[cfg(feature = "_testing")]
pub(crate) fn pid() -> Option<u32> {
    Current::get().lock().server.as_ref()?.pid()
}

/// Ends the server, and waits for its end.
#[cfg(feature = "_testing")]
pub(crate) fn end() {
    let server = Current::get().lock().server.take();
    if let Some(server) = server {
        server.end();
        server.join();
    }
}

impl Current {
    fn get() -> &'static Current {
        CURRENT.get_or_init(Current::default)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    /// Waits until nobody has it taken, and does.
    fn take(&'static self) -> Taken {
        let mut state = self.lock();
        while state.is_taken {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.is_taken = true;
        Taken { current: self }
    }

    /// The server, which is started if there is none.
    fn server(&'static self) -> Result<Arc<Server>, Trouble> {
        let state = self.lock();
        if let Some(server) = state.server.as_ref().filter(|_| !state.is_taken) {
            return Ok(Arc::clone(server));
        }
        drop(state);
        let taken = self.take();
        let (server, preloads) = {
            let state = self.lock();
            (state.server.clone(), state.preloads.clone())
        };
        if let Some(server) = server {
            return Ok(server);
        }
        let server = Arc::new(Server::new()?);
        preloads.into_iter().try_for_each(|entry| server.preload(entry)).map_err(|trouble| match trouble {
            Trouble::Replace => Trouble::Unready(io::Error::other("it ended before it had run what is preloaded")),
            trouble => trouble,
        })?;
        taken.current.lock().server = Some(Arc::clone(&server));
        Ok(server)
    }

    /// It is not to be asked any more.
    fn discard(&self, server: &Arc<Server>) {
        self.lock().server.take_if(|current| Arc::ptr_eq(current, server));
        server.end();
    }
}

/// While somebody changes the server.
struct Taken {
    current: &'static Current,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.current.lock().is_taken = false;
        self.current.changed.notify_all();
    }
}

//! How a program asks its fork server.

use std::error::Error as _;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::order::{self, Answer, Order, Request, VARIABLE};
use crate::process::{Command, Group, Process};
use crate::sys;
use crate::sys::channel::{Channel, Message};
use crate::sys::image::Image;
use crate::sys::pidfd::Pidfd;
use crate::sys::spawn::{Child, Failure, Setup, Step, reap};
use crate::sys::standing::Standing;

/// A server that is slower is asked whether it is there, and one that does not answer by then once more is replaced.
const PATIENCE: Duration = Duration::from_secs(5);

/// An answer is a few bytes, or the words of a preload.
const MOST_BYTES: usize = 4096;

/// What is to run.
pub(super) struct Work<'a> {
    pub(super) entry: u64,
    pub(super) argument: &'a [u8],
    /// The function's own.
    pub(super) channel: Option<RawFd>,
}

/// A server that was there, at least once.
struct Server {
    process: Process,
    requests: Channel,
    /// That of this program when it was started: the server has it still.
    standing: Standing,
}

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

/// Why there is no child.
enum Trouble {
    /// The server ended, or is not what this program is by now: another one may do it.
    Replace,
    Failed(Failure),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Trouble {
        Trouble::Failed(unasked(error))
    }
}

fn unasked(error: io::Error) -> Failure {
    Failure { step: Step::Server, error, program: None }
}

/// Has the server make a child that is set up as told, and runs. The entries of the environment each end in NUL.
pub(super) fn start(setup: &Setup, environment: &[u8], work: &Work<'_>) -> Result<Child, Failure> {
    /// One that was killed just now, one that this program has outgrown, and one more.
    const ATTEMPTS: usize = 3;
    for _ in 0..ATTEMPTS {
        let server = Current::get().server().map_err(unasked)?;
        match server.start(setup, environment, work) {
            Ok(child) => return Ok(child),
            Err(Trouble::Failed(failure)) => return Err(failure),
            Err(Trouble::Replace) => Current::get().discard(&server),
        }
    }
    Err(unasked(io::Error::other(format!("{ATTEMPTS} of them ended before they had made it"))))
}

/// Has the server run a function now, and each that comes after it.
pub(super) fn preload(entry: u64) -> io::Result<()> {
    let current = Current::get();
    let server = current.server()?;
    let taken = current.take();
    let result = server.preload(entry);
    match &result {
        Ok(()) => taken.current.lock().preloads.push(entry),
        // What it has half done, it keeps.
        Err(_) => current.discard(&server),
    }
    drop(taken);
    result
}

/// The pid of the server.
#[cfg(feature = "_testing")]
pub(crate) fn pid() -> Option<u32> {
    Current::get().lock().server.as_ref()?.process.pid()
}

/// Ends the server, and waits for its end.
#[cfg(feature = "_testing")]
pub(crate) fn end() {
    let server = Current::get().lock().server.take();
    if let Some(server) = server {
        server.end();
        let _ = server.process.join();
    }
}

impl Current {
    fn get() -> &'static Current {
        CURRENT.get_or_init(Current::default)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
    fn server(&'static self) -> io::Result<Arc<Server>> {
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
        preloads.into_iter().try_for_each(|entry| server.preload(entry))?;
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

impl Server {
    fn new() -> io::Result<Server> {
        let standing = Standing::now()?;
        let (requests, theirs) = Channel::pair()?;
        /// Free in a process that has nothing but its streams.
        const NUMBER: RawFd = 3;
        let name = std::env::args_os().next().unwrap_or_else(|| "pkit".into());
        let mut command = Command::new("/proc/self/exe");
        command.arg0(name).env(VARIABLE, NUMBER.to_string()).hand_over(theirs, NUMBER);
        // In our group: a child that is to be there as well is so from the beginning, and none is met by what is for the server.
        let process = Process::builder(command).name("fork server").group(Group::Inherit);
        let process = process.build().and_then(|process| {
            process.start(false)?;
            Ok(process)
        });
        let process = process.map_err(cause)?;
        let ready = match requests.wait_for_message(2 * PATIENCE) {
            Ok(true) => requests.receive(MOST_BYTES)?,
            Ok(false) => return Err(late("be ready")),
            Err(error) => return Err(error),
        };
        let Some(ready) = ready else {
            let end = process.join().map_or_else(|error| error.to_string(), |exit| exit.to_string());
            return Err(io::Error::other(format!("it ended before it was ready: {end}")));
        };
        match order::decode(&ready)? {
            Answer::Ready { identity } if identity == Image::get().identity()? => {}
            _ => return Err(io::Error::other("what was started is another program than this one")),
        }
        Ok(Server { process, requests, standing })
    }

    /// Asks for something; what is answered comes by the channel.
    fn ask(&self, request: &Request) -> io::Result<Channel> {
        let (ours, theirs) = Channel::pair()?;
        order::send(&self.requests, request, &[theirs.as_raw_fd()])?;
        Ok(ours)
    }

    fn preload(&self, entry: u64) -> io::Result<()> {
        let answers = self.ask(&Request::Preload { entry })?;
        let ended = || io::Error::other("the fork server ended while it ran it");
        match order::decode(&answers.receive(MOST_BYTES)?.ok_or_else(ended)?)? {
            Answer::Done => Ok(()),
            Answer::Refused { why } => Err(io::Error::other(why)),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn start(&self, setup: &Setup, environment: &[u8], work: &Work<'_>) -> Result<Child, Trouble> {
        let answers = match self.ask(&Request::Fork) {
            Ok(answers) => answers,
            Err(error) if is_gone(&error) => return Err(Trouble::Replace),
            Err(error) => return Err(error.into()),
        };
        let ordered = self.order(&answers, setup, environment, work);
        if ordered.is_err() {
            // It finds no order, and ends.
            answers.finish();
        }
        let said = self.hear(&answers);
        match (ordered, said?) {
            (Ok(()), Said { child: Some(child), failure: None, .. }) => Ok(child),
            (Ok(()), Said { child, failure: Some(failure), .. }) => {
                child.iter().for_each(|child| reap(&child.pidfd));
                Err(Trouble::Failed(failure))
            }
            (Ok(()), Said { child: None, failure: None, .. }) => Err(Trouble::Replace),
            (Err(trouble), Said { child, .. }) => {
                child.iter().for_each(|child| reap(&child.pidfd));
                Err(trouble)
            }
        }
    }

    /// Tells a child what to be.
    fn order(&self, to: &Channel, setup: &Setup, environment: &[u8], work: &Work<'_>) -> Result<(), Trouble> {
        let now = Standing::now()?;
        if now.rights != self.standing.rights {
            return Err(Trouble::Replace);
        }
        let directory = sys::process::directory()?;
        let mut descriptors = vec![directory.as_raw_fd()];
        let mut place = |fd: RawFd| {
            descriptors.push(fd);
            descriptors.len() - 1
        };
        let mut setup = setup.clone();
        let inherited =
            (0..3).filter(|fd| !setup.fds.iter().any(|(_, target)| target == fd)).filter(|fd| sys::fd::is_open(*fd));
        let inherited: Vec<(RawFd, i32)> = inherited.map(|fd| (fd, fd)).collect();
        setup.fds.extend(inherited);
        setup.fds.iter_mut().for_each(|(source, _)| *source = place(*source) as RawFd);
        setup.cgroup = setup.cgroup.map(|fd| place(fd) as RawFd);
        let channel = work.channel.map(&mut place);
        setup.umask.get_or_insert(now.umask);
        let changed = now.limits.iter().filter(|limit| !self.standing.limits.contains(limit));
        setup.limits.splice(0..0, changed.copied());
        let order = Order { setup, environment: environment.len(), ignored: now.ignored, entry: work.entry, channel };
        match order.send(to, environment, work.argument, descriptors) {
            // It was killed.
            Err(error) if is_gone(&error) => Ok(()),
            sent => Ok(sent?),
        }
    }

    /// Everything that is said until nobody is there to say more.
    fn hear(&self, answers: &Channel) -> Result<Said, Trouble> {
        let mut is_late = false;
        while !answers.wait_for_hang_up(PATIENCE)? {
            // The child may have a slow disk to go to; the server has not.
            if !is_late && !self.answers() {
                is_late = true;
                self.end();
            }
        }
        let mut said = Said::default();
        while let Some(message) = answers.receive_at_once(MOST_BYTES)? {
            said.add(message)?;
        }
        match said {
            Said { child: None, failure: None } if is_late => Err(late("make it").into()),
            said => Ok(said),
        }
    }

    /// Its children live on: they are ours.
    fn end(&self) {
        // It may have ended.
        let _ = self.process.kill(false);
    }

    fn answers(&self) -> bool {
        let Ok(answers) = self.ask(&Request::Ping) else { return false };
        answers.wait_for_message(PATIENCE).is_ok_and(|answered| answered)
            && answers.receive_at_once(MOST_BYTES).is_ok_and(|answer| answer.is_some())
    }
}

/// What server and child have said of a start.
#[derive(Default)]
struct Said {
    child: Option<Child>,
    failure: Option<Failure>,
}

impl Said {
    fn add(&mut self, mut message: Message) -> io::Result<()> {
        match order::decode(&message)? {
            // Of one that said it is settled before we came to this, too.
            Answer::Copied { pid } | Answer::Settled { pid } if self.child.is_none() => {
                let pidfd = match message.descriptors.pop() {
                    Some(pidfd) => Pidfd::from(pidfd),
                    // The server was killed before it could tell, or there was no place for it. It is our child: so the number is
                    // its own until we take its status.
                    None => Pidfd::open(pid).inspect_err(|error| sys::fork::abandon(pid, error))?,
                };
                self.child = Some(Child { pid, pidfd });
            }
            Answer::Failed { step, errno } => {
                let error = io::Error::from_raw_os_error(errno);
                self.failure = Some(Failure { step, error, program: None });
            }
            Answer::Copied { .. }
            | Answer::Settled { .. }
            | Answer::Done
            | Answer::Ready { .. }
            | Answer::Refused { .. } => {}
        }
        Ok(())
    }
}

/// Nobody is at the other end.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPIPE | libc::ECONNRESET | libc::ENOTCONN))
}

fn late(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("it did not {what} within {} s", (2 * PATIENCE).as_secs()))
}

/// The operating system's error behind one of ours, which a restart policy goes by; else its words.
fn cause(error: crate::Error) -> io::Error {
    let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    source
        .and_then(io::Error::raw_os_error)
        .map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error)
}

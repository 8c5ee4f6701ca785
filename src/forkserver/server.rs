//! One fork server, as its program sees it.

use std::error::Error as _;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::order::{self, Answer, Order, Request, VARIABLE};
use super::said::Said;
use crate::process::{Command, Group, Process, Stdio};
use crate::sys;
use crate::sys::channel::{Channel, Message, is_gone};
use crate::sys::directory::Directory;
use crate::sys::image::{Argument, Image};
use crate::sys::locked;
use crate::sys::pidfd::Pidfd;
use crate::sys::spawn::{Child, Failure, Setup, Step, reap};
use crate::sys::spin::Spin;
use crate::sys::standing::Standing;

/// A server that is slower is asked whether it is there, and one that does not answer by then once more is replaced.
const PATIENCE: Duration = Duration::from_secs(5);

/// About as long as it takes a copy to be what it was ordered to be.
const SETTLING: Duration = Duration::from_micros(200);

/// What is to run.
pub(super) struct Work<'a> {
    pub(super) entry: u64,
    pub(super) argument: Argument<'a>,
    /// The function's own.
    pub(super) channel: Option<RawFd>,
}

/// One that was there, at least once.
pub(super) struct Server {
    process: Process,
    /// What a preload leaves behind may have the other end of `requests`, and of what was asked there: that of a server that has ended need not
    /// hang up.
    leader: Arc<Pidfd>,
    requests: Channel,
    /// That of this program when it was started: the server has it still.
    standing: Standing,
    /// And where this program was: see [`Directory::identity`].
    directory: Option<(u64, u64)>,
    /// Where a copy waits for its order, which the server was asked for before anybody needed it: the next start saves the time that
    /// copying takes. Leaf lock.
    spare: Mutex<Option<Channel>>,
    /// It runs something of the program, and answers nobody meanwhile.
    is_preloading: AtomicBool,
    has_preloaded: AtomicBool,
}

/// Why there is no child.
pub(super) enum Trouble {
    /// The server ended, or is not what this program is by now: another one may do it.
    Replace,
    /// It ended before it was ready, and so may have been killed: as above, and this is what is told if none is ready.
    Unready(io::Error),
    /// It was ended, for it did not answer: the next start has another.
    Late(io::Error),
    Failed(Failure),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Trouble {
        Trouble::Failed(unasked(error))
    }
}

pub(super) fn unasked(error: io::Error) -> Failure {
    Failure::at(Step::Server, error)
}

impl Server {
    pub(super) fn new() -> Result<Server, Trouble> {
        let standing = Standing::now()?;
        let directory = Directory::current().and_then(|directory| directory.identity()).ok();
        let (requests, theirs) = Channel::pair()?;
        /// Free in a process that has nothing but its streams.
        const NUMBER: RawFd = 3;
        let name = std::env::args_os().next().unwrap_or_else(|| "pkit".into());
        let mut command = Command::new("/proc/self/exe");
        command.arg0(name).env(VARIABLE, NUMBER.to_string()).hand_over(theirs, NUMBER);
        // Else the numbers are free for what it is sent, and a preload would print there. (Its stdin is null.)
        if !sys::fd::is_inherited(1) {
            command.stdout(Stdio::null());
        }
        if !sys::fd::is_inherited(2) {
            command.stderr(Stdio::null());
        }
        // In our group: a child that is to be there as well is so from the beginning, and none is met by what is for the server.
        let process = Process::builder(command).name("fork server").group(Group::Inherit).build().map_err(cause)?;
        process.start(false).map_err(cause)?;
        let unready = || {
            let end = process.join().map_or_else(|error| error.to_string(), |exit| exit.to_string());
            Trouble::Unready(io::Error::other(format!("it ended before it was ready: {end}")))
        };
        let leader = process.leader().ok_or_else(unready)?;
        if !requests.wait_for_message_of(&leader, 2 * PATIENCE)? {
            return Err(late("be ready").into());
        }
        let ready = requests.receive_at_once()?.ok_or_else(unready)?;
        match order::decode(&ready)? {
            Answer::Ready { identity } if identity == Image::get().identity()? => {}
            _ => return Err(io::Error::other("what was started is another program than this one").into()),
        }
        Ok(Server {
            process,
            leader,
            requests,
            standing,
            directory,
            spare: Mutex::default(),
            is_preloading: AtomicBool::default(),
            has_preloaded: AtomicBool::default(),
        })
    }

    #[cfg(feature = "_testing")]
    pub(super) fn pid(&self) -> Option<u32> {
        self.process.pid()
    }

    #[cfg(feature = "_testing")]
    pub(super) fn join(&self) {
        let _ = self.process.join();
    }

    /// Asks for something; what is answered comes by the channel.
    ///
    /// # Errors
    /// As [`is_gone`] knows them: it has ended.
    fn ask(&self, request: &Request) -> io::Result<Channel> {
        if self.leader.has_ended() {
            return Err(io::Error::from_raw_os_error(libc::EPIPE));
        }
        let (ours, theirs) = Channel::pair()?;
        order::send(&self.requests, request, &[theirs.as_raw_fd()])?;
        Ok(ours)
    }

    pub(super) fn preload(&self, entry: u64) -> Result<(), Trouble> {
        if Standing::now()?.rights != self.standing.rights {
            return Err(Trouble::Replace);
        }
        // Until it is heard nobody takes the server's silence for its end.
        self.is_preloading.store(true, Ordering::SeqCst);
        let answer = self.ask(&Request::Preload { entry }).map(|answers| self.answer(&answers));
        self.is_preloading.store(false, Ordering::SeqCst);
        let answer = match answer {
            Err(error) if is_gone(&error) => return Err(Trouble::Replace),
            answer => answer??,
        };
        let ended = || io::Error::other("the fork server ended while it ran it");
        match order::decode(&answer.ok_or_else(ended)?)? {
            Answer::Done => {
                self.has_preloaded.store(true, Ordering::SeqCst);
                self.discard_spare();
                Ok(())
            }
            Answer::Refused { why } => Err(io::Error::other(why).into()),
            _ => Err(io::Error::from(io::ErrorKind::InvalidData).into()),
        }
    }

    /// What it answers, however long that takes it. `None`: it ended before it did.
    fn answer(&self, answers: &Channel) -> io::Result<Option<Message>> {
        while !answers.wait_for_message_of(&self.leader, PATIENCE)? {
            // Somebody may have stopped it.
            let _ = self.leader.signal(libc::SIGCONT);
        }
        // Also of one that has ended: what it said before is there.
        answers.receive_at_once()
    }

    pub(super) fn start(&self, setup: &Setup, environment: &[u8], work: &Work<'_>) -> Result<Child, Trouble> {
        let spare = self.spare().take();
        if let Some(answers) = spare {
            match self.instruct(&answers, setup, environment, work) {
                Ok(Born { child, is_settled: true }) => return Ok(child),
                // It ended while it waited, which says nothing about what it was to be.
                Ok(Born { child, is_settled: false }) => reap(&child.pidfd),
                Err(Trouble::Replace) => {}
                // There was no room for it when it was asked for.
                Err(Trouble::Failed(failure)) if failure.step == Step::Create => {}
                Err(trouble) => return Err(trouble),
            }
        }
        let answers = match self.ask(&Request::Fork) {
            Ok(answers) => answers,
            Err(error) if is_gone(&error) => return Err(Trouble::Replace),
            Err(error) => return Err(error.into()),
        };
        // One that ended while it set itself up is the caller's, with the exit that tells why.
        self.instruct(&answers, setup, environment, work).map(|born| born.child)
    }

    fn spare(&self) -> MutexGuard<'_, Option<Channel>> {
        locked(&self.spare)
    }

    /// Asks for the copy that the next start will need.
    fn think_ahead(&self) {
        // It is asked under the lock: one that was made before a preload is there when that is over.
        let mut spare = self.spare();
        if spare.is_none() {
            // Where this fails, the next start asks for itself, and tells.
            *spare = self.ask(&Request::Fork).ok();
        }
    }

    fn discard_spare(&self) {
        let Some(answers) = self.spare().take() else { return };
        answers.finish();
        if let Ok(Said { child: Some(child), .. }) = self.hear(&answers) {
            reap(&child.pidfd);
        }
    }

    /// Has a copy be what it is to be.
    fn instruct(&self, answers: &Channel, setup: &Setup, environment: &[u8], work: &Work<'_>) -> Result<Born, Trouble> {
        let ordered = self.order(answers, setup, environment, work);
        if ordered.is_err() {
            // It finds no order, and ends.
            answers.finish();
        }
        // Now: it is made while the copy settles.
        self.think_ahead();
        let said = self.hear(answers);
        match (ordered, said?) {
            (Ok(()), Said { child: Some(child), is_settled, failure: None, .. }) => Ok(Born { child, is_settled }),
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
        let directory = self.directory_for(setup)?;
        let mut descriptors = Vec::new();
        let mut place = |fd: RawFd| {
            descriptors.push(fd);
            descriptors.len() - 1
        };
        let mut setup = setup.clone();
        for stream in 0..3 {
            // What an exec would close is somebody's own descriptor. The number stays nobody else's: what is printed goes there.
            if !setup.fds.iter().any(|(_, target)| *target == stream) {
                let is_inherited = sys::fd::is_inherited(stream);
                setup.fds.push((if is_inherited { stream } else { sys::fd::null()?.as_raw_fd() }, stream));
            }
        }
        setup.fds.iter_mut().for_each(|(source, _)| *source = place(*source) as RawFd);
        setup.cgroup = setup.cgroup.map(|fd| place(fd) as RawFd);
        let channel = work.channel.map(&mut place);
        setup.umask.get_or_insert(now.umask);
        // What was preloaded may have set some as well.
        let has_preloaded = self.has_preloaded.load(Ordering::SeqCst);
        setup.limits.splice(0..0, now.limits_beyond(&self.standing, has_preloaded));
        if !setup.session && now.group != self.standing.group {
            setup.group.get_or_insert(now.group);
        }
        let directory_place = directory.as_ref().map(|directory| place(directory.fd.as_raw_fd()));
        let files = work.argument.blobs.iter().map(|blob| blob.file_or_copy()).collect::<io::Result<Vec<_>>>()?;
        let blobs = files.iter().map(|file| place(file.as_fd().as_raw_fd())).count();
        let order = Order {
            setup,
            directory: directory_place,
            environment: environment.len(),
            ignored: now.ignored,
            entry: work.entry,
            channel,
            blobs,
        };
        match order.send(to, environment, work.argument.bytes, descriptors) {
            // It was killed.
            Err(error) if is_gone(&error) => Ok(()),
            sent => Ok(sent?),
        }
    }

    /// Where a copy is to begin.
    fn directory_for(&self, setup: &Setup) -> Result<Option<Directory>, Trouble> {
        if setup.directory.as_ref().is_some_and(|directory| directory.as_bytes().starts_with(b"/")) {
            return Ok(None);
        }
        let failed = |error| Trouble::Failed(Failure::at(Step::Directory, error));
        let directory = Directory::current().map_err(failed)?;
        // One that is started here is here.
        if !directory.may_be_entered && self.directory != Some(directory.identity().map_err(failed)?) {
            return Err(Trouble::Replace);
        }
        Ok(Some(directory))
    }

    /// What is said until it is all, or nobody is there to say more.
    fn hear(&self, answers: &Channel) -> Result<Said, Trouble> {
        let (mut said, mut is_any, mut is_late, mut is_over) = (Said::default(), false, false, false);
        let mut spin = Spin::new(SETTLING);
        loop {
            said.hear(answers)?;
            if said.is_all() {
                return Ok(said);
            }
            if std::mem::take(&mut is_any) {
                if said.has_ended() || answers.has_hung_up()? {
                    // What was said before that is there by now.
                    said.hear(answers)?;
                    said.find()?;
                    return if said.is_nothing() && is_late { Err(Trouble::Late(late("make it"))) } else { Ok(said) };
                }
                // A copy that it has made may be about to tell of itself.
                if !is_over && self.leader.has_ended() {
                    is_over = true;
                    said.hear(answers)?;
                    said.find()?;
                }
            }
            if spin.goes_on() {
                continue;
            }
            // Not only its hang-up: a fork of this program, or of the server, may have the other end as well.
            let speaker = said.child.as_ref().map(|child| &child.pidfd).or((!is_over).then_some(&self.leader));
            is_any = match speaker {
                Some(speaker) => answers.wait_for_message_of(speaker, PATIENCE)?,
                None => answers.wait_for_message(PATIENCE)?,
            };
            if is_any || (self.is_preloading.load(Ordering::SeqCst) && !is_over) {
                continue;
            }
            said.find()?;
            match &said.child {
                // It may have a slow disk to go to; or somebody has stopped it while it waited.
                Some(child) => _ = child.pidfd.signal(libc::SIGCONT),
                None if is_late => return Err(Trouble::Late(late("make it"))),
                None if is_over => return Err(Trouble::Replace),
                None => {}
            }
            // The server has no slow disk.
            if !is_late && self.hangs() {
                is_late = true;
                self.end();
            }
        }
    }

    /// Its children live on: they are ours.
    pub(super) fn end(&self) {
        // It may have ended.
        let _ = self.process.kill(false);
    }

    /// Whether it is there, and does not answer.
    fn hangs(&self) -> bool {
        let answer = self.ask(&Request::Ping).and_then(|answers| {
            answers.wait_for_message_of(&self.leader, PATIENCE)?;
            answers.receive_at_once()
        });
        !answer.is_ok_and(|answer| answer.is_some()) && !self.leader.has_ended()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.discard_spare();
    }
}

/// A copy that was given its order.
struct Born {
    child: Child,
    /// Else it has ended before it ran anything.
    is_settled: bool,
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

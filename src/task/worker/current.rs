//! Who does the calls of a worker: the process or thread that takes them, and those before it.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Form;
use super::home::Home;
use super::link::Link;
use super::thread::Thread;

#[derive(Default)]
pub(super) struct Current {
    /// The first is started by `build`, and one that has ended is replaced at the next call.
    pub(super) now: Option<Now>,
    /// Those that were replaced, and have calls to finish.
    pub(super) before: VecDeque<Arc<Link>>,
    pub(super) is_closed: bool,
}

pub(super) enum Now {
    Process(Arc<Link>),
    Thread(Arc<Thread>),
}

impl Current {
    pub(super) fn home(&self) -> Option<Arc<dyn Home>> {
        Some(match self.now.as_ref()? {
            Now::Process(link) => Arc::clone(link) as Arc<dyn Home>,
            Now::Thread(thread) => Arc::clone(thread) as Arc<dyn Home>,
        })
    }

    /// They end one after the other.
    pub(super) fn forget_ended(&mut self) {
        while self.before.front().is_some_and(|link| !link.is_there()) {
            self.before.pop_front();
        }
    }

    /// Where several are there, those that were replaced finish first.
    pub(super) fn pid(&self) -> Option<u32> {
        self.before.iter().find_map(|link| link.pid()).or_else(|| self.home()?.pid())
    }

    /// The one that takes calls.
    pub(super) fn good(&self, form: &Form) -> Option<Arc<dyn Home>> {
        let home = self.home().filter(|home| !self.is_closed && home.over().is_none());
        home.filter(|home| match form {
            Form::Process(options) => options.has_calls_left(home.calls()),
            Form::Thread => true,
        })
    }
}

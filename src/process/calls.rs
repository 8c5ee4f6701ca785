//! The callbacks of one process: in order, one at a time, on the callback threads.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;

use super::captured::log_line;
use super::core::{Core, Inner};
use super::handle::Process;
use super::state::Event;
use super::turn::Turn;
use crate::callbacks::Callbacks;
use crate::exit::Exit;
use crate::panics::guarded;
use crate::sys;

/// Something to tell the user's callbacks.
pub(super) enum Call {
    Start,
    Ready,
    /// Lines of run number so-and-so are there to be taken.
    Lines(u64),
    /// Run number so-and-so is over.
    Exit(u64, Exit),
}

/// What is to be called.
#[derive(Default)]
pub(super) struct Calling {
    queue: VecDeque<Call>,
    /// Of which runs the end is in it, or being told.
    exits: Vec<u64>,
    /// A callback thread is at it, or on its way.
    busy: bool,
}

impl Calling {
    /// The ends of all runs were told, up to that one.
    pub(super) fn has_told(&self, generation: u64) -> bool {
        self.exits.iter().all(|exit| *exit > generation)
    }
}

thread_local! {
    /// Whose callback this thread is in. In a fork that was made there, ids begin anew, and it is in none.
    static WITHIN: Cell<Option<Within>> = const { Cell::new(None) };
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Within {
    incarnation: u32,
    process: u64,
}

/// Whether this thread is inside a callback of any process.
pub(crate) fn is_within_any_callback() -> bool {
    WITHIN.get().is_some_and(|within| within.incarnation == sys::process::incarnation())
}

impl Turn<'_> {
    pub(super) fn call(&mut self, call: Call) {
        let calls = &self.inner.config.calls;
        let wanted = match call {
            Call::Start => calls.on_start.is_some(),
            Call::Ready => calls.on_ready.is_some(),
            Call::Lines(of) => !matches!(self.core.calling.queue.back(), Some(Call::Lines(last)) if *last == of),
            Call::Exit(..) => true,
        };
        if wanted {
            if let Call::Exit(generation, _) = call {
                self.core.calling.exits.push(generation);
            }
            self.core.calling.queue.push_back(call);
        }
    }

    /// Who wanted to hear of the end of run number `generation` has. It may have been started by hand meanwhile.
    fn reported(&mut self, generation: u64) {
        self.core.calling.exits.retain(|exit| *exit != generation);
        (self.changed, self.has_news) = (true, true);
        let Core { rests, calling, .. } = &mut **self.core;
        rests.tell(|generation| calling.has_told(generation));
        self.feed_of(generation, Event::Reported);
    }

    /// Whether calls wait for the lines of run number `generation` that do not belong behind all of them.
    fn has_other_calls(&self, generation: u64) -> bool {
        let queue = &self.core.calling.queue;
        !queue.is_empty() && !queue.iter().any(|call| matches!(call, Call::Exit(of, _) if *of == generation))
    }

    /// Lets the other calls come first, if there are any, once the lines until there were delivered.
    fn line_up_again(&mut self, generation: u64, until: [u64; 2]) -> bool {
        let output = &self.core.output;
        let gives_way =
            output.generation() == generation && output.is_delivered_until(until) && self.has_other_calls(generation);
        if gives_way {
            self.call(Call::Lines(generation));
        }
        gives_way
    }
}

impl Inner {
    /// Whether this thread is inside a callback of this process: to wait for callbacks there would be to wait for
    /// oneself.
    pub(super) fn is_within_callback(&self) -> bool {
        WITHIN.get() == Some(self.within())
    }

    fn within(&self) -> Within {
        Within { incarnation: sys::process::incarnation(), process: self.id }
    }

    pub(super) fn run_calls_if_any(self: &Arc<Self>, core: &mut Core) {
        if !core.calling.busy && !core.calling.queue.is_empty() {
            core.calling.busy = true;
            let inner = Arc::clone(self);
            Callbacks::get().run(move || inner.run_calls());
        }
    }

    fn run_calls(self: &Arc<Self>) {
        let outer = WITHIN.replace(Some(self.within()));
        while let Some(call) = self.next_call() {
            self.make_call(call);
        }
        WITHIN.set(outer);
    }

    fn next_call(self: &Arc<Self>) -> Option<Call> {
        let mut core = self.lock();
        let call = core.calling.queue.pop_front();
        core.calling.busy = call.is_some();
        call
    }

    fn make_call(self: &Arc<Self>, call: Call) {
        let calls = &self.config.calls;
        match call {
            Call::Start => self.guarded("on_start", || {
                if let Some(on_start) = &calls.on_start {
                    on_start(&Process::lend(self));
                }
            }),
            Call::Ready => self.guarded("on_ready", || {
                if let Some(on_ready) = &calls.on_ready {
                    on_ready(&Process::lend(self));
                }
            }),
            Call::Lines(generation) => self.deliver(generation),
            Call::Exit(generation, exit) => {
                self.guarded("on_exit", || {
                    if let Some(on_exit) = &calls.on_exit {
                        on_exit(&Process::lend(self), &exit);
                    }
                });
                self.turn(|turn| turn.reported(generation));
            }
        }
    }

    fn deliver(self: &Arc<Self>, generation: u64) {
        // What was printed before another call is delivered before it.
        let mut until = None;
        loop {
            let lines = self.turn(|turn| {
                if until.is_none() && turn.has_other_calls(generation) {
                    until = Some(turn.core.output.ends());
                }
                turn.take_lines(generation)
            });
            if lines.is_empty() {
                return;
            }
            for line in lines {
                // Apart: a logger that panics takes no line away.
                guarded(|| log_line(&self.name, &line), || ());
                self.guarded("on_line", || {
                    if let Some(on_line) = &self.config.calls.on_line {
                        on_line(&line);
                    }
                });
            }
            if until.is_some_and(|until| self.turn(|turn| turn.line_up_again(generation, until))) {
                return;
            }
        }
    }

    /// A callback that panics is a bug of its own and stops nothing else.
    pub(super) fn guarded(&self, what: &str, call: impl FnOnce()) {
        guarded(call, || log::error!("the {what} callback of `{}` panicked", self.name));
    }
}

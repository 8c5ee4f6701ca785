//! From a run's pipes into the rings, and how far.
//!
//! Reading stops while the ring holds bytes that a cursor has not passed, so a slow consumer makes the child wait, and memory is
//! bounded by the ring whatever the child writes. When the run is over but for its pipes, what is left in them is taken in besides.

use std::os::fd::AsFd;

use super::calls::Call;
use super::core::Core;
use super::run::Run;
use super::state::Event;
use super::turn::Turn;
use crate::line::Line;
use crate::sys;

/// What is read in one go; the default size of a pipe (`pipe(7)`).
const CHUNK: usize = 64 * 1024;
/// How much one child may have read before it is another's turn.
const CHUNKS_IN_A_ROW: usize = 4;
/// So much is more than the largest pipe holds (1 MiB, `/proc/sys/fs/pipe-max-size`, and as many packets as pages), and bounds what a
/// stranger can make us read who goes on writing into it.
const LAST_BYTES: usize = 2 << 20;
pub(super) const LAST_READS: usize = 4096;
/// Lines that a callback thread takes at once, under one lock.
const BATCH: usize = 64;

/// What was read, and how much could have been.
struct Chunk {
    read: usize,
    room: usize,
}

impl Turn<'_> {
    pub(super) fn read_output(&mut self, index: usize) {
        let mut buffer = [0; CHUNK];
        for _ in 0..CHUNKS_IN_A_ROW {
            match self.read_chunk(index, &mut buffer) {
                Some(Chunk { read, room }) if read == room => {}
                Some(_) | None => return,
            }
        }
    }

    /// `None`: there is nothing, or no room.
    fn read_chunk(&mut self, index: usize, buffer: &mut [u8]) -> Option<Chunk> {
        let Core { run, output, .. } = &mut **self.core;
        let (run, ring) = (run.as_mut()?, output.rings[index].as_mut()?);
        let room = ring.free().min(CHUNK);
        let pipe = run.pipes[index].as_ref()?;
        if room == 0 {
            run.set_pipe_paused(index, true);
            return None;
        }
        match sys::fd::read(pipe.fd.as_fd(), &mut buffer[..room]) {
            Ok(0) => self.end_output(index),
            Ok(read) => {
                ring.push(&buffer[..read]);
                self.changed |= output.is_waited_for();
                self.deliver_lines();
                self.look_for_ready_line();
                return Some(Chunk { read, room });
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            // A pipe cannot fail otherwise; a terminal says EIO when its other side is gone.
            Err(_) => self.end_output(index),
        }
        None
    }

    fn end_output(&mut self, index: usize) {
        let Core { run, output, .. } = &mut **self.core;
        if let (Some(run), Some(ring)) = (run.as_mut(), output.rings[index].as_mut()) {
            run.close_pipe(index);
            ring.close();
        }
        self.changed = true;
        self.deliver_lines();
        self.look_for_ready_line();
        if self.pipes_are_closed() {
            // Only a run that is over waits for this.
            self.feed(Event::Drained);
        }
    }

    fn pipes_are_closed(&self) -> bool {
        self.core.run.as_ref().is_none_or(|run| run.pipes.iter().all(Option::is_none))
    }

    /// The run is over but for what is left in its pipes. There is room for that, however slow the consumers are: one may be
    /// waiting for the end.
    pub(super) fn drain(&mut self) -> Option<Event> {
        self.make_room();
        self.resume_reading();
        if self.pipes_are_closed() { Some(Event::Drained) } else { None }
    }

    /// For all that its pipes may hold.
    pub(super) fn make_room(&mut self) {
        let Core { run, output, .. } = &mut **self.core;
        let pipes = run.iter().flat_map(|run| &run.pipes);
        for (pipe, ring) in pipes.zip(&mut output.rings) {
            if let (Some(pipe), Some(ring)) = (pipe, ring) {
                ring.grow(sys::fd::pipe_size(pipe.fd.as_fd()).unwrap_or(CHUNK));
            }
        }
    }

    /// Before a limit is taken for passed: what was done and said in time was perhaps not heard yet.
    pub(super) fn hear_before_judging(&mut self) {
        if self.core.machine.deadline().is_none_or(|due| self.now < due) {
            return;
        }
        self.see_end();
        if self.core.machine.is_draining() {
            // One that had more to say, or whose end alone was not seen yet, is no leak.
            self.read_to_the_end();
        } else if self.core.machine.judges_word(self.now) {
            self.read_gate_to_the_end();
            let is_all = self.core.run.as_ref().is_none_or(|run| run.is_all_heard() && !run.closing.is_behind());
            self.core.machine.note_heard(is_all, self.now);
        }
    }

    /// Before a caller's limit is taken for passed: who comes late finds there what nobody has told of yet.
    pub(super) fn catch_up(&mut self) {
        self.read_gate();
        self.see_end();
        self.read_to_the_end();
    }

    pub(super) fn read_to_the_end(&mut self) {
        let is_open = |run: &Run| run.pipes.iter().any(Option::is_some);
        if !self.core.run.as_ref().is_some_and(is_open) {
            return;
        }
        // A caller's stack may be small.
        let mut buffer = vec![0; CHUNK];
        for index in [0, 1] {
            let mut all = 0;
            for _ in 0..LAST_READS {
                // What is short is not the last: a pipe in packet mode gives one packet at a time (`O_DIRECT`, `pipe(2)`).
                let Some(chunk) = self.read_chunk(index, &mut buffer) else { break };
                all += chunk.read;
                if all > LAST_BYTES {
                    break;
                }
            }
        }
    }

    pub(super) fn abandon_output(&mut self) {
        if let Some(run) = &mut self.core.run {
            run.close_pipe(0);
            run.close_pipe(1);
        }
    }

    /// A consumer has moved on: there may be room again.
    pub(super) fn resume_reading(&mut self) {
        let Core { run, output, .. } = &mut **self.core;
        let Some(run) = run else { return };
        for (index, ring) in output.rings.iter().enumerate() {
            if ring.as_ref().is_some_and(|ring| ring.free() > 0) {
                run.set_pipe_paused(index, false);
            }
        }
    }

    /// Nothing more is expected of what the run should say to be ready.
    pub(super) fn close_gate(&mut self) {
        if let Some(run) = &mut self.core.run {
            run.close_gate();
        }
        self.core.output.close_gate();
        self.resume_reading();
    }

    pub(super) fn deliver_lines(&mut self) {
        if self.core.output.has_lines_to_deliver() {
            self.call(Call::Lines(self.core.output.generation()));
        }
    }

    /// The next lines of run number `generation` for the callback and the log.
    pub(super) fn take_lines(&mut self, generation: u64) -> Vec<Line> {
        let next = || self.core.output.next_to_deliver(generation);
        let lines: Vec<Line> = std::iter::from_fn(next).take(BATCH).collect();
        self.resume_reading();
        lines
    }
}

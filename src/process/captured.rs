//! Output that we read: into the rings, and from there to those who want lines.
//!
//! The ring is the one buffer. Whoever wants lines has a cursor in it: the callback, the readiness line, each
//! `wait_for_line`. Reading stops while the ring holds bytes that a cursor has not passed, so a slow consumer makes the
//! child wait, and memory is bounded by the ring whatever the child writes. When the run is over but for its pipes, what is left in
//! them is taken in besides.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::calls::Call;
use super::config::Config;
use super::core::Core;
use super::monitor;
use super::readiness;
use super::state::Event;
use super::stdio;
use super::turn::Turn;
use crate::error::{End, LastWords};
use crate::line::{Line, Output, Stream};
use crate::ring::{CursorId, Ring};
use crate::sys;

/// A line longer than this comes in pieces.
pub(super) const LINE_LIMIT: usize = 16 * 1024;
/// Lines need some room, however little is to be kept.
const LEAST_CAPACITY: usize = 2 * LINE_LIMIT;
/// What is read in one go; the default size of a pipe (`pipe(7)`).
const CHUNK: usize = 64 * 1024;
/// How much one child may have read before it is another's turn.
const CHUNKS_IN_A_ROW: usize = 4;
/// As many of these rows empty the largest pipe (1 MiB, `/proc/sys/fs/pipe-max-size`) and see its end, and bound what a
/// stranger can make us read who goes on writing into it.
const LAST_ROWS: usize = 8;
/// So many bytes of the last line are in the text of an error.
const LAST_WORDS: usize = 200;
/// Lines that a callback thread takes at once, under one lock.
const BATCH: usize = 64;
/// Where captured lines are logged.
pub(super) const LOG_TARGET: &str = "pkit::output";

const STREAMS: [Stream; 2] = [Stream::Stdout, Stream::Stderr];

pub(super) type Cursors = [Option<CursorId>; 2];

/// A caller who waits for a line.
struct Reader {
    id: u64,
    /// The run that was there when it came.
    generation: u64,
    cursors: Cursors,
    /// What it had not read of that run when the next one began.
    rest: VecDeque<Line>,
    /// How that run ended.
    end: Option<End>,
}

/// The captured output of the current run, or else of the last one.
pub(super) struct Captured {
    rings: [Option<Ring>; 2],
    /// The run that it is of.
    generation: u64,
    /// Of the callback and the log.
    delivery: Cursors,
    /// Lines of earlier runs that are still to be delivered, and their runs.
    owed: VecDeque<(u64, Line)>,
    /// Of `Ready::line`.
    gate: Cursors,
    /// Callers who wait for a line.
    readers: Vec<Reader>,
    /// Somebody wants every line.
    delivered: bool,
    /// The last line taken was one of stderr.
    last_was_stderr: bool,
}

impl Captured {
    pub(super) fn new(config: &Config) -> Captured {
        let wants_log = log::log_enabled!(target: LOG_TARGET, log::Level::Debug);
        let delivered = config.captures_any() && (config.calls.on_line.is_some() || wants_log);
        Captured {
            rings: [None, None],
            generation: 0,
            delivery: [None, None],
            owed: VecDeque::new(),
            gate: [None, None],
            readers: Vec::new(),
            delivered,
            last_was_stderr: true,
        }
    }

    pub(super) fn is_delivered(&self) -> bool {
        self.delivered
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// A new run: what the last one printed is forgotten, but for what was not delivered yet (a start by hand does not
    /// wait for callbacks), or not read by who waits for a line.
    pub(super) fn begin(&mut self, config: &Config, generation: u64) {
        while let Some(line) = self.next_line(self.delivery) {
            self.owed.push_back((self.generation, line));
        }
        let mut readers = std::mem::take(&mut self.readers);
        for reader in &mut readers {
            reader.rest.extend(std::iter::from_fn(|| self.next_line(reader.cursors)));
            // They point nowhere from now on.
            reader.cursors = [None, None];
        }
        self.readers = readers;
        self.generation = generation;
        let capacity = config.capture_size().max(LEAST_CAPACITY);
        let [_, stdout, stderr] = config.stdio();
        let captured = [stdout, stderr].map(|stream| matches!(stream.0, stdio::Kind::Captured));
        for (ring, captured) in self.rings.iter_mut().zip(captured) {
            match ring {
                Some(ring) => ring.clear(),
                None => *ring = captured.then(|| Ring::new(capacity)),
            }
        }
        self.delivery = if self.delivered { self.add_cursors() } else { [None, None] };
        let for_gate = matches!(config.ready.kind, readiness::Kind::Line(_));
        self.gate = if for_gate { self.add_cursors() } else { [None, None] };
    }

    /// The run is over: a last line without its newline is a line now.
    pub(super) fn end(&mut self) {
        self.rings.iter_mut().flatten().for_each(Ring::close);
    }

    pub(super) fn is_captured(&self) -> bool {
        self.rings.iter().any(Option::is_some)
    }

    /// From the oldest byte that is kept.
    pub(super) fn add_cursors(&mut self) -> Cursors {
        self.rings.each_mut().map(|ring| ring.as_mut().map(|ring| ring.add_cursor(0)))
    }

    /// For a caller who waits for a line. `end`: that of the run, if it is over.
    pub(super) fn add_reader(&mut self, end: Option<End>) -> u64 {
        let (id, cursors) = (monitor::new_id(), self.add_cursors());
        self.readers.push(Reader { id, generation: self.generation, cursors, rest: VecDeque::new(), end });
        id
    }

    /// Run number `generation` is over: true if somebody waits for a line of it.
    pub(super) fn has_readers(&self, generation: u64) -> bool {
        self.readers.iter().any(|reader| reader.generation == generation)
    }

    pub(super) fn tell_readers(&mut self, generation: u64, end: &End) {
        for reader in self.readers.iter_mut().filter(|reader| reader.generation == generation) {
            reader.end = Some(end.clone());
        }
    }

    /// How its run ended, if it has.
    pub(super) fn end_for(&self, id: u64) -> Option<&End> {
        self.readers.iter().find(|reader| reader.id == id)?.end.as_ref()
    }

    pub(super) fn remove_reader(&mut self, id: u64) {
        if let Some(at) = self.readers.iter().position(|reader| reader.id == id) {
            let reader = self.readers.swap_remove(at);
            self.remove_cursors(reader.cursors);
        }
        if self.readers.is_empty() {
            // An idle process keeps no room for those who do not wait.
            self.readers = Vec::new();
        }
    }

    /// The next line of the run that was there when the reader came.
    pub(super) fn read_line(&mut self, id: u64) -> Option<Line> {
        let reader = self.readers.iter_mut().find(|reader| reader.id == id)?;
        let cursors = reader.cursors;
        reader.rest.pop_front().or_else(|| self.next_line(cursors))
    }

    pub(super) fn remove_cursors(&mut self, cursors: Cursors) {
        for (ring, cursor) in self.rings.iter_mut().zip(cursors) {
            if let (Some(ring), Some(cursor)) = (ring, cursor) {
                ring.remove_cursor(cursor);
            }
        }
    }

    /// Of the streams in turn: one that is never at its end does not keep the other waiting.
    pub(super) fn next_line(&mut self, cursors: Cursors) -> Option<Line> {
        let first = usize::from(!self.last_was_stderr);
        [first, 1 - first].into_iter().find_map(|index| {
            let line = self.rings[index].as_mut()?.next_line(cursors[index]?, STREAMS[index], LINE_LIMIT)?;
            self.last_was_stderr = index == 1;
            Some(line)
        })
    }

    /// Behind all that is there of each stream.
    pub(super) fn ends(&self) -> [u64; 2] {
        self.rings.each_ref().map(|ring| ring.as_ref().map_or(0, Ring::end))
    }

    /// Whether all lines before these places were taken for delivery.
    pub(super) fn is_delivered_until(&self, ends: [u64; 2]) -> bool {
        self.rings.iter().zip(self.delivery).zip(ends).all(|((ring, cursor), end)| match (ring, cursor) {
            (Some(ring), Some(cursor)) => !ring.has_line(cursor, LINE_LIMIT) || ring.is_past(cursor, end),
            _ => true,
        })
    }

    pub(super) fn next_for_gate(&mut self) -> Option<Line> {
        self.next_line(self.gate)
    }

    pub(super) fn close_gate(&mut self) {
        let cursors = std::mem::take(&mut self.gate);
        self.remove_cursors(cursors);
    }

    /// No byte will come any more.
    pub(super) fn is_closed(&self) -> bool {
        self.rings.iter().flatten().all(Ring::is_closed)
    }

    /// The last line that is kept, of stderr if it has one. To be asked once the run is over.
    pub(super) fn last_words(&self) -> LastWords {
        let streams = self.rings.iter().zip(STREAMS).rev();
        let last =
            |(ring, stream): (&Option<Ring>, _)| Some(Line::new(stream, ring.as_ref()?.last_line(LAST_WORDS)?, false));
        LastWords(streams.into_iter().find_map(last))
    }

    fn has_lines_to_deliver(&self) -> bool {
        let mut rings = self.rings.iter().zip(self.delivery);
        rings.any(|(ring, cursor)| {
            ring.as_ref().zip(cursor).is_some_and(|(ring, cursor)| ring.has_line(cursor, LINE_LIMIT))
        })
    }

    /// The next line to deliver of run number `generation`.
    fn next_to_deliver(&mut self, generation: u64) -> Option<Line> {
        if generation == self.generation {
            return self.next_line(self.delivery);
        }
        self.owed.front().filter(|(of, _)| *of == generation)?;
        self.owed.pop_front().map(|(_, line)| line)
    }

    pub(super) fn snapshot(&self, most: usize) -> Output {
        let mut output = Output::default();
        for (ring, stream) in self.rings.iter().zip(STREAMS) {
            if let Some(ring) = ring {
                let mut kept = ring.contents();
                let extra = kept.len().saturating_sub(most);
                kept.drain(..extra);
                output.set(stream, kept, ring.start() + extra as u64);
            }
        }
        output
    }
}

impl Turn<'_> {
    /// Whether there was something.
    pub(super) fn read_output(&mut self, index: usize) -> bool {
        let mut chunk = [0; CHUNK];
        let mut any = false;
        for _ in 0..CHUNKS_IN_A_ROW {
            let Core { run, output, .. } = &mut **self.core;
            let (Some(run), Some(ring)) = (run.as_mut(), output.rings[index].as_mut()) else { break };
            let Some(pipe) = &run.pipes[index] else { break };
            let room = ring.free().min(CHUNK);
            if room == 0 {
                run.set_pipe_paused(index, true);
                break;
            }
            match sys::fd::read(pipe.fd.as_fd(), &mut chunk[..room]) {
                Ok(0) => {
                    self.end_output(index);
                    break;
                }
                Ok(read) => {
                    any = true;
                    ring.push(&chunk[..read]);
                    self.changed |= !output.readers.is_empty();
                    self.deliver_lines();
                    self.look_for_ready_line();
                    if read < room {
                        break;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                // A pipe cannot fail otherwise; a terminal says EIO when its other side is gone.
                Err(_) => {
                    self.end_output(index);
                    break;
                }
            }
        }
        any
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
        let Core { run, output, .. } = &mut **self.core;
        let pipes = run.iter().flat_map(|run| &run.pipes);
        for (pipe, ring) in pipes.zip(&mut output.rings) {
            if let (Some(pipe), Some(ring)) = (pipe, ring) {
                ring.grow(sys::fd::pipe_size(pipe.fd.as_fd()).unwrap_or(CHUNK));
            }
        }
        self.resume_reading();
        if self.pipes_are_closed() { Some(Event::Drained) } else { None }
    }

    /// Before a drain is given up: what is there was perhaps not read yet.
    pub(super) fn read_before_giving_up(&mut self) {
        if !self.core.machine.is_draining() {
            return;
        }
        for index in [0, 1] {
            // To its end: one that had more to say, or whose end alone was not seen yet, is no leak.
            let _ = (0..LAST_ROWS).take_while(|_| self.read_output(index)).count();
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
            self.call(Call::Lines(self.core.output.generation));
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

/// What `log` sees of a line.
pub(super) fn log_line(name: &Arc<str>, line: &Line) {
    log::debug!(target: LOG_TARGET, "{name}: {line}");
}

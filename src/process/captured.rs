//! Output that was read, for those who want lines.
//!
//! The ring is the one buffer. Whoever wants lines has a cursor in it: the callback, the readiness line, each
//! `wait_for_line`.

use std::collections::VecDeque;
use std::sync::Arc;

use super::config::Config;
use super::monitor;
use super::readiness;
use super::stdio;
use crate::error::{End, LastWords};
use crate::line::{Line, Output, Stream};
use crate::ring::{CursorId, Ring};

/// A line longer than this comes in pieces.
pub(super) const LINE_LIMIT: usize = 16 * 1024;
/// Lines need some room, however little is to be kept.
const LEAST_CAPACITY: usize = 2 * LINE_LIMIT;
/// So many bytes of the last line are in the text of an error.
const LAST_WORDS: usize = 200;
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
    pub(super) rings: [Option<Ring>; 2],
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

    pub(super) fn is_waited_for(&self) -> bool {
        !self.readers.is_empty()
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

    pub(super) fn has_lines_to_deliver(&self) -> bool {
        let mut rings = self.rings.iter().zip(self.delivery);
        rings.any(|(ring, cursor)| {
            ring.as_ref().zip(cursor).is_some_and(|(ring, cursor)| ring.has_line(cursor, LINE_LIMIT))
        })
    }

    /// The next line to deliver of run number `generation`.
    pub(super) fn next_to_deliver(&mut self, generation: u64) -> Option<Line> {
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

/// What `log` sees of a line.
pub(super) fn log_line(name: &Arc<str>, line: &Line) {
    log::debug!(target: LOG_TARGET, "{name}: {line}");
}

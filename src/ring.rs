//! A bounded buffer of one output stream, and the places in it up to which its consumers have read.
//!
//! Every byte has an absolute offset, counted from the start of the run. The ring keeps the last `capacity` of
//! them, read or not, for whoever asks what the child said last; consumers have a cursor each and take whole lines.
//! Two rules follow from *no line is ever lost silently*:
//!
//! - whoever fills the ring pushes at most [`Ring::free`] bytes, so that a byte falls out only when every cursor is
//!   past it. A consumer that does not read makes the child wait;
//! - a full ring always has a line for the slowest cursor. A line is cut into pieces at `limit` bytes, and the limit is
//!   at most half the capacity, so nobody waits for a newline that no longer finds room.
//!
//! No byte is searched twice. A push searches backwards for its last newline, which answers "is there a line?"
//! for all cursors in constant time; a cursor searches forwards only when there is one, and then moves past it.
//!
//! The price: bytes are copied in, and copied out once for each line and cursor. Nothing here waits or wakes: that is
//! for the owner of the lock around it.

use std::collections::VecDeque;

use crate::line::{Line, Stream};

/// Names one cursor of one ring. Never given out twice by the same ring, not even after [`Ring::clear`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CursorId(u64);

/// How far one consumer has read.
#[derive(Debug)]
struct Cursor {
    id: CursorId,
    /// The absolute offset of the next byte to read.
    at: u64,
    /// The last piece handed out was marked as continued, so another one is owed, even if it is empty.
    within_line: bool,
}

/// What was found at a cursor.
struct Found {
    /// Bytes of the line or the piece, without the line end.
    length: usize,
    /// Bytes by which the cursor moves on.
    consumed: usize,
    continued: bool,
}

/// A bounded byte buffer of one output stream with absolute offsets and the cursors of its consumers.
#[derive(Debug)]
pub(crate) struct Ring {
    capacity: usize,
    /// Room beyond the capacity, until it is cleared.
    extra: usize,
    bytes: VecDeque<u8>,
    /// The absolute offset of the first byte that is kept.
    start: u64,
    /// The absolute offset of the last newline ever pushed, kept or not.
    last_newline: Option<u64>,
    closed: bool,
    cursors: Vec<Cursor>,
    next_id: u64,
}

impl Ring {
    /// An empty ring that keeps at most `capacity` bytes, at least 2. Allocates nothing yet: a child that writes
    /// nothing costs nothing, and one that writes little costs little.
    pub(crate) fn new(capacity: usize) -> Ring {
        Ring {
            capacity: capacity.max(2),
            extra: 0,
            bytes: VecDeque::new(),
            start: 0,
            last_newline: None,
            closed: false,
            cursors: Vec::new(),
            next_id: 0,
        }
    }

    /// The absolute offset of the first byte that is kept: so many were dropped in this run.
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// The absolute offset behind the last byte: so many were pushed in this run.
    pub(crate) fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// How many bytes may be pushed now without dropping one that some cursor has still to read.
    pub(crate) fn free(&self) -> usize {
        let slowest = self.cursors.iter().map(|cursor| cursor.at).min();
        let unread = slowest.map_or(0, |at| self.unread(at));
        self.most() - unread
    }

    fn most(&self) -> usize {
        self.capacity.saturating_add(self.extra)
    }

    /// Keeps so many bytes more, for the rest of this run.
    pub(crate) fn grow(&mut self, bytes: usize) {
        self.extra = self.extra.saturating_add(bytes);
    }

    /// Appends bytes, never more than [`free`](Ring::free), and drops the oldest beyond the capacity.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        debug_assert!(bytes.len() <= self.free(), "a byte that some cursor has not read would be dropped");
        debug_assert!(!self.closed, "no byte comes after the end");
        let newline = bytes.iter().rposition(|&byte| byte == b'\n');
        if let Some(newline) = newline {
            self.last_newline = Some(self.end() + newline as u64);
        }

        let surplus = (self.bytes.len() + bytes.len()).saturating_sub(self.most());
        let old = surplus.min(self.bytes.len());
        self.bytes.drain(..old);
        self.start += surplus as u64;
        let bytes = &bytes[surplus - old..];
        self.reserve(bytes.len());
        self.bytes.extend(bytes);

        // Only after a push of too much: the cursors must still point at what is there.
        for cursor in &mut self.cursors {
            cursor.at = cursor.at.max(self.start);
        }
    }

    /// No more bytes will come: what follows the last newline is now a line.
    pub(crate) fn close(&mut self) {
        self.closed = true;
    }

    /// Whether [`close`](Ring::close) was called in this run.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// A new cursor at the absolute offset `at`, or as near to it as something is kept: 0 reads all that is there,
    /// `u64::MAX` only what comes. In the middle of a line it reads the rest of that line.
    pub(crate) fn add_cursor(&mut self, at: u64) -> CursorId {
        let id = CursorId(self.next_id);
        self.next_id += 1;
        self.cursors.push(Cursor { id, at: at.clamp(self.start, self.end()), within_line: false });
        id
    }

    /// Forgets a cursor, and with it what it had still to read. One that is gone already is no error.
    pub(crate) fn remove_cursor(&mut self, id: CursorId) {
        self.cursors.retain(|cursor| cursor.id != id);
    }

    /// The next line at the cursor, which moves past it. `None` if there is none yet, or no such cursor.
    ///
    /// A line of more than `limit` bytes comes in pieces of `limit`, all but the last marked as continued. A piece
    /// is handed out as soon as `limit` bytes are there, except that one ending in `"\r"` waits for one byte more,
    /// which tells whether that is half of a line end. So a line of exactly `limit` bytes comes whole if its end is
    /// there already, else as a continued piece and an empty last one. On close the piece that is owed after a
    /// continued one comes in any case. Only `"\r\n"` and `"\n"` end a line; any other `"\r"` belongs to it.
    ///
    /// `limit` is taken as at least 1 and at most half the capacity. One cursor is to be read with one limit.
    pub(crate) fn next_line(&mut self, id: CursorId, stream: Stream, limit: usize) -> Option<Line> {
        let index = self.cursors.iter().position(|cursor| cursor.id == id)?;
        let found = self.find(&self.cursors[index], self.clamp_limit(limit))?;
        let line = Line::new(stream, self.copy(self.cursors[index].at, found.length), found.continued);
        let cursor = &mut self.cursors[index];
        cursor.at += found.consumed as u64;
        cursor.within_line = found.continued;
        Some(line)
    }

    /// Whether [`next_line`](Ring::next_line) would return a line. Looks at no byte but the last.
    pub(crate) fn has_line(&self, id: CursorId, limit: usize) -> bool {
        let cursor = self.cursors.iter().find(|cursor| cursor.id == id);
        cursor.is_some_and(|cursor| {
            self.newline_at_or_after(cursor.at)
                || self.has_piece(cursor.at, self.clamp_limit(limit))
                || self.closed && (self.unread(cursor.at) > 0 || cursor.within_line)
        })
    }

    /// Whether the cursor has passed the absolute offset `at`.
    pub(crate) fn is_past(&self, id: CursorId, at: u64) -> bool {
        self.cursors.iter().find(|cursor| cursor.id == id).is_none_or(|cursor| cursor.at >= at)
    }

    /// A copy of what is kept.
    pub(crate) fn contents(&self) -> Vec<u8> {
        let (front, back) = self.bytes.as_slices();
        [front, back].concat()
    }

    /// The last line that is not blank, if one is kept; of a long one its first `limit` bytes.
    pub(crate) fn last_line(&self, limit: usize) -> Option<Vec<u8>> {
        let end = self.bytes.iter().rposition(|byte| !byte.is_ascii_whitespace())? + 1;
        let start = self.bytes.range(..end).rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
        Some(self.bytes.range(start..end).take(limit).copied().collect())
    }

    /// As new, for a new run: nothing kept, no memory held, offsets from 0, open, all cursors removed. Their ids are
    /// not given out again, so a consumer left over from the run before reads nothing of this one.
    pub(crate) fn clear(&mut self) {
        *self = Ring { next_id: self.next_id, ..Ring::new(self.capacity) };
    }

    fn clamp_limit(&self, limit: usize) -> usize {
        limit.clamp(1, self.capacity / 2)
    }

    /// How many bytes follow the offset `at`, which is one of a cursor and so never outside of what is kept.
    fn unread(&self, at: u64) -> usize {
        self.bytes.len() - self.index(at)
    }

    fn index(&self, at: u64) -> usize {
        (at - self.start) as usize
    }

    fn newline_at_or_after(&self, at: u64) -> bool {
        self.last_newline.is_some_and(|newline| newline >= at)
    }

    /// Whether so much is there that a piece can be cut off without a newline in sight.
    fn has_piece(&self, at: u64, limit: usize) -> bool {
        let unread = self.unread(at);
        // The last byte is the one before the limit: a "\r" there could be the first half of a line end.
        unread > limit || unread == limit && self.bytes.back() != Some(&b'\r')
    }

    fn find(&self, cursor: &Cursor, limit: usize) -> Option<Found> {
        let at = cursor.at;
        if self.newline_at_or_after(at) {
            // Further than this a newline ends a line that is too long in any case.
            let window = self.unread(at).min(limit + 2);
            if let Some(newline) = self.find_newline(at, window) {
                let length = newline - usize::from(self.is_carriage_return_before(at, newline));
                if length <= limit {
                    return Some(Found { length, consumed: newline + 1, continued: false });
                }
            }
        }
        let unread = self.unread(at);
        if self.closed && unread <= limit {
            let owed = unread > 0 || cursor.within_line;
            return owed.then_some(Found { length: unread, consumed: unread, continued: false });
        }
        let piece = Found { length: limit, consumed: limit, continued: true };
        self.has_piece(at, limit).then_some(piece)
    }

    /// Whether the byte before the newline is one of this line and a `"\r"`.
    fn is_carriage_return_before(&self, at: u64, newline: usize) -> bool {
        newline > 0 && self.bytes[self.index(at) + newline - 1] == b'\r'
    }

    /// The first newline of the `length` bytes at `at`, counted from `at`.
    fn find_newline(&self, at: u64, length: usize) -> Option<usize> {
        let (front, back) = self.slices(at, length);
        newline_in(front).or_else(|| newline_in(back).map(|found| front.len() + found))
    }

    fn copy(&self, at: u64, length: usize) -> Vec<u8> {
        let (front, back) = self.slices(at, length);
        let mut copy = Vec::with_capacity(length);
        copy.extend_from_slice(front);
        copy.extend_from_slice(back);
        copy
    }

    /// The `length` bytes at `at`, which may go around the end of the memory behind them.
    fn slices(&self, at: u64, length: usize) -> (&[u8], &[u8]) {
        let (from, to) = (self.index(at), self.index(at) + length);
        let (front, back) = self.bytes.as_slices();
        let middle = front.len();
        (&front[from.min(middle)..to.min(middle)], &back[from.saturating_sub(middle)..to.saturating_sub(middle)])
    }

    /// Makes room for `more` bytes that fit. By doubling, but never beyond what may be kept, which a `VecDeque` left to itself would
    /// pass.
    fn reserve(&mut self, more: usize) {
        let needed = self.bytes.len() + more;
        if needed > self.bytes.capacity() {
            let most = self.most();
            let room = needed.checked_next_power_of_two().map_or(most, |room| room.min(most));
            self.bytes.reserve_exact(room - self.bytes.len());
        }
    }
}

/// The first newline. By blocks, whose bytes the compiler compares all at once, because the loop over them has no exit.
fn newline_in(bytes: &[u8]) -> Option<usize> {
    let (blocks, _) = bytes.as_chunks::<32>();
    let has_newline = |block: &[u8; 32]| block.iter().fold(false, |found, &byte| found | (byte == b'\n'));
    let skipped = blocks.iter().position(has_newline).unwrap_or(blocks.len()) * 32;
    bytes[skipped..].iter().position(|&byte| byte == b'\n').map(|found| skipped + found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: usize = 8;

    #[test]
    fn one_without_a_limit_grows_no_further() {
        let mut ring = Ring::new(usize::MAX);
        ring.add_cursor(0);
        ring.push(b"some");
        ring.grow(4096);
        assert_eq!(ring.free(), usize::MAX - 4);
        ring.push(b"more");
        assert_eq!(ring.contents(), b"somemore");
    }

    /// A ring of capacity 16 with the bytes in it, and a cursor at its start.
    fn ring(bytes: &[u8]) -> (Ring, CursorId) {
        let mut ring = Ring::new(2 * LIMIT);
        let cursor = ring.add_cursor(0);
        ring.push(bytes);
        (ring, cursor)
    }

    fn next(ring: &mut Ring, cursor: CursorId) -> Option<(String, bool)> {
        let has_line = ring.has_line(cursor, LIMIT);
        let line = ring.next_line(cursor, Stream::Stdout, LIMIT);
        assert_eq!(has_line, line.is_some());
        line.map(|line| (line.text().into_owned(), line.continued()))
    }

    fn rest(ring: &mut Ring, cursor: CursorId) -> Vec<(String, bool)> {
        std::iter::from_fn(|| next(ring, cursor)).collect()
    }

    fn whole(text: &str) -> (String, bool) {
        (text.to_owned(), false)
    }

    fn piece(text: &str) -> (String, bool) {
        (text.to_owned(), true)
    }

    #[test]
    fn the_last_line_is_the_last_that_says_something() {
        let cases: [(&[u8], Option<&[u8]>); 6] = [
            (b"", None),
            (b" \n\n", None),
            (b"one", Some(b"one")),
            (b"one\ntwo\r\n", Some(b"two")),
            (b"one\n two\n \n", Some(b" two")),
            (b"one\n123456789", Some(b"12345678")),
        ];
        for (bytes, last) in cases {
            assert_eq!(ring(bytes).0.last_line(LIMIT).as_deref(), last);
        }
    }

    #[test]
    fn lines_end_at_newlines_with_and_without_carriage_return() {
        let (mut ring, cursor) = ring(b"a\n\r\n\nb\r\r\nc\rd\ne");
        let lines = [whole("a"), whole(""), whole(""), whole("b\r"), whole("c\rd")];
        assert_eq!(rest(&mut ring, cursor), lines);
        ring.push(b"\r");
        assert_eq!(next(&mut ring, cursor), None);
        ring.close();
        assert_eq!(rest(&mut ring, cursor), [whole("e\r")]);
    }

    #[test]
    fn a_line_of_the_limit_is_whole_if_its_end_is_there() {
        let (mut there, cursor) = ring(b"12345678\r\n1");
        assert_eq!(rest(&mut there, cursor), [whole("12345678")]);
        let (mut coming, cursor) = ring(b"12345678");
        assert_eq!(rest(&mut coming, cursor), [piece("12345678")]);
        coming.push(b"\r");
        assert_eq!(next(&mut coming, cursor), None);
        coming.push(b"\n");
        assert_eq!(rest(&mut coming, cursor), [whole("")]);
    }

    #[test]
    fn a_longer_line_comes_in_pieces() {
        let (mut ring, cursor) = ring(b"1234567890123456");
        assert_eq!(ring.free(), 0);
        assert_eq!(rest(&mut ring, cursor), [piece("12345678"), piece("90123456")]);
        ring.push(b"789\nx\n");
        assert_eq!(rest(&mut ring, cursor), [whole("789"), whole("x")]);
    }

    #[test]
    fn a_line_end_is_not_cut_in_two() {
        let (mut ended, cursor) = ring(b"1234567\r");
        assert_eq!(next(&mut ended, cursor), None);
        ended.push(b"\n");
        assert_eq!(rest(&mut ended, cursor), [whole("1234567")]);
        let (mut went_on, cursor) = ring(b"1234567\r");
        went_on.push(b"x");
        assert_eq!(rest(&mut went_on, cursor), [piece("1234567\r")]);
        went_on.push(b"\n");
        assert_eq!(rest(&mut went_on, cursor), [whole("x")]);
    }

    #[test]
    fn a_continued_piece_is_followed_by_another_even_on_close() {
        let (mut ring, cursor) = ring(b"12345678");
        assert_eq!(rest(&mut ring, cursor), [piece("12345678")]);
        ring.close();
        assert_eq!(rest(&mut ring, cursor), [whole("")]);
    }

    #[test]
    fn close_makes_the_rest_a_line() {
        let (mut some, cursor) = ring(b"12345678abc");
        some.close();
        assert!(some.is_closed());
        assert_eq!(rest(&mut some, cursor), [piece("12345678"), whole("abc")]);
        let (mut exact, cursor) = ring(b"12345678");
        exact.close();
        assert_eq!(rest(&mut exact, cursor), [whole("12345678")]);
        let (mut none, cursor) = ring(b"a\n");
        none.close();
        assert_eq!(rest(&mut none, cursor), [whole("a")]);
    }

    #[test]
    fn a_slow_cursor_holds_bytes_and_a_removed_one_none() {
        let (mut ring, slow) = ring(b"one\ntwo\n");
        let fast = ring.add_cursor(0);
        assert_eq!(rest(&mut ring, fast), [whole("one"), whole("two")]);
        assert_eq!(ring.free(), 8);
        assert_eq!(next(&mut ring, slow), Some(whole("one")));
        assert_eq!(ring.free(), 12);
        ring.remove_cursor(slow);
        assert_eq!(ring.free(), 16);
        assert_eq!(next(&mut ring, slow), None);
        ring.push(b"0123456789abcde\n");
        assert_eq!((ring.start(), ring.end()), (8, 24));
        assert_eq!(ring.contents(), b"0123456789abcde\n");
        ring.remove_cursor(fast);
        let late = ring.add_cursor(0);
        assert_eq!(ring.free(), 0);
        assert_eq!(rest(&mut ring, late), [piece("01234567"), whole("89abcde")]);
        let last = ring.add_cursor(u64::MAX);
        assert_eq!(ring.free(), 16);
        assert_eq!(next(&mut ring, last), None);
    }

    #[test]
    fn clear_starts_anew_and_forgets_the_cursors() {
        let (mut ring, old) = ring(b"12345678");
        assert_eq!(next(&mut ring, old), Some(piece("12345678")));
        ring.close();
        ring.clear();
        assert_eq!((ring.start(), ring.end(), ring.is_closed(), ring.free()), (0, 0, false, 16));
        assert_eq!((ring.contents(), ring.bytes.capacity()), (vec![], 0));
        let new = ring.add_cursor(0);
        assert_ne!(new, old);
        ring.push(b"a\n");
        assert_eq!(next(&mut ring, old), None);
        assert_eq!(next(&mut ring, new), Some(whole("a")));
    }

    #[test]
    fn memory_comes_with_the_bytes_and_ends_at_the_capacity() {
        let mut ring = Ring::new(1000);
        assert_eq!(ring.bytes.capacity(), 0);
        ring.push(b"hello\n");
        assert!(ring.bytes.capacity() < 100);
        for _ in 0..100 {
            ring.push(&[b'x'; 77]);
            assert!(ring.bytes.capacity() <= 1000);
        }
        assert_eq!(ring.contents().len(), 1000);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push(Vec<u8>),
        AddCursor(u64),
        RemoveCursor(usize),
        Read(usize),
        Close,
    }

    /// Bytes with many line ends, and few of them long.
    fn output() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![4 => Just(b'\n'), 4 => Just(b'\r'), 8 => b'a'..=b'z', 1 => any::<u8>()];
        let text = prop::collection::vec(byte, 0..20);
        prop_oneof![4 => text, 1 => prop::collection::vec(Just(b'x'), 0..150)]
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            40 => output().prop_map(Step::Push),
            50 => (0..4usize).prop_map(Step::Read),
            6 => (0..300u64).prop_map(Step::AddCursor),
            2 => (0..4usize).prop_map(Step::RemoveCursor),
            1 => Just(Step::Close),
        ]
    }

    /// One consumer: where it began, and what it was given.
    struct Reader {
        id: CursorId,
        from: usize,
        pieces: Vec<Line>,
    }

    /// The naive model: everything that was ever pushed, and the readers.
    struct Model {
        ring: Ring,
        limit: usize,
        pushed: Vec<u8>,
        readers: Vec<Reader>,
    }

    /// The lines of a text, each without its line end; the last only if something is there.
    fn naive_lines(bytes: &[u8]) -> Vec<Vec<u8>> {
        let lines = bytes.split_inclusive(|&byte| byte == b'\n');
        let without_end = |line: &[u8]| match line {
            [line @ .., b'\r', b'\n'] | [line @ .., b'\n'] => line.to_vec(),
            line => line.to_vec(),
        };
        lines.map(without_end).collect()
    }

    impl Model {
        fn new(capacity: usize, limit: usize) -> Model {
            Model { ring: Ring::new(capacity), limit, pushed: Vec::new(), readers: Vec::new() }
        }

        fn apply(&mut self, step: Step) {
            let readers = self.readers.len().max(1);
            match step {
                Step::Push(bytes) if !self.ring.is_closed() => {
                    let bytes = &bytes[..bytes.len().min(self.ring.free())];
                    self.ring.push(bytes);
                    self.pushed.extend_from_slice(bytes);
                }
                Step::Push(_) => {}
                Step::AddCursor(at) => {
                    let id = self.ring.add_cursor(at);
                    let kept = self.ring.start() as usize..self.pushed.len();
                    let from = (at as usize).clamp(kept.start, kept.end);
                    self.readers.push(Reader { id, from, pieces: Vec::new() });
                }
                Step::RemoveCursor(which) if !self.readers.is_empty() => {
                    let reader = self.readers.remove(which % readers);
                    self.ring.remove_cursor(reader.id);
                    assert!(self.ring.next_line(reader.id, Stream::Stdout, self.limit).is_none());
                }
                Step::Read(which) if !self.readers.is_empty() => drop(self.read(which % readers)),
                Step::RemoveCursor(_) | Step::Read(_) => {}
                Step::Close => self.ring.close(),
            }
        }

        /// Reads once, and checks that a line came exactly if one was due.
        fn read(&mut self, which: usize) -> bool {
            let reader = &mut self.readers[which];
            let unread = &self.pushed[self.ring.cursors[which].at as usize..];
            let owed = reader.pieces.last().is_some_and(Line::continued);
            let due = unread.contains(&b'\n')
                || unread.len() > self.limit
                || unread.len() == self.limit && !unread.ends_with(b"\r")
                || self.ring.is_closed() && (owed || !unread.is_empty());
            assert_eq!(self.ring.has_line(reader.id, self.limit), due);
            let line = self.ring.next_line(reader.id, Stream::Stderr, self.limit);
            assert_eq!(line.is_some(), due);
            reader.pieces.extend(line);
            due
        }

        fn check(&self) {
            let ring = &self.ring;
            let start = self.pushed.len().saturating_sub(ring.capacity);
            assert_eq!((ring.start(), ring.end()), (start as u64, self.pushed.len() as u64));
            assert_eq!(ring.contents(), &self.pushed[start..]);
            assert!(ring.bytes.capacity() <= ring.capacity);
            for reader in &self.readers {
                self.check_reader(reader);
            }
            if ring.free() == 0 {
                let mut ids = self.readers.iter().map(|reader| reader.id);
                assert!(ids.any(|id| ring.has_line(id, self.limit)), "full, and nobody can go on");
            }
        }

        /// What a reader was given is a beginning of the lines that it ought to get, cut only where they are too long.
        fn check_reader(&self, reader: &Reader) {
            let expected = naive_lines(&self.pushed[reader.from..]);
            let mut lines = expected.iter();
            let mut line = Vec::new();
            for piece in &reader.pieces {
                assert_eq!(piece.stream(), Stream::Stderr);
                assert!(piece.bytes().len() <= self.limit);
                line.extend_from_slice(piece.bytes());
                if piece.continued() {
                    assert_eq!(piece.bytes().len(), self.limit, "only a full piece is continued");
                    continue;
                }
                assert_eq!(Some(&line), lines.next());
                line.clear();
            }
            if !line.is_empty() {
                let unfinished = lines.next().expect("a piece belongs to a line");
                assert!(unfinished.starts_with(&line));
            } else if self.ring.is_closed() && !self.ring.has_line(reader.id, self.limit) {
                assert_eq!(lines.next(), None, "all was read");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn readers_get_the_lines_of_what_was_written(
            half in 1..40usize,
            odd in 0..2usize,
            limit in 1..40usize,
            steps in prop::collection::vec(step(), 1..120),
        ) {
            let limit = limit.min(half);
            let mut model = Model::new(2 * half + odd, limit);
            for step in steps {
                model.apply(step);
                model.check();
            }
            model.ring.close();
            for which in 0..model.readers.len() {
                while model.read(which) {}
                prop_assert!(!model.readers[which].pieces.last().is_some_and(Line::continued));
            }
            model.check();
        }

        #[test]
        fn the_first_newline_is_found(
            bytes in prop::collection::vec(prop_oneof![20 => any::<u8>(), 1 => Just(b'\n')], 0..200),
        ) {
            prop_assert_eq!(newline_in(&bytes), bytes.iter().position(|&byte| byte == b'\n'));
        }
    }
}

//! What a child wrote: one line of it, and a snapshot of all that was captured.
//!
//! A [`Line`] owns its bytes, so that it can travel to a callback thread while the buffer it came from goes on
//! filling. Bytes, not `String`: a child may write whatever it likes, and `bytes()` gives it back exactly, while
//! `text()` shows it with what is not UTF-8 replaced. The price is one small allocation for each line.
//!
//! Nothing here reads or waits. Where lines are cut is decided by the ring buffer behind a captured stream.

use std::borrow::Cow;
use std::fmt;

/// One of the two output streams of a process.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output, descriptor 1.
    Stdout,
    /// Standard error, descriptor 2.
    Stderr,
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        })
    }
}

/// One line that a process wrote, without its line end (`"\n"` or `"\r\n"`).
///
/// What follows the last line end is a line too, once the stream has ended. A line longer than the limit (16 KiB)
/// comes in pieces: all but the last say [`continued`](Line::continued), and their [`bytes`](Line::bytes), put
/// together, are the line exactly. The last piece may be empty, where the limit fell on the end of the line.
///
/// `Display` is [`text`](Line::text).
///
/// # Example
///
/// Put the pieces of long lines together again:
///
/// ```
/// use pkit::Line;
///
/// fn collect(pieces: &mut Vec<u8>, line: &Line) -> Option<String> {
///     pieces.extend_from_slice(line.bytes());
///     if line.continued() {
///         return None;
///     }
///     let whole = String::from_utf8_lossy(pieces).into_owned();
///     pieces.clear();
///     Some(format!("{}: {whole}", line.stream()))
/// }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Line {
    stream: Stream,
    bytes: Box<[u8]>,
    continued: bool,
}

impl Line {
    /// A line of `stream`; `bytes` come without the line end.
    pub(crate) fn new(stream: Stream, bytes: impl Into<Box<[u8]>>, continued: bool) -> Line {
        Line { stream, bytes: bytes.into(), continued }
    }

    /// The stream that it was written to.
    pub fn stream(&self) -> Stream {
        self.stream
    }

    /// The line as text: what is not UTF-8 is replaced by U+FFFD. Control characters are left as they are.
    ///
    /// A piece of a long line may end inside a character; join the [`bytes`](Line::bytes) where that matters.
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.bytes)
    }

    /// The line as it was written.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether the line was longer than the limit and this piece is not its last: the next `Line` of the same
    /// stream goes on with it.
    pub fn continued(&self) -> bool {
        self.continued
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text())
    }
}

/// As text, since a list of numbers tells nobody anything.
impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line")
            .field("stream", &self.stream)
            .field("text", &self.text())
            .field("continued", &self.continued)
            .finish()
    }
}

/// A snapshot of the output of a process that was captured so far.
///
/// Of each stream the last bytes are kept, up to the bounded size of its buffer; how many fell out before them is told
/// by `stdout_dropped` and `stderr_dropped`. Where that is not 0 what is kept may begin in the middle of a line, or of
/// a character. A stream that is not captured is empty.
///
/// # Example
///
/// ```
/// let output = pkit::Output::default();
/// assert_eq!(output.stdout_text(), "");
/// assert_eq!(output.stderr_dropped(), 0);
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Output {
    stdout: Kept,
    stderr: Kept,
}

impl Output {
    /// What is kept of one stream, and how many bytes were dropped before it.
    pub(crate) fn set(&mut self, stream: Stream, bytes: Vec<u8>, dropped: u64) {
        let kept = Kept { bytes, dropped };
        match stream {
            Stream::Stdout => self.stdout = kept,
            Stream::Stderr => self.stderr = kept,
        }
    }

    /// What is kept of standard output.
    pub fn stdout(&self) -> &[u8] {
        &self.stdout.bytes
    }

    /// What is kept of standard error.
    pub fn stderr(&self) -> &[u8] {
        &self.stderr.bytes
    }

    /// What is kept of standard output as text: what is not UTF-8 is replaced by U+FFFD.
    pub fn stdout_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.stdout.bytes)
    }

    /// What is kept of standard error as text: what is not UTF-8 is replaced by U+FFFD.
    pub fn stderr_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.stderr.bytes)
    }

    /// How many bytes of standard output fell out of the buffer, before what is kept.
    pub fn stdout_dropped(&self) -> u64 {
        self.stdout.dropped
    }

    /// How many bytes of standard error fell out of the buffer, before what is kept.
    pub fn stderr_dropped(&self) -> u64 {
        self.stderr.dropped
    }
}

/// As text, like [`Line`].
impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output")
            .field("stdout", &self.stdout_text())
            .field("stdout_dropped", &self.stdout.dropped)
            .field("stderr", &self.stderr_text())
            .field("stderr_dropped", &self.stderr.dropped)
            .finish()
    }
}

/// The tail of one stream.
#[derive(Clone, Default, PartialEq, Eq)]
struct Kept {
    bytes: Vec<u8>,
    dropped: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_shows_its_text_and_keeps_its_bytes() {
        let line = Line::new(Stream::Stderr, *b"caf\xe9 \xc3\xa9", true);
        assert_eq!(line.text(), "caf\u{fffd} é");
        assert_eq!(line.to_string(), "caf\u{fffd} é");
        assert_eq!(format!("{line:>8}|"), "  caf\u{fffd} é|");
        assert_eq!(line.bytes(), b"caf\xe9 \xc3\xa9");
        assert_eq!(line.stream().to_string(), "stderr");
        assert!(line.continued());
        assert_eq!(format!("{line:?}"), "Line { stream: Stderr, text: \"caf\u{fffd} é\", continued: true }");
    }

    #[test]
    fn an_output_keeps_its_streams_apart() {
        let mut output = Output::default();
        assert_eq!((output.stdout(), output.stderr()), (&b""[..], &b""[..]));
        output.set(Stream::Stdout, b"out\xff".to_vec(), 3);
        output.set(Stream::Stderr, b"err".to_vec(), 0);
        assert_eq!((output.stdout(), output.stderr()), (&b"out\xff"[..], &b"err"[..]));
        assert_eq!((output.stdout_text(), output.stderr_text()), ("out\u{fffd}".into(), "err".into()));
        assert_eq!((output.stdout_dropped(), output.stderr_dropped()), (3, 0));
        assert_eq!(
            format!("{output:?}"),
            "Output { stdout: \"out\u{fffd}\", stdout_dropped: 3, stderr: \"err\", stderr_dropped: 0 }"
        );
    }
}

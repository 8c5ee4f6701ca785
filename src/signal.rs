//! A signal as a value: its number, its name, and text read back into it.
//!
//! The public interface shows no type of another crate, so the signals have one small type here. Their
//! numbers come from `libc` for the target that is compiled for; names are those of signal(7). Nothing
//! is sent from here.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// A signal, 1 to 64.
///
/// Besides the constants there are the real-time signals, by number or by name. [`Display`](fmt::Display)
/// and [`name`](Signal::name) give the name, [`FromStr`] reads it.
///
/// # Example
///
/// ```
/// use pkit::Signal;
///
/// assert_eq!(Signal::TERM.to_string(), "SIGTERM");
/// assert_eq!("usr1".parse(), Ok(Signal::USR1));
/// assert_eq!("9".parse(), Ok(Signal::KILL));
/// assert_eq!(Signal::from_raw(65), None);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signal(i32);

macro_rules! signals {
    ($($(#[$doc:meta])* $name:ident = $raw:ident;)*) => {
        impl Signal {
            $($(#[$doc])* pub const $name: Signal = Signal(libc::$raw);)*
        }

        /// Every named signal; the real-time ones are named by their distance from the first.
        const NAMES: &[(Signal, &str)] = &[$((Signal::$name, stringify!($raw))),*];
    };
}

signals! {
    /// The terminal hung up; by custom: read the configuration again.
    HUP = SIGHUP;
    /// Interrupt from the keyboard (Ctrl-C).
    INT = SIGINT;
    /// Quit from the keyboard (Ctrl-\\); dumps core.
    QUIT = SIGQUIT;
    /// Illegal instruction.
    ILL = SIGILL;
    /// Trace or breakpoint trap.
    TRAP = SIGTRAP;
    /// abort(3).
    ABRT = SIGABRT;
    /// Bad memory access, such as beyond the end of a mapped file.
    BUS = SIGBUS;
    /// Arithmetic error.
    FPE = SIGFPE;
    /// Ends the process; cannot be caught, blocked or ignored.
    KILL = SIGKILL;
    /// For the program's own use.
    USR1 = SIGUSR1;
    /// Invalid memory reference.
    SEGV = SIGSEGV;
    /// For the program's own use.
    USR2 = SIGUSR2;
    /// Write to a pipe or socket that nobody reads.
    PIPE = SIGPIPE;
    /// The timer of alarm(2).
    ALRM = SIGALRM;
    /// The polite request to end.
    TERM = SIGTERM;
    /// Stack fault of a coprocessor; the kernel never sends it.
    STKFLT = SIGSTKFLT;
    /// A child ended, stopped or went on.
    CHLD = SIGCHLD;
    /// Go on after a stop.
    CONT = SIGCONT;
    /// Stops the process; cannot be caught, blocked or ignored.
    STOP = SIGSTOP;
    /// Stop from the keyboard (Ctrl-Z).
    TSTP = SIGTSTP;
    /// A background process read from its terminal.
    TTIN = SIGTTIN;
    /// A background process wrote to its terminal.
    TTOU = SIGTTOU;
    /// Urgent data on a socket.
    URG = SIGURG;
    /// The soft limit of processor time was passed.
    XCPU = SIGXCPU;
    /// The limit of file size was passed.
    XFSZ = SIGXFSZ;
    /// The virtual timer of setitimer(2).
    VTALRM = SIGVTALRM;
    /// The profiling timer of setitimer(2).
    PROF = SIGPROF;
    /// The terminal window changed its size.
    WINCH = SIGWINCH;
    /// Input or output is possible; SIGPOLL is the same.
    IO = SIGIO;
    /// Power failure.
    PWR = SIGPWR;
    /// Bad system call; what seccomp(2) sends.
    SYS = SIGSYS;
}

/// Other names of the same numbers, understood when read and never written.
const ALIASES: &[(Signal, &str)] = &[(Signal::ABRT, "SIGIOT"), (Signal::IO, "SIGPOLL"), (Signal::CHLD, "SIGCLD")];

impl Signal {
    /// The largest signal number on x86-64 and aarch64 (`_NSIG`, signal(7)).
    const LAST: i32 = 64;

    /// The signal of that number; `None` outside 1 to 64. Zero is no signal: it is kill(2)'s question.
    pub const fn from_raw(number: i32) -> Option<Self> {
        if number >= 1 && number <= Self::LAST { Some(Self(number)) } else { None }
    }

    /// Its number, 1 to 64.
    pub const fn as_raw(self) -> i32 {
        self.0
    }

    /// Its name: `SIGTERM`, `SIGRTMIN+3`; `SIG32` for those that the C library keeps to itself.
    ///
    /// Where the real-time signals begin is the C library's choice: 34 in glibc, 35 in musl.
    pub fn name(self) -> Cow<'static, str> {
        if let Some((_, name)) = NAMES.iter().find(|(signal, _)| *signal == self) {
            return Cow::Borrowed(name);
        }
        match self.0 - libc::SIGRTMIN() {
            0 => Cow::Borrowed("SIGRTMIN"),
            above if above > 0 => Cow::Owned(format!("SIGRTMIN+{above}")),
            _ => Cow::Owned(format!("SIG{}", self.0)),
        }
    }

    /// The real-time signal that `rest`, the name without `SIG`, stands for: `RTMIN+3`, `RTMAX-1`.
    fn realtime(rest: &str) -> Option<Self> {
        let (first, last) = (libc::SIGRTMIN(), libc::SIGRTMAX());
        let number = match rest.get(..5)? {
            "RTMIN" => first.checked_add(distance(&rest[5..], '+')?)?,
            "RTMAX" => last.checked_sub(distance(&rest[5..], '-')?)?,
            _ => return None,
        };
        if (first..=last).contains(&number) { Self::from_raw(number) } else { None }
    }
}

/// The `3` of `+3`; nothing at all is zero.
fn distance(text: &str, sign: char) -> Option<i32> {
    if text.is_empty() {
        return Some(0);
    }
    number(text.strip_prefix(sign)?)
}

/// Digits only: `str::parse` would take a sign as well.
fn number(text: &str) -> Option<i32> {
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.name())
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.name())
    }
}

impl FromStr for Signal {
    type Err = ParseSignalError;

    /// Reads `SIGTERM`, `TERM` or `15`, in any case; `SIGRTMIN+3` and `RTMAX-1` too.
    ///
    /// # Errors
    ///
    /// When there is no such signal.
    fn from_str(text: &str) -> Result<Self, ParseSignalError> {
        let upper = text.to_ascii_uppercase();
        let rest = upper.strip_prefix("SIG").unwrap_or(&upper);
        NAMES
            .iter()
            .chain(ALIASES)
            .find(|(_, name)| name.strip_prefix("SIG") == Some(rest))
            .map(|(signal, _)| *signal)
            .or_else(|| Self::realtime(rest))
            .or_else(|| number(rest).and_then(Self::from_raw))
            .ok_or_else(|| ParseSignalError { text: text.to_owned() })
    }
}

/// A text that names no signal.
///
/// # Example
///
/// ```
/// use pkit::Signal;
///
/// let error = "SIGFOO".parse::<Signal>().expect_err("there is none");
/// assert_eq!(error.to_string(), "no signal is called `SIGFOO`");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no signal is called `{text}`")]
pub struct ParseSignalError {
    text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_survives_its_name() {
        for raw in 1..=64 {
            let signal = Signal::from_raw(raw).expect("1 to 64 are signals");
            assert_eq!(signal.as_raw(), raw);
            let name = signal.name();
            assert_eq!(name.parse(), Ok(signal), "{name}");
            assert_eq!(name.to_lowercase().parse(), Ok(signal), "{name}");
            assert_eq!(name[3..].parse(), Ok(signal), "{name}");
            assert_eq!(raw.to_string().parse(), Ok(signal), "{name}");
        }
    }

    #[test]
    fn the_numbers_below_32_all_have_names() {
        assert_eq!(NAMES.len(), 31);
        for (position, (signal, name)) in NAMES.iter().enumerate() {
            assert!((1..32).contains(&signal.as_raw()), "{name}");
            assert!(NAMES[..position].iter().all(|(other, _)| other != signal), "{name}");
        }
    }

    #[test]
    fn other_spellings() {
        assert_eq!("SIGIOT".parse(), Ok(Signal::ABRT));
        assert_eq!("poll".parse(), Ok(Signal::IO));
        let last = Signal::from_raw(libc::SIGRTMAX()).expect("SIGRTMAX is a signal");
        assert_eq!("SIGRTMAX".parse(), Ok(last));
        assert_eq!("RTMIN+3".parse(), Ok(Signal(libc::SIGRTMIN() + 3)));
        assert_eq!(Signal(libc::SIGRTMIN() + 3).name(), "SIGRTMIN+3");
    }

    #[test]
    fn what_is_no_signal() {
        for text in [
            "",
            "SIG",
            "0",
            "65",
            "-1",
            "+9",
            "SIG+9",
            "RTMIN-1",
            "RTMIN+31",
            "RTMIN+",
            "RTMIN++1",
            "TERM ",
            "ÄÖÜ",
            "99999999999",
        ] {
            assert!(text.parse::<Signal>().is_err(), "{text:?}");
        }
        assert_eq!(Signal::from_raw(0), None);
        assert_eq!(Signal::from_raw(-1), None);
        assert_eq!(Signal::from_raw(65), None);
    }

    #[test]
    fn display_and_debug_are_the_name() {
        assert_eq!(format!("{}", Signal::TERM), "SIGTERM");
        assert_eq!(format!("{:?}", Some(Signal::KILL)), "Some(SIGKILL)");
        assert_eq!(format!("{:>8}", Signal::HUP), "  SIGHUP");
        assert_eq!(Signal::STKFLT.to_string(), "SIGSTKFLT");
    }
}

//! Where a standard stream of a child goes.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

/// By number.
pub(super) const NAMES: [&str; 3] = ["stdin", "stdout", "stderr"];

/// A standard stream of a child.
///
/// Unlike [`std::process::Stdio`] it can be used for any number of starts, so it is `Clone`.
#[derive(Debug, Clone)]
pub struct Stdio(pub(super) Kind);

#[derive(Debug, Clone)]
pub(super) enum Kind {
    Inherit,
    Null,
    Piped,
    Captured,
    Append(PathBuf),
    Fd(Arc<OwnedFd>),
}

impl Stdio {
    /// The stream of this program. The default of stdout and stderr.
    pub fn inherit() -> Stdio {
        Stdio(Kind::Inherit)
    }

    /// `/dev/null`. The default of stdin, since a child in a group of its own that reads the terminal would be
    /// stopped by SIGTTIN.
    pub fn null() -> Stdio {
        Stdio(Kind::Null)
    }

    /// A pipe whose other end [`Process::stdin`](crate::Process::stdin), `stdout` or `stderr` hands out.
    ///
    /// It is for the program to read or write: a child blocks on a full pipe that nobody reads.
    pub fn piped() -> Stdio {
        Stdio(Kind::Piped)
    }

    /// Read by pkit: into a bounded buffer, and in lines to `on_line`, to `log` (target `pkit::output`, level
    /// debug, if that was enabled when the process was built) and to
    /// [`Process::wait_for_line`](crate::Process::wait_for_line). For stdout and stderr only.
    ///
    /// What is captured does not appear on the terminal any more. To see it, print it in
    /// [`Builder::on_line`](crate::Builder::on_line), or ask for [`Process::output`](crate::Process::output) or the log.
    ///
    /// The order of the lines of one stream is kept, that between the two streams is not.
    pub fn captured() -> Stdio {
        Stdio(Kind::Captured)
    }

    /// A file that is appended to, and created with mode 0666 less the umask if it is not there. It is opened at
    /// each start, with this program's rights and relative to its directory, so a log file that was moved away is made
    /// anew. For stdin the file is read from its beginning, and has to be there.
    pub fn file(path: impl Into<PathBuf>) -> Stdio {
        Stdio(Kind::Append(path.into()))
    }
}

impl From<OwnedFd> for Stdio {
    /// The child gets a copy. This one stays open here, for the starts to come, as long as the process has handles.
    fn from(fd: OwnedFd) -> Stdio {
        Stdio(Kind::Fd(Arc::new(fd)))
    }
}

impl From<File> for Stdio {
    fn from(file: File) -> Stdio {
        Stdio::from(OwnedFd::from(file))
    }
}

//! Why a supervisor gave up.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::exit::Exit;
use crate::policy::GiveUp;
use crate::readable::Readable;

/// Why a [`Supervisor`](crate::Supervisor) stopped all of its children by itself.
///
/// `Display` names the child, what the matter was with it, and how it ended last, for example
/// ``its child `api` was given up (more than 8 restarts within 60 s): exit code 3 after 12 ms``.
#[derive(Debug, Clone)]
pub struct Failure(Arc<Inside>);

#[derive(Debug)]
struct Inside {
    child: Arc<str>,
    what: What,
    cause: Option<Cause>,
}

#[derive(Debug)]
pub(crate) enum What {
    /// It was not ready when all were started.
    NotStarted,
    /// Its policy gave up.
    GaveUp(Option<GiveUp>),
    /// Its restart would have been one more than the intensity.
    TooMany { restarts: u32, within: Duration },
}

/// How the child ended last.
#[derive(Debug)]
pub(crate) enum Cause {
    Exit(Exit),
    NotCreated(Error),
    /// Of a child that is a supervisor.
    Failure(Failure),
}

impl Failure {
    pub(crate) fn new(child: Arc<str>, what: What, cause: Option<Cause>) -> Failure {
        Failure(Arc::new(Inside { child, what, cause }))
    }

    /// The name of the child with which it began.
    pub fn child(&self) -> &str {
        &self.0.child
    }

    /// The same of that child, where it is a supervisor itself.
    pub fn below(&self) -> Option<&Failure> {
        match &self.0.cause {
            Some(Cause::Failure(failure)) => Some(failure),
            Some(Cause::Exit(_) | Cause::NotCreated(_)) | None => None,
        }
    }

    /// How that child ended last, where it ran; of a supervisor, how the one did with which it began.
    pub fn exit(&self) -> Option<&Exit> {
        match &self.0.cause {
            Some(Cause::Exit(exit)) => Some(exit),
            Some(Cause::Failure(failure)) => failure.exit(),
            Some(Cause::NotCreated(_)) | None => None,
        }
    }

    /// It was the start that failed: not all of its children became ready.
    pub fn is_start(&self) -> bool {
        matches!(self.0.what, What::NotStarted)
    }

    /// There were more restarts than the [intensity](crate::SupervisorBuilder::intensity) of the supervisor allows.
    pub fn is_too_many(&self) -> bool {
        matches!(self.0.what, What::TooMany { .. })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inside { child, what, cause } = &*self.0;
        match what {
            What::NotStarted => write!(f, "its child `{child}` did not become ready")?,
            What::GaveUp(None) => write!(f, "its child `{child}` was given up")?,
            What::GaveUp(Some(why)) => write!(f, "its child `{child}` was given up ({why})")?,
            What::TooMany { restarts, within } => {
                let plural = if *restarts == 1 { "" } else { "s" };
                let within = Readable(*within);
                write!(
                    f,
                    "more than {restarts} restart{plural} within {within}, the last that of its child `{child}`"
                )?;
            }
        }
        match cause {
            Some(Cause::Exit(exit)) => write!(f, ": {exit}"),
            Some(Cause::NotCreated(error)) => write!(f, ": {error}"),
            Some(Cause::Failure(failure)) => write!(f, ": {failure}"),
            None => Ok(()),
        }
    }
}

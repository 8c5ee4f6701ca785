//! Functions as what a process runs.

use std::any::{Any, type_name};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Termination;
use std::sync::{Arc, Mutex};

use postcard::ser_flavors::StdVec;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::client;
use super::server::{Work, unasked};
use crate::error::{Error, Kind, Result, Who};
use crate::process::{Make, Target, exit_code};
use crate::shared_bytes;
use crate::sys::blob::Blob;
use crate::sys::image::{Argument, Entry, Image, the_only};
use crate::sys::locked;
use crate::sys::spawn::{Child, Creator, Failure, Setup};

/// What a process of its own runs, with what it needs to know: an alternative to a function and its argument.
///
/// A value of it is sent to the process, and there [`run`](Run::run) is called. [`Process::new`](crate::Process::new) takes the value itself.
///
/// # Example
///
/// ```
/// use pkit::{Process, Run};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Resize {
///     path: String,
///     width: u32,
/// }
///
/// impl Run for Resize {
///     type Output = Result<(), String>;
///
///     fn run(self) -> Result<(), String> {
///         if self.width == 0 { Err(format!("{} cannot be that narrow", self.path)) } else { Ok(()) }
///     }
/// }
///
/// let process = Process::new(Resize { path: "a.png".into(), width: 80 });
/// process.start(true)?;
/// assert!(process.join()?.success());
/// # Ok::<(), pkit::Error>(())
/// ```
pub trait Run: Serialize + DeserializeOwned {
    /// What it gives: its exit code, as from `main`.
    type Output: Termination;

    /// Does the work, in the process.
    fn run(self) -> Self::Output;
}

impl<R: Run> From<R> for Target {
    fn from(run: R) -> Target {
        Target::code(Function::new(type_name::<R>(), run_entry::<R>, encode(&run)))
    }
}

impl Target {
    /// A function of this program and its argument, in a process of its own.
    ///
    /// `function` is a function item, or a closure that captures nothing: what it needs to know is its argument (several travel as
    /// a tuple), which is sent to the process. Its result is the exit code, as from `main`; after a panic it is 101 (SIGABRT in a program built
    /// with `panic = "abort"`), with the message on its stderr. At its end what was printed is flushed, and what was registered with `atexit` runs.
    ///
    /// The process is a copy of the *fork server*: this same executable, started once, at the first use, which never comes to its `main`. So it costs the
    /// same however much memory and however many threads this program has. It has no threads of this program, none of its memory and
    /// none of its statics but as they are before `main` (and as [`preload`](crate::preload) made them); it has the environment,
    /// directory, umask, limits and ignored signals that this program has at the moment of the start; and every option of
    /// [`Builder`](crate::Builder) holds for it as for a command. The nice value, cores and namespaces are those of the server, unless
    /// an option sets them.
    ///
    /// # Errors
    ///
    /// At the start: the argument cannot be encoded (it has to be data: maps with other keys than text are fine, what refuses to be
    /// serialized is not); the function is in a shared object and not in the executable (a plugin, a Python extension: use
    /// [`Target::fork`], or a [`Command`](crate::Command)); the server cannot be started, or does not answer.
    ///
    /// # Example
    ///
    /// ```
    /// use pkit::{Process, Target};
    ///
    /// fn sum(numbers: Vec<u8>) -> std::process::ExitCode {
    ///     std::process::ExitCode::from(numbers.iter().sum::<u8>())
    /// }
    ///
    /// let process = Process::new(Target::function(sum, vec![1, 2, 3]));
    /// process.start(true)?;
    /// assert_eq!(process.join()?.code(), Some(6));
    /// # Ok::<(), pkit::Error>(())
    /// ```
    ///
    /// What a closure captures would stay behind:
    ///
    /// ```compile_fail
    /// let numbers = vec![1, 2, 3];
    /// pkit::Target::function(|()| println!("{numbers:?}"), ());
    /// ```
    ///
    /// A captured value of a type without size is not refused, and is made anew in the other process: a marker that proves something of
    /// this process, or of one of its threads, proves nothing there.
    pub fn function<F, A, T>(function: F, argument: A) -> Target
    where
        F: Fn(A) -> T + Copy,
        A: Serialize + DeserializeOwned,
        T: Termination,
    {
        captures_nothing(function);
        Target::code(Function::new(type_name::<F>(), function_entry::<F, A, T>, encode(&argument)))
    }
}

/// Runs a function once in the fork server, which is started if it does not run yet: what it builds in statics is there in every process of a function
/// that is started from then on, shared until one of them writes to it. A server that takes over after another one runs it as well.
///
/// It waits for its end. What it changes else (directory, environment, descriptors) is not seen by the processes, which get this program's. (Where
/// this program may not enter its own directory, it is to stay there.)
///
/// # Errors
/// It panicked, or left threads behind, which no process would have; the server then ends, and the next start makes another. As for
/// [`Target::function`] else.
///
/// # Example
///
/// ```
/// use std::sync::OnceLock;
///
/// static TABLE: OnceLock<Vec<u64>> = OnceLock::new();
///
/// pkit::preload(|| {
///     TABLE.get_or_init(|| (0..1000).map(|n| n * n).collect());
/// })?;
/// let process = pkit::Process::new(pkit::Target::function(
///     |n: usize| assert_eq!(TABLE.get().expect("it was preloaded")[n], 49),
///     7,
/// ));
/// process.start(true)?;
/// assert!(process.join()?.success());
/// # Ok::<(), pkit::Error>(())
/// ```
pub fn preload<F: Fn() + Copy>(function: F) -> Result<()> {
    captures_nothing(function);
    let entry: Entry = preload_entry::<F>;
    place_of(entry).and_then(client::preload).map_err(|source| {
        let step = "run it in the fork server".to_owned();
        Error::new(Who { name: short(type_name::<F>()).into(), pid: None }, "preload", Kind::Start { step, source })
    })
}

/// A compile error where a function is more than code.
pub(crate) fn captures_nothing<F>(_: F) {
    const {
        assert!(
            size_of::<F>() == 0,
            "this closure captures a variable, which stays in this process: let it be the argument instead, `|x| ..` and `x` \
             (of a function pointer: name the function itself)"
        );
    }
}

fn function_entry<F, A, T>(argument: Argument<'_>, _: &mut dyn Any) -> i32
where
    F: Fn(A) -> T + Copy,
    A: DeserializeOwned,
    T: Termination,
{
    exit_code(the_only::<F>()(decoded(argument)).report())
}

fn run_entry<R: Run>(argument: Argument<'_>, _: &mut dyn Any) -> i32 {
    exit_code(decoded::<R>(argument).run().report())
}

fn preload_entry<F: Fn() + Copy>(_: Argument<'_>, _: &mut dyn Any) -> i32 {
    the_only::<F>()();
    0
}

/// An argument of its own, encoded.
#[derive(Default)]
pub(crate) struct Packed {
    bytes: Vec<u8>,
    blobs: Vec<Arc<Blob>>,
}

fn encode(argument: &impl Serialize) -> Result<Packed, String> {
    let (bytes, blobs) = shared_bytes::packing(StdVec::new(), argument);
    let bytes = bytes.map_err(|error| format!("its argument cannot be encoded: {error}"))?;
    Ok(Packed { bytes, blobs })
}

/// # Errors
/// In words.
pub(crate) fn decode_argument<A: DeserializeOwned>(argument: Argument<'_>) -> Result<A, String> {
    shared_bytes::unpacking(argument.bytes, argument.blobs)
        .map_err(|error| format!("its argument cannot be decoded: {error}"))
}

fn decoded<A: DeserializeOwned>(argument: Argument<'_>) -> A {
    decode_argument(argument).unwrap_or_else(|why| panic!("{why}"))
}

/// Where a function begins in the executable.
pub(crate) fn place_of(entry: Entry) -> io::Result<u64> {
    let place = Image::get().offset_of(entry as *const ()).ok_or_else(|| {
        let why = "it is in a shared object, and the executable is another program, which is not executed for it: \
                   use `Target::fork` or a command";
        io::Error::new(io::ErrorKind::Unsupported, why)
    })?;
    Ok(place as u64)
}

/// A function, and its argument.
pub(crate) struct Function {
    name: &'static str,
    entry: Entry,
    argument: Result<Packed, String>,
    /// For one run.
    channel: Mutex<Option<OwnedFd>>,
}

impl Function {
    pub(crate) fn new(name: &'static str, entry: Entry, argument: Result<Packed, String>) -> Function {
        Function { name, entry, argument, channel: Mutex::default() }
    }

    /// `entry` calls `function`.
    ///
    /// # Errors
    /// In words: the argument cannot be encoded.
    pub(crate) fn of<F>(function: F, entry: Entry, argument: &impl Serialize) -> Result<Function, String> {
        captures_nothing(function);
        Ok(Function::new(type_name::<F>(), entry, Ok(encode(argument)?)))
    }

    /// What the next run can answer by.
    pub(crate) fn with_channel(self, channel: OwnedFd) -> Function {
        Function { channel: Mutex::new(Some(channel)), ..self }
    }

    pub(crate) fn into_target(self) -> Target {
        Target::code(self)
    }
}

/// Something that was not started, for want of what it is connected by.
pub(crate) fn not_started(name: &str, source: io::Error) -> Error {
    let step = "connect it to this program".to_owned();
    Error::new(Who { name: short(name).into(), pid: None }, "start", Kind::Start { step, source })
}

impl Make for Function {
    fn name(&self) -> String {
        short(self.name)
    }

    fn describe(&self) -> String {
        format!("Target::function({})", self.name)
    }

    fn make(&self, setup: &Setup, environment: Vec<CString>, _: Creator<'_>) -> Result<Child, Failure> {
        let argument = self.argument.as_ref();
        let argument = argument.map_err(|why| unasked(io::Error::new(io::ErrorKind::InvalidInput, why.clone())))?;
        let argument = Argument { bytes: &argument.bytes, blobs: argument.blobs.clone() };
        let entry = place_of(self.entry).map_err(unasked)?;
        let channel = locked(&self.channel).take();
        let work = Work { entry, argument, channel: channel.as_ref().map(AsRawFd::as_raw_fd) };
        let environment: Vec<&[u8]> = environment.iter().map(|entry| entry.as_bytes_with_nul()).collect();
        client::start(setup, &environment.concat(), &work)
    }
}

/// `a::b::c` is called `c`; of a closure the function that it is in.
fn short(name: &str) -> String {
    let name = name.split('<').next().unwrap_or(name);
    name.rsplit("::").find(|part| !part.starts_with('{')).unwrap_or(name).to_owned()
}

//! The fork server, and what becomes of its copies.

use std::env;
use std::io;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::order::{self, Answer, Order, Payload, Received, Request, VARIABLE};
use super::server::unasked;
use crate::sys;
use crate::sys::blob::Blob;
use crate::sys::channel::Channel;
use crate::sys::image::{Argument, Image};
use crate::sys::sibling::{Copied, Origin, Settling, Side};
use crate::sys::spawn::{Failure, Setup, Step};

crate::sys::entry::before_main!(ENTRY, begin);

/// What the exit code of a Rust program is when its main thread panics.
const PANICKED: i32 = 101;

/// Before `main`, of every program: nothing but a look, unless it was started to be a fork server.
fn begin() {
    let Some(number) = env::var(VARIABLE).ok().and_then(|number| number.parse().ok()) else { return };
    let Some(socket) = sys::entry::socket_of_parent(number) else { return };
    // Whatever happens, `main` is not for this process.
    let _ = catch_unwind(AssertUnwindSafe(|| serve(Channel::from(socket))));
    sys::process::leave(1);
}

/// Returns when nobody will ask any more.
fn serve(requests: Channel) -> Option<()> {
    // For good: a copy takes its signals when it is set up.
    std::mem::forget(sys::process::block_all_signals());
    sys::process::take_name_of_executable();
    // What comes for a copy finds a place, whatever the limit is that it gets.
    sys::standing::allow_all_descriptors();
    let mut ignored = sys::standing::Standing::now().ok()?.ignored;
    let mut origin = Origin::new().ok()?;
    // Until something of the program has run in it there are none.
    let mut has_handlers = false;
    let identity = Image::get().identity().ok()?;
    order::send(&requests, &Answer::Ready { identity }, &[]).ok()?;
    loop {
        let mut message = requests.receive().ok()??;
        let answers = Channel::from(message.descriptors.pop()?);
        let answer = match order::decode(&message).ok()? {
            Request::Fork => match origin.copy() {
                Ok(Side::Copy(copied)) => {
                    // While this waits the server may end, and who asks it is to hear of that.
                    drop(requests);
                    // It is its starter's to reap, also if the server is killed before it can tell.
                    let _ = order::send(&answers, &Answer::Copied { pid: sys::process::thread_id() }, &[]);
                    origin.warm_up();
                    live(copied, answers, Inherited { ignored, has_handlers })
                }
                Ok(Side::Original { pid, pidfd }) => {
                    // Who asked may be gone by now.
                    let _ = order::send(&answers, &Answer::Copied { pid }, &[pidfd.as_raw_fd()]);
                    continue;
                }
                Err(error) => {
                    Answer::Failed { step: Step::Create, errno: error.raw_os_error().unwrap_or(libc::EAGAIN) }
                }
            },
            Request::Preload { entry } => match preload(entry) {
                Ok((anew, now_ignored)) => {
                    (origin, ignored, has_handlers) = (anew, now_ignored, true);
                    Answer::Done
                }
                Err(why) => Answer::Refused { why },
            },
            Request::Ping => Answer::Done,
        };
        let _ = order::send(&answers, &answer, &[]);
    }
}

/// Runs a function in the server itself. Which signals are ignored by now.
fn preload(entry: u64) -> Result<(Origin, u64), String> {
    let call = || Image::get().call(entry as usize, Argument::default(), &mut ());
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Some(0)) => {}
        Ok(Some(_)) | Err(_) => return Err("it panicked; its message is on the standard error of the program".into()),
        Ok(None) => return Err("there is no such function".into()),
    }
    let standing = sys::standing::Standing::now().map_err(|error| error.to_string())?;
    let origin = Origin::new();
    let origin = origin.map_err(|error| format!("it left threads behind, which no copy would have: {error}"))?;
    Ok((origin, standing.ignored))
}

/// The life of a copy.
fn live(copied: Copied, starter: Channel, inherited: Inherited) -> ! {
    let Received { order, descriptors, blobs, payload } = match Order::receive(&starter) {
        Ok(Some(received)) => received,
        // Who asked for it needs it no more.
        Ok(None) => sys::process::leave(0),
        Err(error) => fail(&starter, &unasked(error)),
    };
    // Where there is no other number for it, its hang-up says enough.
    let Ok(starter) = order.setup.beside(starter.into()) else { sys::process::leave(127) };
    let starter = Channel::from(starter);
    let blobs: Vec<Arc<Blob>> = match blobs.into_iter().map(|fd| received(fd, &order.setup)).collect() {
        Ok(blobs) => blobs,
        Err(error) => fail(&starter, &unasked(error)),
    };
    let entry = order.entry;
    let files = blobs.iter().filter_map(|blob| blob.file());
    let keep: Vec<RawFd> = files.map(|file| file.as_raw_fd()).chain([starter.as_fd().as_raw_fd()]).collect();
    // The environment stays where it came.
    let payload: &'static Payload = Box::leak(Box::new(payload));
    let mut channel = match settle(copied, *order, payload.environment(), descriptors, keep, inherited) {
        Ok(settled) => settled,
        Err(failure) => fail(&starter, &failure),
    };
    // Where that is not heard, it has not begun.
    if order::send(&starter, &Answer::Settled, &[]).is_err() {
        sys::process::leave(127);
    }
    drop(starter);
    let argument = Argument { bytes: payload.argument(), blobs };
    let call = || Image::get().call(entry as usize, argument, &mut channel);
    let code = catch_unwind(AssertUnwindSafe(call)).map_or(PANICKED, |code| code.unwrap_or(PANICKED));
    // What was written without a newline is flushed, by Rust and by C.
    std::process::exit(code)
}

/// A part of the argument, where no descriptor of the function's comes.
fn received(fd: OwnedFd, setup: &Setup) -> io::Result<Arc<Blob>> {
    Blob::open(setup.beside(fd)?).map_err(|(error, _)| error)
}

fn fail(starter: &Channel, failure: &Failure) -> ! {
    let errno = failure.error.raw_os_error().unwrap_or(libc::EINVAL);
    let _ = order::send(starter, &Answer::Failed { step: failure.step, errno }, &[]);
    sys::process::leave(127)
}

/// What a copy has of the server.
struct Inherited {
    ignored: u64,
    has_handlers: bool,
}

/// Makes the copy what it was ordered to be; of its own descriptors it keeps those, and the function's channel, which it gives.
fn settle(
    copied: Copied,
    order: Order,
    environment: &'static [u8],
    descriptors: Vec<OwnedFd>,
    mut keep: Vec<RawFd>,
    inherited: Inherited,
) -> Result<Option<OwnedFd>, Failure> {
    let mut setup = order.setup;
    let mut descriptors: Vec<Option<OwnedFd>> = descriptors.into_iter().map(Some).collect();
    let channel = order.channel.and_then(|place| descriptors.get_mut(place)?.take());
    let channel = channel.map(|fd| setup.beside(fd)).transpose().map_err(unasked)?;
    keep.extend(channel.as_ref().map(AsRawFd::as_raw_fd));
    let directory = order.directory.and_then(|place| descriptors.get_mut(place)?.take());
    let number = |place: RawFd| {
        let fd = usize::try_from(place).ok().and_then(|place| descriptors.get(place)?.as_ref());
        fd.map_or(-1, AsRawFd::as_raw_fd)
    };
    setup.cgroup = setup.cgroup.map(number);
    setup.fds.iter_mut().for_each(|(source, _)| *source = number(*source));
    let settling = Settling {
        setup: &setup,
        environment,
        directory,
        ignored: (inherited.ignored, order.ignored),
        has_handlers: inherited.has_handlers,
        keep: &keep,
    };
    // From here on they are not ours to close: they are closed, or where they belong.
    descriptors.into_iter().flatten().for_each(|fd| _ = fd.into_raw_fd());
    copied.settle(settling)?;
    Ok(channel)
}

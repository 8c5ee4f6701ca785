//! The other side of [`Ready::notify`](crate::Ready::notify): a process that says that it is ready.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use crate::error::{Error, Kind, Result, Who};

/// Tells whoever supervises this process that it is ready: pkit ([`Ready::notify`](crate::Ready::notify)), systemd
/// (`Type=notify`), or another that gives its children a `NOTIFY_SOCKET` (sd_notify(3)).
///
/// To be called in the process itself: a function of [`Target::function`](crate::Target::function) or
/// [`Target::fork`](crate::Target::fork), or a program of its own. Where nobody wants to know, nothing happens. The variable is left as it
/// is: processes that this one starts have it as well.
///
/// # Errors
/// `NOTIFY_SOCKET` names no socket, or nobody receives from it.
///
/// # Example
///
#[cfg_attr(feature = "tasks", doc = "```")]
#[cfg_attr(not(feature = "tasks"), doc = "```ignore")]
/// use pkit::{Process, Ready, State, Target};
///
/// fn serve(_port: u16) {
///     // … bind, load, warm up …
///     pkit::ready().expect("it was started with a socket");
///     std::thread::park();
/// }
///
/// let server = Process::builder(Target::function(serve, 8080)).ready(Ready::notify()).build()?;
/// server.start(true)?; // returns when the function has called `ready`
/// assert_eq!(server.state(), State::Ready);
/// # server.kill(true)?;
/// # Ok::<(), pkit::Error>(())
/// ```
pub fn ready() -> Result<()> {
    say(b"READY=1").map_err(|source| {
        let step = "send READY=1 to NOTIFY_SOCKET".to_owned();
        Error::new(
            Who { name: "this process".into(), pid: Some(std::process::id()) },
            "be ready",
            Kind::Start { step, source },
        )
    })
}

fn say(message: &[u8]) -> io::Result<()> {
    let Some(place) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let address = match place.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(&place)?,
    };
    let sent = UnixDatagram::unbound()?.send_to_addr(message, &address)?;
    if sent == message.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

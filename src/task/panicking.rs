//! What a panic had to say.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::Once;

use serde::{Deserialize, Serialize};

use super::error::TaskError;
use crate::sys::for_thread::ForThread;

/// A panic, told.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Told {
    pub(super) message: String,
    pub(super) location: Option<String>,
    pub(super) backtrace: Option<String>,
}

impl Told {
    pub(super) fn into_error(self) -> TaskError {
        let Told { message, location, backtrace } = self;
        TaskError::Panicked { message, location, backtrace }
    }
}

thread_local! {
    /// Whoever called [`caught`] on this thread hears of a panic; standard error does not.
    static IS_HEARD: Cell<bool> = const { Cell::new(false) };
    static TOLD: ForThread<Option<Told>> = const { ForThread::new(None) };
}

/// Calls what may panic. Where and with what, only the panic hook gets to know: ours comes before the program's from the first call on, and has that one
/// do what it does for all panics but those in here.
pub(super) fn caught<R>(call: impl FnOnce() -> R) -> Result<R, Told> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| if IS_HEARD.get() { keep(info) } else { before(info) }));
    });
    let outer = IS_HEARD.replace(true);
    take();
    let result = panic::catch_unwind(AssertUnwindSafe(call));
    IS_HEARD.set(outer);
    let told = take();
    result.map_err(|payload| {
        let message = text(&*payload);
        // What was kept may be of a panic that the function caught itself; and a program may have set a hook of its own meanwhile.
        let told = told.filter(|told| told.message == message);
        let told = told.unwrap_or(Told { message, location: None, backtrace: None });
        // Its drop could panic again.
        std::mem::forget(payload);
        told
    })
}

fn keep(info: &PanicHookInfo<'_>) {
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| cut(&backtrace.to_string()));
    let (message, location) = (text(info.payload()), info.location().map(ToString::to_string));
    TOLD.with(|current| current.replace(Some(Told { message, location, backtrace })));
}

fn take() -> Option<Told> {
    TOLD.with(|current| current.replace(None))
}

fn text(payload: &dyn Any) -> String {
    let message = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref().map(String::as_str));
    cut(message.unwrap_or("with something that is no text"))
}

/// Far more than anybody reads, and less than a message may have.
fn cut(text: &str) -> String {
    const MOST_TEXT: usize = 16 * 1024;
    text.char_indices().take_while(|(at, _)| *at < MOST_TEXT).map(|(_, letter)| letter).collect()
}

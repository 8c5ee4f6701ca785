//! Objects that stay in a worker.

use std::any::{Any, type_name};
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard};

use serde::de::{DeserializeOwned, Error as _};
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::home::{Home, Queued};
use super::host::{Host, answering};
use super::wire::Lane;
use crate::forkserver::{captures_nothing, decode_argument};
use crate::sys::for_thread::ForThread;
use crate::sys::image::{Argument, the_only};
use crate::sys::locked;
use crate::task::error::TaskError;
use crate::task::handle::Ended;
use crate::task::outcome::{self, Encoded};

/// An object that stays in the worker that made it, by [`Worker::hold`](crate::Worker::hold).
///
/// It is a handle: clones are the same object, from any thread. When the last one is dropped (and no task has it any more) the object is, in its worker;
/// at the latest when the worker ends.
///
/// # As an argument
///
/// Given to a function of the same worker, alone or within something else, it arrives as the object itself: there
/// [`with`](Remote::with) and [`lock`](Remote::lock) get at it directly. Given to another worker it is a [`TaskError::Codec`].
///
/// # Example
///
/// ```
/// use pkit::{Remote, TaskError, Worker};
///
/// let worker = Worker::new()?;
/// let table: Remote<Vec<u64>> = worker.hold(|n: u64| (0..n).collect(), 1_000)?;
/// assert_eq!(table.with(|table, ()| table.iter().sum::<u64>(), ())?, 499_500);
///
/// fn nth((table, n): (Remote<Vec<u64>>, usize)) -> u64 {
///     table.lock()[n]
/// }
/// assert_eq!(worker.invoke(nth, (table.clone(), 7))?, 7);
/// # Ok::<(), TaskError>(())
/// ```
pub struct Remote<T> {
    place: Place<T>,
}

enum Place<T> {
    /// In this worker.
    Here(Arc<Mutex<T>>),
    Away {
        object: Arc<Object>,
        kind: PhantomData<fn() -> T>,
    },
}

/// That somebody outside of the worker has it.
pub(super) struct Object {
    home: Arc<dyn Home>,
    id: u64,
}

impl Drop for Object {
    fn drop(&mut self) {
        self.home.drop_object(self.id);
    }
}

thread_local! {
    /// What a remote object means, encoded or decoded on this thread at this moment.
    static CONTEXT: ForThread<Context> = const { ForThread::new(Context::Nowhere) };
}

enum Context {
    Nowhere,
    /// It goes to this home, and these have been met; or one of another home.
    Sent {
        home: u64,
        kept: Vec<Arc<Object>>,
        /// Why it cannot go there.
        trouble: Option<TaskError>,
    },
    /// Inside of a worker.
    Within(Arc<Host>),
}

fn replace(context: Context) -> Context {
    CONTEXT.with(|current| current.replace(context))
}

/// Puts back what was before, also after a panic.
struct Before(Context);

impl Before {
    fn enter(context: Context) -> Before {
        Before(replace(context))
    }
}

impl Drop for Before {
    fn drop(&mut self) {
        let before = std::mem::replace(&mut self.0, Context::Nowhere);
        drop(replace(before));
    }
}

const STRANGE: &str = "a remote object can only be given to functions of the worker that it is in";

/// Calls what runs inside of a worker.
pub(super) fn within<R>(host: &Arc<Host>, call: impl FnOnce() -> R) -> R {
    let _before = Before::enter(Context::Within(Arc::clone(host)));
    call()
}

/// An argument, and the objects in it.
pub(super) type Sent = (Encoded, Vec<Arc<Object>>);

/// Encodes an argument for that home.
pub(super) fn encode(home: &dyn Home, argument: &impl Serialize) -> Result<Sent, TaskError> {
    let before = Before::enter(Context::Sent { home: home.id(), kept: Vec::new(), trouble: None });
    let encoded = outcome::encode(Vec::new(), argument);
    let (kept, trouble) = match replace(Context::Nowhere) {
        Context::Sent { kept, trouble, .. } => (kept, trouble),
        Context::Nowhere | Context::Within(_) => (Vec::new(), None),
    };
    drop(before);
    // (What an error of serde's says does not come through `postcard`.)
    let why = |why| trouble.unwrap_or_else(|| TaskError::Codec(format!("its argument cannot be encoded: {why}")));
    let encoded = encoded.map_err(why)?;
    Ok((encoded, kept))
}

impl<T: Send + 'static> Remote<T> {
    pub(super) fn new(home: Arc<dyn Home>, id: u64) -> Remote<T> {
        Remote { place: Place::Away { object: Arc::new(Object { home, id }), kind: PhantomData } }
    }

    /// The object, for who is in its worker; else who can ask for it.
    fn get(&self) -> Result<Arc<Mutex<T>>, &Arc<Object>> {
        match &self.place {
            Place::Here(object) => Ok(Arc::clone(object)),
            Place::Away { object, .. } => object.if_here().ok_or(object),
        }
    }

    /// Calls a function with the object, and waits for its value. It runs in the worker, after what was queued before.
    ///
    /// `function` is a function item, or a closure that captures nothing; it has the object to itself while it runs. Called in the worker itself
    /// (on a thread that it runs functions on), it is called directly, and waits for nobody but who has the object at the moment: who
    /// has it himself waits for ever.
    ///
    /// # Errors
    /// [`TaskError::Crashed`]: the worker has ended ([`TaskError::Cancelled`]: it was stopped, or it was a thread). The others are those of [`Worker::invoke`](crate::Worker::invoke).
    pub fn with<F, A, R>(&self, function: F, argument: A) -> Result<R, TaskError>
    where
        F: Fn(&mut T, A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        captures_nothing(function);
        match self.get() {
            Ok(object) => Ok(function(&mut locked(&object), argument)),
            Err(object) => object.call(with_entry::<F, T, A, R>, &argument)?.decode(),
        }
    }

    /// The object itself, to whoever is in its worker: a function of that worker that was given this. It waits until nobody else has it.
    ///
    /// # Panics
    /// Anywhere else: there is no object here.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        match &self.place {
            Place::Here(object) => locked(object),
            Place::Away { object, .. } => {
                panic!("this `Remote<{}>` is not here, but in the worker `{}`", type_name::<T>(), object.home.name())
            }
        }
    }

    /// Fetches the object: a copy of it, if others have it as well.
    ///
    /// # Errors
    /// As for [`with`](Remote::with).
    pub fn into_inner(self) -> Result<T, TaskError>
    where
        T: Serialize + DeserializeOwned,
    {
        match self.get() {
            Ok(object) => {
                let encoded = postcard::to_stdvec(&*locked(&object));
                encoded
                    .and_then(|bytes| postcard::from_bytes(&bytes))
                    .map_err(|error| TaskError::Codec(error.to_string()))
            }
            Err(object) => object.call(fetch_entry::<T>, &())?.decode(),
        }
    }
}

impl Object {
    /// On a thread that is its worker: what a static there has, for one, was never decoded, and would wait behind who asks.
    fn if_here<T: Send + 'static>(&self) -> Option<Arc<Mutex<T>>> {
        let host = current_host().filter(|host| self.home.host().is_some_and(|its| Arc::ptr_eq(its, host)))?;
        find(&host, self.id).ok()
    }

    fn call(self: &Arc<Self>, entry: crate::sys::image::Entry, argument: &impl Serialize) -> Ended {
        let (argument, mut kept) = encode(&*self.home, &(self.id, argument))?;
        kept.push(Arc::clone(self));
        Queued::new(&self.home, Lane::Ordered, entry, argument, kept).end()
    }
}

/// The inside of the worker that this thread is of.
fn current_host() -> Option<Arc<Host>> {
    CONTEXT.with(|current| {
        current.with(|context| match context {
            Context::Within(host) => Some(Arc::clone(host)),
            Context::Nowhere | Context::Sent { .. } => None,
        })
    })
}

fn find<T: Send + 'static>(host: &Host, id: u64) -> Result<Arc<Mutex<T>>, String> {
    let object = host.object(id).and_then(|object| object.downcast::<Mutex<T>>().ok());
    object.ok_or_else(|| format!("there is no such object of type `{}` in this worker", type_name::<T>()))
}

fn with_entry<F, T, A, R>(argument: Argument<'_>, call: &mut dyn Any) -> i32
where
    F: Fn(&mut T, A) -> R + Copy + Send + 'static,
    T: Send + 'static,
    A: DeserializeOwned,
    R: Serialize,
{
    answering(call, |call| {
        let host = call.host();
        call.answer(|| {
            let (id, argument): (u64, A) = decode_argument(argument)?;
            let object = find::<T>(&host, id)?;
            let value = the_only::<F>()(&mut locked(&object), argument);
            Ok(value)
        });
    })
}

fn fetch_entry<T: Serialize + Send + 'static>(argument: Argument<'_>, call: &mut dyn Any) -> i32 {
    answering(call, |call| {
        let host = call.host();
        call.answer(|| {
            let (id, ()): (u64, ()) = decode_argument(argument)?;
            Ok(Fetched(find::<T>(&host, id)?))
        });
    })
}

/// Encoded as what is in it.
struct Fetched<T>(Arc<Mutex<T>>);

impl<T: Serialize> Serialize for Fetched<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        locked(&self.0).serialize(serializer)
    }
}

impl<T> Serialize for Remote<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // (Inside of its worker it has no number that means anything to anybody.)
        let away = match &self.place {
            Place::Away { object, .. } => Some(object),
            Place::Here(_) => None,
        };
        let id = CONTEXT.with(|current| {
            current.with(|context| match (context, away) {
                (Context::Sent { home, kept, .. }, Some(object)) if *home == object.home.id() => {
                    kept.push(Arc::clone(object));
                    Some(object.id)
                }
                (Context::Sent { trouble, .. }, away) => {
                    let ended = away.and_then(|object| object.home.over());
                    *trouble = Some(ended.unwrap_or_else(|| TaskError::Codec(STRANGE.to_owned())));
                    None
                }
                (Context::Nowhere | Context::Within(_), _) => None,
            })
        });
        id.ok_or_else(|| S::Error::custom(STRANGE))?.serialize(serializer)
    }
}

impl<'de, T: Send + 'static> Deserialize<'de> for Remote<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Remote<T>, D::Error> {
        let id = u64::deserialize(deserializer)?;
        let nowhere = || D::Error::custom("a remote object can only be got in the worker that it is in");
        let host = current_host().ok_or_else(nowhere)?;
        let object = find(&host, id).map_err(D::Error::custom)?;
        Ok(Remote { place: Place::Here(object) })
    }
}

impl<T> Clone for Remote<T> {
    fn clone(&self) -> Remote<T> {
        let place = match &self.place {
            Place::Here(object) => Place::Here(Arc::clone(object)),
            Place::Away { object, .. } => Place::Away { object: Arc::clone(object), kind: PhantomData },
        };
        Remote { place }
    }
}

impl<T> fmt::Debug for Remote<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let worker = match &self.place {
            Place::Here(_) => "here".to_owned(),
            Place::Away { object, .. } => object.home.name(),
        };
        f.debug_struct("Remote").field("kind", &type_name::<T>()).field("worker", &worker).finish_non_exhaustive()
    }
}

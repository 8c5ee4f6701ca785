//! Bytes that are in the memory of several processes, and travel between them without being copied.

use std::any::TypeId;
use std::fmt;
use std::io::{self, Read};
use std::ops::Deref;
use std::sync::Arc;

use postcard::{de_flavors, ser_flavors};
use serde::de::{DeserializeOwned, Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::sys::blob::{Blob, Growing};
use crate::sys::for_thread::ForThread;

/// Fewer are copied: a file and its mapping cost as much as to copy some hundred KiB, and both are limited.
const WORTH_A_FILE: usize = 256 * 1024;
/// So many go with one value, the others are copied: each takes a descriptor while it is on its way.
pub(crate) const MOST_BLOBS: usize = 16;

/// Bytes that functions in other processes get, and give back, without their being copied: for large arguments and values.
///
/// They do not change any more, and are read like a slice. Made once (which copies them), they can be passed to any number of functions, kept there,
/// and passed on or back: what goes through to the other process is a descriptor of the memory that they are in, to which all who have it come. So
/// they also take their place once, however many have them, until the last one drops them. Clones are cheap.
///
/// They are not changed in place: `let mut copy = bytes.to_vec()`, and `SharedBytes::from(copy)`. A part of them is passed as the whole and a range.
///
/// Those that are the argument of a [`Process`](crate::Process) are kept with it, for its next start.
///
/// From 256 KiB on they are in a file in memory (`memfd_create(2)`) that is sealed against every change. In each process that has it, that takes one
/// descriptor and one mapping. Shorter ones, those that are more than 16 in one value, and those for which there was no descriptor left when they were made, are copied like
/// a `Vec<u8>`. (Who gets them needs a free one: else the call fails with [`TaskError::Codec`](crate::TaskError).) Where they are serialized to something else than an argument or a value of this crate, they are bytes.
///
/// # Example
///
/// ```
/// use pkit::{SharedBytes, Worker};
///
/// fn ones(bytes: SharedBytes) -> usize {
///     bytes.iter().filter(|byte| **byte == 1).count()
/// }
///
/// let bytes = SharedBytes::from(vec![1; 10 << 20]);
/// let (a, b) = (Worker::new()?, Worker::new()?);
/// // Both read the same memory.
/// let (ours, theirs) = (a.schedule(ones, bytes.clone())?, b.schedule(ones, bytes)?);
/// assert_eq!(ours.wait()? + theirs.wait()?, 20 << 20);
/// # Ok::<(), pkit::TaskError>(())
/// ```
#[derive(Clone)]
pub struct SharedBytes(Place);

#[derive(Clone)]
enum Place {
    Here(Arc<[u8]>),
    InFile(Arc<Blob>),
}

impl From<&[u8]> for SharedBytes {
    fn from(bytes: &[u8]) -> SharedBytes {
        let file = if bytes.len() < WORTH_A_FILE { None } else { Blob::new(bytes).ok() };
        SharedBytes(match file {
            Some(blob) => Place::InFile(blob),
            None => Place::Here(Arc::from(bytes)),
        })
    }
}

impl SharedBytes {
    /// All that comes from there, a file say: it is never in memory a second time.
    ///
    /// # Errors
    /// Those of reading; of making a file in memory (EMFILE, ENOMEM).
    pub fn read_from(mut source: impl Read) -> io::Result<SharedBytes> {
        let mut first = Vec::new();
        source.by_ref().take(WORTH_A_FILE as u64).read_to_end(&mut first)?;
        if first.len() < WORTH_A_FILE {
            return Ok(SharedBytes::from(first));
        }
        let mut file = Growing::new()?;
        file.extend(&first)?;
        io::copy(&mut source, &mut file)?;
        let blob = Blob::open(file.finish()?).map_err(|(error, _)| error)?;
        Ok(SharedBytes(Place::InFile(blob)))
    }
}

impl<const N: usize> From<&[u8; N]> for SharedBytes {
    fn from(bytes: &[u8; N]) -> SharedBytes {
        SharedBytes::from(&bytes[..])
    }
}

impl From<Vec<u8>> for SharedBytes {
    fn from(bytes: Vec<u8>) -> SharedBytes {
        SharedBytes::from(bytes.as_slice())
    }
}

impl Default for SharedBytes {
    /// None.
    fn default() -> SharedBytes {
        SharedBytes::from(&[][..])
    }
}

impl Deref for SharedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Place::Here(bytes) => bytes,
            Place::InFile(blob) => blob,
        }
    }
}

impl AsRef<[u8]> for SharedBytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl PartialEq for SharedBytes {
    fn eq(&self, other: &SharedBytes) -> bool {
        **self == **other
    }
}

impl Eq for SharedBytes {}

impl PartialEq<[u8]> for SharedBytes {
    fn eq(&self, other: &[u8]) -> bool {
        **self == *other
    }
}

impl fmt::Debug for SharedBytes {
    /// How many they are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedBytes({} bytes)", self.len())
    }
}

/// What goes with the value that this thread encodes or decodes.
enum Luggage {
    /// It is none of this crate's.
    None,
    Packed {
        /// The type of what encodes it, if that is we: what a value encodes by other means while it is encoded is not ours.
        serializer: TypeId,
        blobs: Vec<Arc<Blob>>,
    },
    Unpacked(Vec<Arc<Blob>>),
}

thread_local! {
    static LUGGAGE: ForThread<Luggage> = const { ForThread::new(Luggage::None) };
}

/// Puts back what was there before: to encode is the user's code, which may encode something else meanwhile, or panic.
struct Before(Luggage);

impl Before {
    fn enter(luggage: Luggage) -> Before {
        Before(LUGGAGE.with(|current| current.replace(luggage)))
    }
}

impl Drop for Before {
    fn drop(&mut self) {
        let before = std::mem::replace(&mut self.0, Luggage::None);
        drop(LUGGAGE.with(|current| current.replace(before)));
    }
}

/// What our own encoding goes through, so that it can be told from others'.
struct Ours<F>(F);

impl<F: ser_flavors::Flavor> ser_flavors::Flavor for Ours<F> {
    type Output = F::Output;

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.try_push(byte)
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.try_extend(bytes)
    }

    fn finalize(self) -> postcard::Result<F::Output> {
        self.0.finalize()
    }
}

impl<'de, F: de_flavors::Flavor<'de>> de_flavors::Flavor<'de> for Ours<F> {
    type Remainder = F::Remainder;
    type Source = F::Source;

    fn pop(&mut self) -> postcard::Result<u8> {
        self.0.pop()
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }

    fn try_take_n(&mut self, count: usize) -> postcard::Result<&'de [u8]> {
        self.0.try_take_n(count)
    }

    fn finalize(self) -> postcard::Result<F::Remainder> {
        self.0.finalize()
    }
}

type Unpacker<'de> = postcard::Deserializer<'de, Ours<de_flavors::Slice<'de>>>;

/// Encodes a value. Also what is to go with it.
pub(crate) fn packing<F: ser_flavors::Flavor>(
    flavor: F,
    value: &impl Serialize,
) -> (postcard::Result<F::Output>, Vec<Arc<Blob>>) {
    let serializer = typeid::of::<&mut postcard::Serializer<Ours<F>>>();
    let _before = Before::enter(Luggage::Packed { serializer, blobs: Vec::new() });
    let encoded = postcard::serialize_with_flavor(value, Ours(flavor));
    match LUGGAGE.with(|current| current.replace(Luggage::None)) {
        Luggage::Packed { blobs, .. } => (encoded, blobs),
        Luggage::None | Luggage::Unpacked(_) => (encoded, Vec::new()),
    }
}

/// Decodes a value that came with those.
pub(crate) fn unpacking<T: DeserializeOwned>(bytes: &[u8], blobs: Vec<Arc<Blob>>) -> postcard::Result<T> {
    let _before = Before::enter(Luggage::Unpacked(blobs));
    T::deserialize(&mut Unpacker::from_flavor(Ours(de_flavors::Slice::new(bytes))))
}

/// How they are encoded in an argument or a value.
#[derive(Serialize, Deserialize)]
enum Form<Bytes> {
    Copied(Bytes),
    /// The place in the luggage.
    Packed(usize),
}

struct Plain<'a>(&'a [u8]);

impl Serialize for Plain<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

impl Serialize for SharedBytes {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let form = LUGGAGE.with(|current| {
            current.with(|luggage| match luggage {
                Luggage::Packed { serializer, blobs } if *serializer == typeid::of::<S>() => {
                    let place = match &self.0 {
                        Place::InFile(blob) => pack(blobs, blob),
                        Place::Here(_) => None,
                    };
                    Some(place.map_or(Form::Copied(Plain(self)), Form::Packed))
                }
                Luggage::Packed { .. } | Luggage::None | Luggage::Unpacked(_) => None,
            })
        });
        match form {
            Some(form) => form.serialize(to),
            None => Plain(self).serialize(to),
        }
    }
}

/// Its place, if there is one for it.
fn pack(blobs: &mut Vec<Arc<Blob>>, blob: &Arc<Blob>) -> Option<usize> {
    let place = blobs.iter().position(|packed| Arc::ptr_eq(packed, blob));
    place.or_else(|| {
        (blob.file().is_some() && blobs.len() < MOST_BLOBS).then(|| {
            blobs.push(Arc::clone(blob));
            blobs.len() - 1
        })
    })
}

struct Owned(SharedBytes);

impl<'de> Deserialize<'de> for Owned {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Owned, D::Error> {
        struct AnyBytes;
        impl<'de> Visitor<'de> for AnyBytes {
            type Value = Owned;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Owned, E> {
                Ok(Owned(SharedBytes::from(bytes)))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Owned, A::Error> {
                let mut bytes = Vec::new();
                while let Some(byte) = sequence.next_element()? {
                    bytes.push(byte);
                }
                Ok(Owned(SharedBytes::from(bytes)))
            }
        }
        deserializer.deserialize_bytes(AnyBytes)
    }
}

impl<'de> Deserialize<'de> for SharedBytes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<SharedBytes, D::Error> {
        let is_ours = typeid::of::<D>() == typeid::of::<&mut Unpacker<'_>>();
        let form = if is_ours { Form::deserialize(from)? } else { Form::Copied(Owned::deserialize(from)?) };
        let place = match form {
            Form::Copied(Owned(bytes)) => return Ok(bytes),
            Form::Packed(place) => place,
        };
        let blob = LUGGAGE.with(|current| {
            current.with(|luggage| match luggage {
                Luggage::Unpacked(blobs) => blobs.get(place).cloned(),
                Luggage::None | Luggage::Packed { .. } => None,
            })
        });
        let blob = blob.ok_or_else(|| D::Error::custom("shared bytes that did not come with it"))?;
        Ok(SharedBytes(Place::InFile(blob)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sent<T: Serialize>(value: &T) -> (Vec<u8>, Vec<Arc<Blob>>) {
        let (encoded, blobs) = packing(ser_flavors::StdVec::new(), value);
        (encoded.unwrap(), blobs)
    }

    #[test]
    fn large_ones_go_beside_the_value_and_once() {
        let (short, long) = (SharedBytes::from(vec![1; WORTH_A_FILE - 1]), SharedBytes::from(vec![2; WORTH_A_FILE]));
        let value = (short, long.clone(), long);
        let (bytes, blobs) = sent(&value);
        assert_eq!(blobs.len(), 1);
        assert!(bytes.len() < WORTH_A_FILE + 16);
        let back: (SharedBytes, SharedBytes, SharedBytes) = unpacking(&bytes, blobs).unwrap();
        assert_eq!(back, value);
        assert_eq!(back.1.as_ptr(), value.2.as_ptr(), "nothing was copied");
        assert!(LUGGAGE.with(|current| current.with(|luggage| matches!(luggage, Luggage::None))));
    }

    #[test]
    fn those_that_are_too_many_are_copied() {
        let value: Vec<_> = (0..MOST_BLOBS as u8 + 2).map(|n| SharedBytes::from(vec![n; WORTH_A_FILE])).collect();
        let (bytes, blobs) = sent(&value);
        assert_eq!(blobs.len(), MOST_BLOBS);
        assert!(bytes.len() > 2 * WORTH_A_FILE);
        assert_eq!(unpacking::<Vec<SharedBytes>>(&bytes, blobs).unwrap(), value);
    }

    #[test]
    fn they_are_read_to_the_end() {
        for length in [0, 1, WORTH_A_FILE - 1, WORTH_A_FILE, WORTH_A_FILE + 1, 3 << 20] {
            let all: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            assert!(SharedBytes::read_from(&all[..]).unwrap() == all[..], "{length}");
        }
        SharedBytes::read_from(std::fs::File::open("/proc/self/mem").unwrap()).unwrap_err();
        assert_eq!(SharedBytes::from(b"abc"), SharedBytes::from(vec![b'a', b'b', b'c']));
    }

    #[test]
    fn elsewhere_they_are_bytes() {
        for length in [0, 3, WORTH_A_FILE] {
            let (bytes, vec) = (SharedBytes::from(vec![5; length]), vec![5_u8; length]);
            assert_eq!(postcard::to_stdvec(&bytes), postcard::to_stdvec(&vec));
            assert_eq!(postcard::from_bytes::<SharedBytes>(&postcard::to_stdvec(&vec).unwrap()), Ok(bytes));
        }
    }

    #[test]
    fn what_did_not_come_is_an_error() {
        let (bytes, blobs) = sent(&SharedBytes::from(vec![1; WORTH_A_FILE]));
        unpacking::<SharedBytes>(&bytes, blobs).unwrap();
        unpacking::<SharedBytes>(&bytes, Vec::new()).unwrap_err();
    }

    /// Has bytes with it that are encoded in its own way.
    struct Outer {
        bytes: SharedBytes,
        record: Vec<u8>,
    }

    impl Serialize for Outer {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let (_, within) = sent(&vec![self.bytes.clone(), SharedBytes::from(vec![0; WORTH_A_FILE])]);
            assert_eq!(within.len(), 1 + usize::from(self.bytes.len() >= WORTH_A_FILE), "it has a luggage of its own");
            let record = postcard::to_stdvec(&self.bytes).unwrap();
            assert_eq!(record, self.record, "and elsewhere they are bytes");
            (&self.bytes, &record).serialize(serializer)
        }
    }

    impl<'de> Deserialize<'de> for Outer {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Outer, D::Error> {
            let (bytes, record) = <(SharedBytes, Vec<u8>)>::deserialize(deserializer)?;
            assert_eq!(postcard::from_bytes::<SharedBytes>(&record).unwrap(), bytes);
            Ok(Outer { bytes, record })
        }
    }

    #[test]
    fn what_is_encoded_within_is_another_matter() {
        for length in [1, WORTH_A_FILE] {
            let bytes = SharedBytes::from(vec![9; length]);
            let record = postcard::to_stdvec(&bytes).unwrap();
            let (encoded, blobs) = sent(&Outer { bytes: bytes.clone(), record });
            assert_eq!(blobs.len(), usize::from(length == WORTH_A_FILE));
            assert_eq!(unpacking::<Outer>(&encoded, blobs).unwrap().bytes, bytes);
        }
    }

    #[test]
    fn a_thread_that_ends_can_encode() {
        struct Last;
        impl Drop for Last {
            fn drop(&mut self) {
                let value = SharedBytes::from(vec![6; WORTH_A_FILE]);
                let (bytes, blobs) = sent(&value);
                assert_eq!(unpacking::<SharedBytes>(&bytes, blobs).unwrap(), value);
            }
        }
        thread_local!(static LAST: Last = const { Last });
        let thread = std::thread::spawn(|| {
            LAST.with(|_| ());
            sent(&SharedBytes::from(vec![6; WORTH_A_FILE]));
        });
        thread.join().unwrap();
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..50)) {
            let _ = unpacking::<Vec<SharedBytes>>(&bytes, vec![Blob::new(&[1, 2, 3]).unwrap()]);
        }
    }
}

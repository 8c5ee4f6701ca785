//! Bytes that are in the memory of several processes, and travel between them without being copied.

use std::cell::RefCell;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::sys::blob::Blob;

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
/// From 256 KiB on they are in a file in memory (`memfd_create(2)`) that is sealed against every change. In each process that has it, that takes one
/// descriptor and one mapping. Shorter ones, those that are more than 16 in one value, and those for which there was no descriptor left, are copied like
/// a `Vec<u8>`. Where they are serialized to something else than an argument or a value of this crate, they are bytes.
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
            Some(blob) => Place::InFile(Arc::new(blob)),
            None => Place::Here(Arc::from(bytes)),
        })
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
    Packed(Vec<Arc<Blob>>),
    Unpacked(Vec<Arc<Blob>>),
}

thread_local! {
    static LUGGAGE: RefCell<Luggage> = const { RefCell::new(Luggage::None) };
}

/// Puts back what was there before: to encode is the user's code, which may encode something else meanwhile, or panic.
struct Before(Luggage);

impl Before {
    fn enter(luggage: Luggage) -> Before {
        Before(LUGGAGE.replace(luggage))
    }
}

impl Drop for Before {
    fn drop(&mut self) {
        LUGGAGE.set(std::mem::replace(&mut self.0, Luggage::None));
    }
}

/// Encodes a value. Also what is to go with it.
pub(crate) fn packing<R>(encode: impl FnOnce() -> R) -> (R, Vec<Arc<Blob>>) {
    let _before = Before::enter(Luggage::Packed(Vec::new()));
    let encoded = encode();
    match LUGGAGE.replace(Luggage::None) {
        Luggage::Packed(blobs) => (encoded, blobs),
        Luggage::None | Luggage::Unpacked(_) => (encoded, Vec::new()),
    }
}

/// Decodes a value that came with those.
pub(crate) fn unpacking<R>(blobs: &[Arc<Blob>], decode: impl FnOnce() -> R) -> R {
    let _before = Before::enter(Luggage::Unpacked(blobs.to_vec()));
    decode()
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
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let form = LUGGAGE.with_borrow_mut(|luggage| match (luggage, &self.0) {
            (Luggage::Packed(blobs), Place::InFile(blob)) => {
                Some(pack(blobs, blob).map_or(Form::Copied(()), Form::Packed))
            }
            (Luggage::Packed(_), Place::Here(_)) => Some(Form::Copied(())),
            (Luggage::None | Luggage::Unpacked(_), _) => None,
        });
        match form {
            Some(Form::Packed(place)) => Form::<Plain<'_>>::Packed(place).serialize(serializer),
            Some(Form::Copied(())) => Form::Copied(Plain(self)).serialize(serializer),
            None => Plain(self).serialize(serializer),
        }
    }
}

/// Its place, if there is one for it.
fn pack(blobs: &mut Vec<Arc<Blob>>, blob: &Arc<Blob>) -> Option<usize> {
    let place = blobs.iter().position(|packed| Arc::ptr_eq(packed, blob));
    place.or_else(|| {
        (blobs.len() < MOST_BLOBS).then(|| {
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
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SharedBytes, D::Error> {
        let is_ours = LUGGAGE.with_borrow(|luggage| matches!(luggage, Luggage::Unpacked(_)));
        let form =
            if is_ours { Form::deserialize(deserializer)? } else { Form::Copied(Owned::deserialize(deserializer)?) };
        let place = match form {
            Form::Copied(Owned(bytes)) => return Ok(bytes),
            Form::Packed(place) => place,
        };
        let blob = LUGGAGE.with_borrow(|luggage| match luggage {
            Luggage::Unpacked(blobs) => blobs.get(place).cloned(),
            Luggage::None | Luggage::Packed(_) => None,
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
        let (encoded, blobs) = packing(|| postcard::to_stdvec(value));
        (encoded.unwrap(), blobs)
    }

    #[test]
    fn large_ones_go_beside_the_value_and_once() {
        let (short, long) = (SharedBytes::from(vec![1; WORTH_A_FILE - 1]), SharedBytes::from(vec![2; WORTH_A_FILE]));
        let value = (short, long.clone(), long);
        let (bytes, blobs) = sent(&value);
        assert_eq!(blobs.len(), 1);
        assert!(bytes.len() < WORTH_A_FILE + 16);
        let back: (SharedBytes, SharedBytes, SharedBytes) = unpacking(&blobs, || postcard::from_bytes(&bytes)).unwrap();
        assert_eq!(back, value);
        assert_eq!(back.1.as_ptr(), value.2.as_ptr(), "nothing was copied");
        assert!(LUGGAGE.with_borrow(|luggage| matches!(luggage, Luggage::None)));
    }

    #[test]
    fn those_that_are_too_many_are_copied() {
        let value: Vec<_> = (0..MOST_BLOBS as u8 + 2).map(|n| SharedBytes::from(vec![n; WORTH_A_FILE])).collect();
        let (bytes, blobs) = sent(&value);
        assert_eq!(blobs.len(), MOST_BLOBS);
        assert!(bytes.len() > 2 * WORTH_A_FILE);
        assert_eq!(unpacking(&blobs, || postcard::from_bytes::<Vec<SharedBytes>>(&bytes)).unwrap(), value);
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
        unpacking(&blobs, || postcard::from_bytes::<SharedBytes>(&bytes)).unwrap();
        unpacking(&[], || postcard::from_bytes::<SharedBytes>(&bytes)).unwrap_err();
    }

    #[test]
    fn what_is_encoded_within_is_another_matter() {
        struct Outer(SharedBytes);
        impl Serialize for Outer {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let (_, within) = sent(&vec![self.0.clone(), SharedBytes::from(vec![0; WORTH_A_FILE])]);
                assert_eq!(within.len(), 2);
                self.0.serialize(serializer)
            }
        }
        let (bytes, blobs) = sent(&Outer(SharedBytes::from(vec![9; WORTH_A_FILE])));
        assert_eq!(blobs.len(), 1);
        assert_eq!(
            unpacking(&blobs, || postcard::from_bytes::<SharedBytes>(&bytes)).unwrap(),
            vec![9; WORTH_A_FILE].into()
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..50)) {
            let blobs = [Arc::new(Blob::new(&[1, 2, 3]).unwrap())];
            let _ = unpacking(&blobs, || postcard::from_bytes::<Vec<SharedBytes>>(&bytes));
        }
    }
}

//! The program's own executable, as it lies in memory.
//!
//! Code is named by its distance from where the executable was loaded: two processes that run the same file agree on it wherever
//! it lies. Where that is, the program headers say (`dl_iterate_phdr(3)`), not another Rust function: those may be inlined, merged
//! or duplicated.

use std::any::Any;
use std::ffi::{c_int, c_void};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, OnceLock};

use super::blob::Blob;

/// What can be called by its place: takes an encoded argument, and what it may answer by (each entry knows what that is); gives an
/// exit code.
pub(crate) type Entry = fn(Argument<'_>, &mut dyn Any) -> i32;

/// An argument, encoded.
#[derive(Debug, Default)]
pub(crate) struct Argument<'a> {
    pub(crate) bytes: &'a [u8],
    /// What goes with them; nobody else keeps it.
    pub(crate) blobs: Vec<Arc<Blob>>,
}

/// A value of a type that takes no place: a function item, or a closure that captures nothing. Somebody had one, or the caller could not name
/// the type's code; and it may be copied. (Who calls it on another thread of this process asks for `Send + 'static`, too: a closure may
/// have captured a value without size that is to stay on its thread.)
pub(crate) fn the_only<T: Copy>() -> T {
    // (Whoever has one is told so where he gives it to us.)
    const { assert!(size_of::<T>() == 0, "this closure captures a variable: let it be the argument instead") };
    // SAFETY: there are no bytes to be read, and it is inhabited.
    unsafe { std::ptr::NonNull::<T>::dangling().as_ptr().read() }
}

/// The main executable.
#[derive(Debug)]
pub(crate) struct Image {
    base: usize,
    /// Where its code is, from the base.
    code: Vec<Range<usize>>,
    /// Of its program headers.
    headers: u64,
}

impl Image {
    pub(crate) fn get() -> &'static Image {
        static IMAGE: OnceLock<Image> = OnceLock::new();
        IMAGE.get_or_init(Image::find)
    }

    fn find() -> Image {
        let mut image = Image { base: 0, code: Vec::new(), headers: 0 };
        // SAFETY: `look` takes what the C library promises, and an image, which outlives the call.
        unsafe { libc::dl_iterate_phdr(Some(look), (&raw mut image).cast()) };
        image
    }

    /// How far from its base `code` is; `None`: it is in a shared object, or nowhere.
    pub(crate) fn offset_of(&self, code: *const ()) -> Option<usize> {
        let offset = code.addr().checked_sub(self.base)?;
        self.code.iter().any(|range| range.contains(&offset)).then_some(offset)
    }

    /// What is so far from its base, if that is code.
    fn at(&self, offset: usize) -> Option<*const ()> {
        let is_code = self.code.iter().any(|range| range.contains(&offset));
        is_code.then(|| std::ptr::with_exposed_provenance(self.base + offset))
    }

    /// Calls the entry that is so far from its base; `None`: there is no code.
    ///
    /// Whoever names it runs the same file and took the distance of an [`Entry`]: a number from elsewhere must not come here.
    pub(crate) fn call(&self, offset: usize, argument: Argument<'_>, answer: &mut dyn Any) -> Option<i32> {
        let code = self.at(offset)?;
        // SAFETY: it is the address of an `Entry`, as the caller knows.
        let entry = unsafe { std::mem::transmute::<*const (), Entry>(code) };
        Some(entry(argument, answer))
    }

    /// A number that two processes share if they run the same file, also one that was deleted since.
    pub(crate) fn identity(&self) -> io::Result<u64> {
        let file = fs::metadata("/proc/self/exe")?;
        let mut hasher = DefaultHasher::new();
        (file.dev(), file.ino(), file.size(), file.mtime(), file.mtime_nsec(), self.headers).hash(&mut hasher);
        Ok(hasher.finish())
    }
}

/// The first that is told of is the executable (`dl_iterate_phdr(3)`).
unsafe extern "C" fn look(info: *mut libc::dl_phdr_info, _size: usize, image: *mut c_void) -> c_int {
    // SAFETY: the C library passes one that is valid during the call.
    let info = unsafe { &*info };
    // SAFETY: `find` passes an image of its own.
    let image = unsafe { &mut *image.cast::<Image>() };
    let mut hasher = DefaultHasher::new();
    image.base = info.dlpi_addr as usize;
    // SAFETY: there are so many headers.
    for header in unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) } {
        (header.p_type, header.p_flags, header.p_offset, header.p_vaddr, header.p_filesz, header.p_memsz)
            .hash(&mut hasher);
        if header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_X != 0 {
            let first = header.p_vaddr as usize;
            image.code.push(first..first.saturating_add(header.p_memsz as usize));
        }
    }
    image.headers = hasher.finish();
    1
}

/// The data of the executable and of its libraries that can be written to, where it is small.
pub(super) fn small_data() -> Vec<Range<usize>> {
    let mut data = Vec::new();
    // SAFETY: `add_data` takes what the C library promises, and a list, which outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(add_data), (&raw mut data).cast()) };
    data
}

unsafe extern "C" fn add_data(info: *mut libc::dl_phdr_info, _size: usize, data: *mut c_void) -> c_int {
    const MOST_BYTES: usize = 128 * 1024;
    // SAFETY: the C library passes one that is valid during the call.
    let info = unsafe { &*info };
    // SAFETY: `small_data` passes a list of its own.
    let data = unsafe { &mut *data.cast::<Vec<Range<usize>>>() };
    let (mut places, mut constant_until) = (Vec::new(), 0);
    // SAFETY: there are so many headers.
    for header in unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) } {
        let start = (info.dlpi_addr as usize).saturating_add(header.p_vaddr as usize);
        let place = start..start.saturating_add(header.p_memsz as usize);
        match header.p_type {
            // The beginning of the data, which cannot be written to any more.
            libc::PT_GNU_RELRO => constant_until = place.end,
            libc::PT_LOAD if header.p_flags & libc::PF_W != 0 && place.len() <= MOST_BYTES => places.push(place),
            _ => {}
        }
    }
    let variable = places.into_iter().map(|place| place.start.max(constant_until)..place.end);
    data.extend(variable.filter(|place| !place.is_empty()));
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_data_is_what_statics_are_in() {
        static COUNTER: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(1);
        let place = COUNTER.as_ptr().addr();
        let data = small_data();
        assert!(data.iter().any(|range| range.contains(&place)), "{place:x} {data:x?}");
        let constant = (&raw const *"a constant").addr();
        assert!(!data.iter().any(|range| range.contains(&constant)));
    }

    #[test]
    fn code_is_found_again_and_nothing_else() {
        let image = Image::get();
        let function = Image::find as fn() -> Image as *const ();
        let offset = image.offset_of(function).unwrap();
        assert_eq!(image.at(offset), Some(function));
        assert_eq!(image.offset_of((&raw const offset).cast()), None, "the stack");
        assert_eq!(image.offset_of(libc::getpid as *const ()), None, "the C library");
        assert_eq!(image.at(usize::MAX - image.base), None);
        assert_eq!(image.identity().unwrap(), Image::find().identity().unwrap());
    }
}

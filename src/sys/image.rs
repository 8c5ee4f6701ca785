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
use std::sync::OnceLock;

/// What can be called by its place: takes an encoded argument, and what it may answer by (each entry knows what that is); gives an
/// exit code.
pub(crate) type Entry = fn(&[u8], &mut dyn Any) -> i32;

/// A value of a type that takes no place. Somebody had one, or the caller could not name the type's code; and it may be copied.
pub(crate) fn conjure<T: Copy>() -> T {
    const { assert!(size_of::<T>() == 0) };
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
    pub(crate) fn call(&self, offset: usize, argument: &[u8], answer: &mut dyn Any) -> Option<i32> {
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
    for index in 0..usize::from(info.dlpi_phnum) {
        // SAFETY: there are so many headers.
        let header = unsafe { info.dlpi_phdr.add(index) };
        // SAFETY: as above.
        let header = unsafe { &*header };
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

#[cfg(test)]
mod tests {
    use super::*;

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

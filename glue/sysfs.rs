// SPDX-License-Identifier: GPL-2.0

//! Files in /sys/kernel/mm, which the `kernel` crate has no abstraction for.

use super::text;
use crate::pool::show::Value;
use core::{
    mem,
    ptr, //
};
use kernel::{
    bindings,
    error::{
        from_result,
        to_result, //
    },
    prelude::*,
    str::as_char_ptr_in_const_context, //
};

/// A file with one value, which anybody may read.
#[repr(C)]
pub(crate) struct File {
    raw: bindings::kobj_attribute,
    /// The file's name, and what it shows.
    pub(crate) name: &'static CStr,
    pub(crate) value: Value,
}

// SAFETY: It never changes.
unsafe impl Sync for File {}

impl File {
    /// A file that is not in sysfs yet.
    pub(crate) const fn new(name: &'static CStr, value: Value) -> Self {
        // SAFETY: All zeroes is a valid value: it has pointers, optional functions, and numbers.
        let mut raw: bindings::kobj_attribute = unsafe { mem::zeroed() };
        raw.attr.name = as_char_ptr_in_const_context(name);
        raw.attr.mode = 0o444;
        raw.__bindgen_anon_1.show = Some(show);
        Self { raw, name, value }
    }
}

/// Shows a file.
///
/// # Safety
///
/// `attr` must be the attribute of a [`File`] that stays, and `page` a page to write to.
unsafe extern "C" fn show(
    _kobj: *mut bindings::kobject,
    attr: *mut bindings::kobj_attribute,
    page: *mut c_char,
) -> isize {
    // SAFETY: By the safety requirement; the attribute is the first field of a C structure.
    let file = unsafe { &*attr.cast_const().cast::<File>() };
    // SAFETY: By the safety requirement.
    from_result(|| unsafe { text::print(page, &file.value) }.map(|bytes| bytes as isize))
}

/// A folder, which stays for ever.
pub(crate) struct Folder(*mut bindings::kobject);

impl Folder {
    /// `/sys/kernel/mm`.
    pub(crate) fn mm() -> Self {
        // SAFETY: Set once, by a postcore_initcall(). If that failed it is null, which stands for
        // `/sys`.
        Self(unsafe { ptr::addr_of!(bindings::mm_kobj).read() })
    }

    /// Makes a folder in this one. May sleep.
    pub(crate) fn folder(&self, name: &CStr) -> Result<Self> {
        // SAFETY: The parent is a kobject that stays, or null; the name is copied.
        let made = unsafe { bindings::kobject_create_and_add(name.as_char_ptr(), self.0) };
        (!made.is_null()).then_some(Self(made)).ok_or(ENOMEM)
    }

    /// Makes files in it. May sleep.
    pub(crate) fn files(&self, files: &'static [File]) -> Result {
        files.iter().try_for_each(|file| {
            // Made from a pointer to the whole file, since `show()` casts it back to one.
            let attr = ptr::from_ref(file).cast();
            // SAFETY: The kobject is there, and the file, which begins with its attribute, stays.
            to_result(unsafe { bindings::sysfs_create_file_ns(self.0, attr, ptr::null_mut()) })
        })
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Parameters as text: the thunks behind params.c.

use crate::params;
use kernel::{
    error::from_result,
    fmt,
    macros::paste,
    page::PAGE_SIZE,
    prelude::*,
    str::Formatter, //
};

/// Prints a parameter and a line feed; returns the number of bytes.
///
/// # Safety
///
/// `page` must be a page to write to.
pub(super) unsafe fn print(page: *mut c_char, value: impl fmt::Display) -> Result<c_int> {
    // SAFETY: By the safety requirement; sysfs gives the page to this call alone, zeroed.
    let page = unsafe { core::slice::from_raw_parts_mut(page.cast::<u8>(), PAGE_SIZE) };
    let mut out = Formatter::new(page);
    fmt::Write::write_fmt(&mut out, fmt!("{value}\n"))?;
    Ok(out.bytes_written() as c_int)
}

/// The thunks of a parameter, see params.c: its name, and the function in [`params`] that reads it.
macro_rules! text_parameter {
    ($name:ident, $value:ident) => {
        paste! {
            /// Sets the parameter to `text`, without the line feed that `echo` appends.
            ///
            /// # Safety
            ///
            /// `text` must be a valid string. parse_one() in kernel/params.c makes no call without
            /// one.
            #[export]
            unsafe extern "C" fn [<cc_swiotlb_set_ $name>](text: *const c_char) -> c_int {
                params::configure();
                // SAFETY: By the safety requirement.
                let text = unsafe { CStr::from_char_ptr(text) }.to_bytes().trim_ascii();
                from_result(|| params::[<set_ $name>](text).map(|()| 0))
            }

            /// Prints the parameter.
            ///
            /// # Safety
            ///
            /// `page` must be a page to write to.
            #[export]
            unsafe extern "C" fn [<cc_swiotlb_get_ $name>](page: *mut c_char) -> c_int {
                // SAFETY: By the safety requirement.
                from_result(|| unsafe { print(page, params::$value()) })
            }
        }
    };
}

text_parameter!(watermark, watermark);
text_parameter!(max, max_bytes);
text_parameter!(from_device, from_device);
text_parameter!(idle_ms, idle);

// SPDX-License-Identifier: GPL-2.0

//! Parameters as text: the thunks behind params.c.

use crate::params;
use kernel::{
    fmt,
    page::PAGE_SIZE,
    prelude::*,
    str::Formatter, //
};

/// The text of a parameter, without the line feed that `echo` leaves.
///
/// # Safety
///
/// `text` must be null or a string that is valid for `'a`.
unsafe fn trimmed<'a>(text: *const c_char) -> &'a [u8] {
    if text.is_null() {
        return &[];
    }
    // SAFETY: By the safety requirement.
    unsafe { CStr::from_char_ptr(text) }.to_bytes().trim_ascii()
}

fn errno(result: Result) -> c_int {
    match result {
        Ok(()) => 0,
        Err(error) => error.to_errno(),
    }
}

/// Prints a parameter; returns the number of bytes.
///
/// # Safety
///
/// `page` must be a page to write to.
unsafe fn print(page: *mut c_char, text: fmt::Arguments<'_>) -> c_int {
    // SAFETY: By the safety requirement; sysfs gives the page to this call alone, zeroed.
    let page = unsafe { core::slice::from_raw_parts_mut(page.cast::<u8>(), PAGE_SIZE) };
    let mut out = Formatter::new(page);
    match fmt::Write::write_fmt(&mut out, text) {
        Ok(()) => out.bytes_written() as c_int,
        Err(_) => ENOSPC.to_errno(),
    }
}

/// Sets `cc_swiotlb.watermark=`.
///
/// # Safety
///
/// `text` must be null or a valid string.
#[export]
unsafe extern "C" fn cc_swiotlb_set_watermark(text: *const c_char) -> c_int {
    // SAFETY: By the safety requirement.
    errno(params::set_watermark(unsafe { trimmed(text) }))
}

/// Prints `cc_swiotlb.watermark=`.
///
/// # Safety
///
/// `page` must be a page to write to.
#[export]
unsafe extern "C" fn cc_swiotlb_get_watermark(page: *mut c_char) -> c_int {
    // SAFETY: By the safety requirement.
    unsafe { print(page, fmt!("{}\n", params::watermark())) }
}

/// Sets `cc_swiotlb.max=`.
///
/// # Safety
///
/// `text` must be null or a valid string.
#[export]
unsafe extern "C" fn cc_swiotlb_set_max(text: *const c_char) -> c_int {
    // SAFETY: By the safety requirement.
    errno(params::set_max(unsafe { trimmed(text) }))
}

/// Prints `cc_swiotlb.max=`.
///
/// # Safety
///
/// `page` must be a page to write to.
#[export]
unsafe extern "C" fn cc_swiotlb_get_max(page: *mut c_char) -> c_int {
    // SAFETY: By the safety requirement.
    unsafe { print(page, fmt!("{}\n", params::max_bytes())) }
}

/// Sets `cc_swiotlb.from_device=`.
///
/// # Safety
///
/// `text` must be null or a valid string.
#[export]
unsafe extern "C" fn cc_swiotlb_set_from_device(text: *const c_char) -> c_int {
    // SAFETY: By the safety requirement.
    errno(params::set_from_device(unsafe { trimmed(text) }))
}

/// Prints `cc_swiotlb.from_device=`.
///
/// # Safety
///
/// `page` must be a page to write to.
#[export]
unsafe extern "C" fn cc_swiotlb_get_from_device(page: *mut c_char) -> c_int {
    // SAFETY: By the safety requirement.
    unsafe { print(page, fmt!("{}\n", params::from_device())) }
}

/// Sets `cc_swiotlb.idle_ms=`.
///
/// # Safety
///
/// `text` must be null or a valid string.
#[export]
unsafe extern "C" fn cc_swiotlb_set_idle_ms(text: *const c_char) -> c_int {
    // SAFETY: By the safety requirement.
    errno(params::set_idle(unsafe { trimmed(text) }))
}

/// Prints `cc_swiotlb.idle_ms=`.
///
/// # Safety
///
/// `page` must be a page to write to.
#[export]
unsafe extern "C" fn cc_swiotlb_get_idle_ms(page: *mut c_char) -> c_int {
    // SAFETY: By the safety requirement.
    unsafe { print(page, fmt!("{}\n", params::idle())) }
}

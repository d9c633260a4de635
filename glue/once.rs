// SPDX-License-Identifier: GPL-2.0

//! Loads without a function call.

use kernel::sync::atomic::{
    Atomic,
    AtomicType, //
};

/// `READ_ONCE()`: the same as `load(Relaxed)`, which is a call where helpers are not inlined.
///
/// A read from an address that depends on the value is ordered after it.
#[inline(always)]
pub(crate) fn read_once<T: AtomicType>(from: &Atomic<T>) -> T {
    const { assert!(size_of::<T>() <= size_of::<usize>()) };
    // SAFETY: Valid and aligned, and small enough that others store it as a whole. By Rust's rules
    // a volatile read that races is undefined; by the kernel's memory model it is `READ_ONCE()`.
    unsafe { from.as_ptr().read_volatile() }
}

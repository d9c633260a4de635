// SPDX-License-Identifier: GPL-2.0

//! Loads that take no call.

use kernel::sync::atomic::{
    Atomic,
    AtomicType, //
};

/// `READ_ONCE()`: what `load(Relaxed)` does, which is a call where helpers are not inlined.
///
/// What is read at an address that depends on the value is ordered behind it.
#[inline(always)]
pub(crate) fn read_once<T: AtomicType>(from: &Atomic<T>) -> T {
    // SAFETY: Valid and aligned, and of a type that others store as a whole. For the kernel's memory
    // model a volatile read of such a type is no data race.
    unsafe { from.as_ptr().read_volatile() }
}

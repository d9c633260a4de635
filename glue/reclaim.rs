// SPDX-License-Identifier: GPL-2.0

//! What the shrinker calls: thunks.
//!
//! They run in reclaim, in the middle of any allocation, kccd's own included. So they take no lock
//! but the doorbell's, allocate nothing and convert nothing: kccd does, soon.

use kernel::prelude::*;

/// Pages that kccd could give back at once.
///
/// # Safety
///
/// None.
#[export]
unsafe extern "C" fn cc_swiotlb_surplus_pages() -> c_ulong {
    crate::pool().map_or(0, |pool| pool.surplus_pages() as c_ulong)
}

/// Makes kccd give back what it can.
///
/// # Safety
///
/// None.
#[export]
unsafe extern "C" fn cc_swiotlb_give_back() {
    if let Some(pool) = crate::pool() {
        pool.doorbell.press();
    }
}

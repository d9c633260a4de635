// SPDX-License-Identifier: GPL-2.0

//! Thunks for the shrinker.
//!
//! They run in reclaim, in the middle of any allocation, kccd's own included. So they take no lock
//! but the bell's, allocate nothing and convert nothing: kccd does so, soon.

use kernel::{
    page::PAGE_SHIFT,
    prelude::*, //
};

/// Pages that kccd could give back at once.
///
/// # Safety
///
/// None.
#[export]
unsafe extern "C" fn cc_swiotlb_spare_pages() -> c_ulong {
    crate::pool().map_or(0, |pool| pool.spare_bytes() as usize >> PAGE_SHIFT)
}

/// Makes kccd give `pages` pages back.
///
/// # Safety
///
/// None.
#[export]
unsafe extern "C" fn cc_swiotlb_give_back(pages: c_ulong) {
    if let Some(pool) = crate::pool() {
        pool.bell.want_pages(pages as u64);
    }
}

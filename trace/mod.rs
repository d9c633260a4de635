// SPDX-License-Identifier: GPL-2.0

//! Tracepoints: `events/swiotlb/swiotlb_unbounced` and `events/cc_swiotlb`.
//!
//! Each costs one patched branch while it is off. The events are defined in cc_swiotlb_events.h and
//! in include/trace/events/swiotlb.h.

use crate::{
    glue::device::DmaDevice,
    pool::{
        address::Phys,
        class::SizeClass, //
    },
};
use kernel::{
    bindings,
    prelude::*,
    tracepoint::declare_trace, //
};

declare_trace! {
    /// # Safety
    ///
    /// `dev` must be a valid device.
    unsafe fn swiotlb_unbounced(
        dev: *mut bindings::device,
        orig: bindings::phys_addr_t,
        bounce: bindings::phys_addr_t,
        size: usize,
    );

    /// # Safety
    ///
    /// None.
    unsafe fn cc_swiotlb_refill(node: c_int, bytes: u64, shared_bytes: u64);

    /// # Safety
    ///
    /// None.
    unsafe fn cc_swiotlb_giveback(node: c_int, bytes: u64, shared_bytes: u64);

    /// # Safety
    ///
    /// `dev` must be a valid device.
    unsafe fn cc_swiotlb_fallback(
        dev: *mut bindings::device,
        size: usize,
        wanted_bytes: u32,
        served_bytes: u32,
    );

    /// # Safety
    ///
    /// `dev` must be a valid device.
    unsafe fn cc_swiotlb_refused(dev: *mut bindings::device, size: usize);
}

/// Traces the end of a mapping.
#[inline]
pub(crate) fn unbounced(dev: DmaDevice<'_>, orig: Phys, bounce: Phys, size: usize) {
    // SAFETY: A `DmaDevice` is valid.
    unsafe { swiotlb_unbounced(dev.as_raw(), orig.raw(), bounce.raw(), size) }
}

/// Traces that there is more shared memory.
pub(crate) fn refill(node: usize, bytes: usize, shared_bytes: u64) {
    // SAFETY: Numbers only.
    unsafe { cc_swiotlb_refill(node as c_int, bytes as u64, shared_bytes) }
}

/// Traces that a chunk is private again.
pub(crate) fn giveback(node: usize, bytes: usize, shared_bytes: u64) {
    // SAFETY: Numbers only.
    unsafe { cc_swiotlb_giveback(node as c_int, bytes as u64, shared_bytes) }
}

/// Traces a mapping that another class than its own served, or that is left to the legacy pool.
pub(crate) fn fallback(dev: DmaDevice<'_>, size: usize, wanted: SizeClass, by: Option<SizeClass>) {
    let served_bytes = by.map_or(0, |class| class.slot_bytes() as u32);
    // SAFETY: A `DmaDevice` is valid.
    unsafe { cc_swiotlb_fallback(dev.as_raw(), size, wanted.slot_bytes() as u32, served_bytes) }
}

/// Traces a mapping that nobody could serve.
pub(crate) fn refused(dev: DmaDevice<'_>, size: usize) {
    // SAFETY: A `DmaDevice` is valid.
    unsafe { cc_swiotlb_refused(dev.as_raw(), size) }
}

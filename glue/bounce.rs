// SPDX-License-Identifier: GPL-2.0

//! The copies between private and shared memory.
//!
//! Shared bytes can change at any time: they are copied by `memcpy()` and never become a
//! reference, and nothing is decided by them.

use crate::pool::slot::Mapping;
use kernel::bindings;

/// Copies a mapping to its slot.
pub(crate) fn to_shared(mapping: &Mapping) {
    // SAFETY:
    // - By the type invariants of `Mapping` both ranges are memory that the kernel maps: the shared
    //   one belongs to a slot in use, whose chunk stays shared and in the direct map for so long; the
    //   private one is a buffer that its driver must keep until it unmaps it, and 64-bit kernels map
    //   all of memory.
    // - They do not overlap: the slot's pages were allocated for the slot alone.
    // - No reference to either exists on our side; that the driver or the host may write meanwhile is
    //   what `memcpy()` of DMA buffers always was.
    unsafe {
        bindings::memcpy(
            bindings::cc_swiotlb_phys_to_virt(mapping.shared().raw()),
            bindings::cc_swiotlb_phys_to_virt(mapping.orig().raw()),
            mapping.size(),
        );
    }
}

/// Copies a mapping to its original buffer.
pub(crate) fn to_private(mapping: &Mapping) {
    // SAFETY: As for `to_shared()`. The device has initialised what it says it has, so that KMSAN is
    // told so.
    unsafe {
        let shared = bindings::cc_swiotlb_phys_to_virt(mapping.shared().raw());
        bindings::cc_swiotlb_unpoison(shared, mapping.size());
        bindings::memcpy(
            bindings::cc_swiotlb_phys_to_virt(mapping.orig().raw()),
            shared,
            mapping.size(),
        );
    }
}

/// Fills the slot with zeroes where a mapping lies.
pub(crate) fn zero_shared(mapping: &Mapping) {
    // SAFETY: As for the destination of `to_shared()`.
    unsafe {
        let shared = bindings::cc_swiotlb_phys_to_virt(mapping.shared().raw());
        bindings::memset(shared, 0, mapping.size());
    }
}

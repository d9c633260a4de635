// SPDX-License-Identifier: GPL-2.0

//! The copies between private and shared memory.
//!
//! Shared bytes can change at any time: they are copied by `memcpy()` and never become a
//! reference, and nothing is decided by them.

use crate::pool::{
    address::Phys,
    slot::Mapping,
    span::FreeSlot, //
};
use kernel::{
    bindings,
    prelude::*, //
};

/// The two sides of a mapping, or of a part of it.
///
/// # Invariants
///
/// - `shared..shared + bytes` lies within one slot.
/// - `private..private + bytes` is the part of the buffer that a driver has mapped to this slot.
pub(crate) struct Sides {
    shared: Phys,
    private: Phys,
    bytes: usize,
}

impl Sides {
    /// The whole of `mapping`, which `slot` holds.
    #[inline]
    pub(crate) fn of(slot: &FreeSlot, mapping: &Mapping) -> Self {
        // INVARIANT: By the type invariants of `Mapping`.
        Self {
            shared: slot.base.add(mapping.offset()),
            private: mapping.orig(),
            bytes: mapping.size(),
        }
    }

    /// The part of `bytes` bytes from `addr` on, and whether that lies within the mapping.
    ///
    /// What lies past the end is cut off. [`None`] if `addr` itself is outside.
    #[inline]
    pub(crate) fn part(&self, addr: Phys, bytes: usize) -> Option<(Self, bool)> {
        let skip = addr.since(self.shared)?;
        let left = self.bytes.checked_sub(skip)?;
        if left == 0 {
            return None;
        }
        // INVARIANT: A part of what is within the slot and the buffer.
        Some((
            Self {
                shared: addr,
                private: self.private.add(skip),
                bytes: bytes.min(left),
            },
            bytes <= left,
        ))
    }

    /// Copies to the shared side.
    #[inline]
    pub(crate) fn copy_to_shared(&self) {
        // SAFETY:
        // - Both ranges are memory that the kernel maps: the shared one belongs to a slot in use,
        //   whose chunk stays shared and in the direct map for so long; the private one is a buffer
        //   that its driver must keep until it unmaps it, and 64-bit kernels map all of memory.
        // - They do not overlap: the slot's pages were allocated for the slot alone.
        // - No reference to either exists on our side; that the driver or the host may write
        //   meanwhile is what `memcpy()` of DMA buffers always was.
        unsafe {
            bindings::memcpy(
                bindings::cc_swiotlb_phys_to_virt(self.shared.raw()),
                bindings::cc_swiotlb_phys_to_virt(self.private.raw()),
                self.bytes,
            );
        }
    }

    /// Copies to the private side.
    #[inline]
    pub(crate) fn copy_to_private(&self) {
        // SAFETY: As for `copy_to_shared()`. The device has initialised what it says it has, so
        // that KMSAN is told so.
        unsafe {
            let shared = bindings::cc_swiotlb_phys_to_virt(self.shared.raw());
            bindings::cc_swiotlb_unpoison(shared, self.bytes);
            bindings::memcpy(
                bindings::cc_swiotlb_phys_to_virt(self.private.raw()),
                shared,
                self.bytes,
            );
        }
    }

    /// Fills the shared side with zeroes.
    #[inline]
    pub(crate) fn zero_shared(&self) {
        // SAFETY: As for the destination of `copy_to_shared()`.
        unsafe {
            bindings::memset(
                bindings::cc_swiotlb_phys_to_virt(self.shared.raw()),
                0 as c_int,
                self.bytes,
            );
        }
    }
}

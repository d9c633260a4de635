// SPDX-License-Identifier: GPL-2.0

//! The copies between private and shared memory.
//!
//! Shared bytes can change at any time: they are copied by `memcpy()`, no reference to them is ever
//! made, and nothing is decided by them.

use super::device::DmaDevice;
use crate::pool::{
    address::Phys,
    lender::Lent,
    slot::Mapping, //
};
use kernel::bindings;

/// Copies a mapping to its slot.
pub(crate) fn to_shared(mapping: &Mapping) {
    let (shared, orig) = (mapping.shared().raw(), mapping.orig().raw());
    // SAFETY:
    // - By the type invariants of `Mapping` both ranges are memory that the kernel maps: the shared
    //   one belongs to a slot in use, whose chunk stays shared and in the direct map meanwhile; the
    //   private one is a buffer that its driver must keep until it unmaps it, and 64-bit kernels
    //   map all of memory.
    // - They do not overlap: the slot's pages were allocated for the slot alone.
    // - We have no reference to either. The driver or the host may write meanwhile, as in any
    //   `memcpy()` of a DMA buffer.
    unsafe { bindings::cc_swiotlb_copy(shared, orig, mapping.size()) };
}

/// Copies a mapping to its original buffer, once all writes of the device have arrived.
pub(crate) fn to_private(dev: DmaDevice<'_>, mapping: &Mapping) {
    let (shared, orig) = (mapping.shared().raw(), mapping.orig().raw());
    // SAFETY: As for `to_shared()`, and by its type invariant the device is valid. The bytes count
    // as initialised by the device, which KMSAN is told.
    unsafe { bindings::cc_swiotlb_copy_back(dev.as_raw(), orig, shared, mapping.size()) };
}

/// Fills the slot with zeroes where a mapping lies.
pub(crate) fn zero_shared(mapping: &Mapping) {
    // SAFETY: As for the destination of `to_shared()`.
    unsafe { zero(mapping.shared(), mapping.size()) };
}

/// Fills lent memory with zeroes.
pub(crate) fn zero_lent(lent: &Lent<'_>) {
    // SAFETY:
    // - By the type invariant the bytes belong to spans in the pool and stay lent for as long as
    //   `lent` is borrowed: the memory is shared and in the direct map.
    // - Nobody but the host accesses them: nobody has been told the address, and their previous
    //   user was done with them when they came home.
    unsafe { zero(lent.addr(), lent.bytes()) };
}

/// Fills memory with zeroes.
///
/// # Safety
///
/// It must be memory in the direct map that is ours to write, and that nobody has a reference to.
#[inline]
unsafe fn zero(addr: Phys, bytes: usize) {
    // SAFETY: By the safety requirement.
    unsafe { bindings::memset(bindings::cc_swiotlb_phys_to_virt(addr.raw()), 0, bytes) };
}

/// Access to lent memory as by a device, for tests.
#[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
impl Lent<'_> {
    /// Fills it with `byte`.
    pub(crate) fn fill(&self, byte: u8) {
        // SAFETY: As for `zero_lent()`; here we are its only user.
        unsafe {
            let shared = bindings::cc_swiotlb_phys_to_virt(self.addr().raw());
            bindings::memset(shared, byte.into(), self.bytes());
        }
    }

    /// Whether there is nothing but `byte` in it.
    pub(crate) fn is_filled_with(&self, byte: u8) -> bool {
        (0..self.bytes()).all(|offset| {
            // SAFETY: As for `zero_lent()`, and the offset is within the memory.
            unsafe {
                let shared = bindings::cc_swiotlb_phys_to_virt(self.addr().raw());
                shared.cast::<u8>().add(offset).read_volatile() == byte
            }
        })
    }
}

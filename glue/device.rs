// SPDX-License-Identifier: GPL-2.0

//! The device that a mapping is made for.

use crate::pool::{
    address::Phys,
    layout::Constraints, //
};
use core::marker::PhantomData;
use kernel::{
    bindings,
    device::Device, //
};

/// A device, for the length of one call of the DMA API.
///
/// # Invariants
///
/// It is a valid device that the caller of the DMA API keeps alive during the call.
#[derive(Clone, Copy)]
pub(crate) struct DmaDevice<'a>(*mut bindings::device, PhantomData<&'a Device>);

impl<'a> DmaDevice<'a> {
    /// Wraps the device that the DMA API was called with.
    ///
    /// # Safety
    ///
    /// `raw` must be a valid device for all of `'a`.
    pub(super) unsafe fn from_raw(raw: *mut bindings::device) -> Self {
        // INVARIANT: By the safety requirement.
        Self(raw, PhantomData)
    }

    /// The pointer, for C.
    pub(crate) fn as_raw(self) -> *mut bindings::device {
        self.0
    }

    /// The device, to print about it.
    pub(crate) fn device(self) -> &'a Device {
        // SAFETY: By the type invariant the device is valid for `'a`.
        unsafe { Device::from_raw(self.0) }
    }

    /// All requirements of the device on an address; `alloc_align_mask` is the mapping's own.
    pub(crate) fn constraints(self, alloc_align_mask: u64) -> Constraints {
        let mut seg_boundary = 0;
        // SAFETY: By the type invariant the device is valid, and the number can be written.
        let min_align_mask = unsafe { bindings::cc_swiotlb_constraints(self.0, &mut seg_boundary) };
        Constraints {
            min_align_mask: min_align_mask.into(),
            alloc_align_mask,
            seg_boundary_mask: seg_boundary as u64,
        }
    }

    /// The address at which the device sees the shared memory at `addr`.
    pub(crate) fn address_of(self, addr: Phys) -> u64 {
        // SAFETY: By the type invariant the device is valid.
        unsafe { bindings::cc_swiotlb_dma_addr(self.0, addr.raw()) }
    }

    /// Whether the device is ours to serve: it has no pool of its own.
    pub(super) fn is_served(self) -> bool {
        // SAFETY: By the type invariant the device is valid.
        unsafe { bindings::cc_swiotlb_serves(self.0) }
    }

    /// Whether the device is ours to serve, can address everything up to `last`, which
    /// [`last_address`] returned, and needs nothing else. Quicker than [`Self::reaches`], and true
    /// for most devices.
    ///
    /// # Safety
    ///
    /// The device must have a DMA mask.
    pub(crate) unsafe fn reaches_all(self, last: u64) -> bool {
        // SAFETY: By the type invariant the device is valid; the rest by the safety requirement.
        unsafe { bindings::cc_swiotlb_reaches_all(self.0, last) }
    }

    /// Whether the device can address `size` bytes at `addr`.
    pub(crate) fn reaches(self, addr: Phys, size: usize) -> bool {
        let first = self.address_of(addr);
        // SAFETY: By the type invariant the device is valid.
        let limit = unsafe { bindings::cc_swiotlb_dma_limit(self.0) };
        // This is `DMA_MAPPING_ERROR`: the address has no translation.
        first != u64::MAX
            && first
                .checked_add((size as u64).saturating_sub(1))
                .is_some_and(|last| last <= limit)
    }

    /// Makes the DMA API sync this device's mappings from now on, as one of them is bounced.
    pub(crate) fn reset_need_sync(self) {
        // SAFETY: By the type invariant the device is valid.
        unsafe { bindings::cc_swiotlb_reset_need_sync(self.0) }
    }
}

#[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
impl<'a> From<&'a Device> for DmaDevice<'a> {
    fn from(device: &'a Device) -> Self {
        // INVARIANT: The device is valid for `'a`; nobody writes to it by the pointer.
        Self(core::ptr::from_ref(device).cast_mut().cast(), PhantomData)
    }
}

/// The address at which devices see the last of the first `bytes` bytes of memory, if shared.
pub(crate) fn last_address(bytes: usize) -> u64 {
    // SAFETY: Takes any number.
    unsafe { bindings::cc_swiotlb_last_dma_addr((bytes as u64).saturating_sub(1)) }
}

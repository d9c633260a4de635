// SPDX-License-Identifier: GPL-2.0

//! What the DMA mapping code calls: thunks that convert, call one method of the pool, and return.
//!
//! The declarations are in include/linux/cc_swiotlb.h; `#[export]` checks them against these. All
//! may be called from any context but NMI.

use super::{
    bounce,
    device::DmaDevice, //
};
use crate::pool::{
    address::Phys,
    request::Request,
    slot::Mapping,
    NotMade, //
};
use kernel::{
    bindings,
    bindings::dma_data_direction,
    prelude::*, //
};

/// An address as the hooks return it.
fn raw(made: Result<Phys, NotMade>) -> bindings::phys_addr_t {
    made.map_or_else(|not_made| not_made as bindings::phys_addr_t, Phys::raw)
}

/// Maps `size` bytes at `orig`.
///
/// # Safety
///
/// `dev` must be a valid device, and the buffer must stay until it is unmapped: both are what the
/// DMA API demands of its callers.
#[export]
unsafe extern "C" fn __cc_swiotlb_map(
    dev: *mut bindings::device,
    orig: bindings::phys_addr_t,
    size: usize,
    alloc_align_mask: c_uint,
    dir: dma_data_direction,
    // Mappings are copied in whatever these say, as swiotlb.c does: the slot must not carry what was
    // in it before.
    attrs: c_ulong,
) -> bindings::phys_addr_t {
    // SAFETY: By the safety requirement.
    let request = unsafe { Request::from_raw(dev, orig, size, alloc_align_mask, dir, attrs) };
    if !request.dev.is_served() {
        return raw(Err(NotMade::Legacy));
    }
    let Some(pool) = crate::pool() else {
        crate::EARLY.add(1);
        return raw(Err(NotMade::Legacy));
    };
    raw(pool.map(&request))
}

/// Maps `size` bytes at `orig` to a slot that this CPU has at hand, and otherwise as swiotlb.c does
/// it, which comes to [`__cc_swiotlb_map`]. Returns what `swiotlb_map()` does.
///
/// # Safety
///
/// `dev` must be a valid device with a DMA mask, and the buffer must stay until it is unmapped: both
/// are what the DMA API demands of its callers.
#[export]
unsafe extern "C" fn __cc_swiotlb_map_at_hand(
    dev: *mut bindings::device,
    orig: bindings::phys_addr_t,
    size: usize,
    dir: dma_data_direction,
    attrs: c_ulong,
) -> bindings::dma_addr_t {
    if let Some(pool) = crate::pool() {
        // SAFETY: By the safety requirement.
        let request = unsafe { Request::from_raw(dev, orig, size, 0, dir, attrs) };
        // SAFETY: By the safety requirement the device has a DMA mask.
        if let Some(addr) = unsafe { pool.map_at_hand(&request) } {
            return request.dev.address_of(addr);
        }
    }
    // SAFETY: By the safety requirement.
    unsafe { bindings::__swiotlb_map(dev, orig, size, dir, attrs) }
}

/// Undoes the mapping at `addr`; returns whether it was ours.
///
/// # Safety
///
/// `dev` must be a valid device, and the buffer that was mapped must still be there.
#[export]
unsafe extern "C" fn __cc_swiotlb_unmap(
    dev: *mut bindings::device,
    addr: bindings::phys_addr_t,
    size: usize,
    dir: dma_data_direction,
    attrs: c_ulong,
) -> bool {
    // SAFETY: By the safety requirement.
    let dev = unsafe { DmaDevice::from_raw(dev) };
    let copy = dir != dma_data_direction::DMA_TO_DEVICE
        && attrs & bindings::DMA_ATTR_SKIP_CPU_SYNC as c_ulong == 0;
    crate::pool().is_some_and(|pool| pool.unmap(dev, Phys::new(addr), size, copy))
}

/// Copies a part of the mapping that `addr` lies in to its original buffer; returns whether it was
/// ours.
///
/// # Safety
///
/// `dev` must be a valid device, the buffer that was mapped must still be there, and it must be an RCU
/// read-side critical section.
#[export]
unsafe extern "C" fn __cc_swiotlb_sync_for_cpu(
    dev: *mut bindings::device,
    addr: bindings::phys_addr_t,
    size: usize,
) -> bool {
    // SAFETY: By the safety requirement.
    let dev = unsafe { DmaDevice::from_raw(dev) };
    let copy = |part: &Mapping| bounce::to_private(dev, part);
    // SAFETY: By the safety requirement.
    crate::pool().is_some_and(|pool| unsafe { pool.sync(dev, Phys::new(addr), size, copy) })
}

/// The same from its original buffer.
///
/// # Safety
///
/// As for [`__cc_swiotlb_sync_for_cpu`].
#[export]
unsafe extern "C" fn __cc_swiotlb_sync_for_device(
    dev: *mut bindings::device,
    addr: bindings::phys_addr_t,
    size: usize,
) -> bool {
    // SAFETY: By the safety requirement.
    let dev = unsafe { DmaDevice::from_raw(dev) };
    let copy = bounce::to_shared;
    // SAFETY: By the safety requirement.
    crate::pool().is_some_and(|pool| unsafe { pool.sync(dev, Phys::new(addr), size, copy) })
}

/// Whether `addr` lies in one of our slots.
///
/// # Safety
///
/// None: any number will do.
#[export]
unsafe extern "C" fn __cc_swiotlb_owns(addr: bindings::phys_addr_t) -> bool {
    crate::pool().is_some_and(|pool| pool.directory.get(Phys::new(addr)).is_some())
}

/// Whether a bounce buffer that only the device writes to starts with zeroes.
///
/// # Safety
///
/// None: reads a parameter.
#[export]
unsafe extern "C" fn __cc_swiotlb_zeroes() -> bool {
    crate::params::zero_from_device()
}

/// Maps `size` bytes at `orig`, which the legacy pool could not do either: the last try.
///
/// # Safety
///
/// `dev` must be a valid device, and the buffer must stay until it is unmapped: both are what the
/// DMA API demands of its callers.
#[export]
unsafe extern "C" fn __cc_swiotlb_map_last(
    dev: *mut bindings::device,
    orig: bindings::phys_addr_t,
    size: usize,
    alloc_align_mask: c_uint,
    dir: dma_data_direction,
    attrs: c_ulong,
) -> bindings::phys_addr_t {
    // SAFETY: By the safety requirement.
    let request = unsafe { Request::from_raw(dev, orig, size, alloc_align_mask, dir, attrs) };
    let pool = crate::pool().filter(|_| request.dev.is_served());
    raw(pool.map_or(Err(NotMade::Legacy), |pool| pool.map_last(&request)))
}

/// The largest mapping that `dev` may ask for, in bytes; 0 if that is for the legacy pool to say.
///
/// # Safety
///
/// `dev` must be a valid device.
#[export]
unsafe extern "C" fn __cc_swiotlb_max_mapping_size(dev: *mut bindings::device) -> usize {
    // SAFETY: By the safety requirement.
    let dev = unsafe { DmaDevice::from_raw(dev) };
    let pool = crate::pool().filter(|_| dev.is_served());
    pool.map_or(0, |pool| pool.max_mapping_bytes(dev))
}

/// Sets what the kernel was configured with, before anything is mapped: if the command line has set
/// anything, that was done before.
///
/// # Safety
///
/// None.
#[export]
unsafe extern "C" fn cc_swiotlb_configure() {
    crate::params::configure();
}

/// Ends the conversions: the machine goes down.
///
/// # Safety
///
/// None.
#[export]
unsafe extern "C" fn cc_swiotlb_stop() {
    if let Some(pool) = crate::pool() {
        pool.bell.stop();
    }
}

impl Request<'_> {
    /// What the DMA API was called with.
    ///
    /// # Safety
    ///
    /// `dev` must be a valid device for as long as there is the request, and the buffer must stay until
    /// the mapping is undone.
    unsafe fn from_raw(
        dev: *mut bindings::device,
        orig: bindings::phys_addr_t,
        size: usize,
        alloc_align_mask: c_uint,
        dir: dma_data_direction,
        attrs: c_ulong,
    ) -> Self {
        // INVARIANT: By the safety requirement.
        Self {
            // SAFETY: By the safety requirement.
            dev: unsafe { DmaDevice::from_raw(dev) },
            orig: Phys::new(orig),
            size,
            alloc_align_mask: u64::from(alloc_align_mask),
            from_device: dir == dma_data_direction::DMA_FROM_DEVICE,
            quiet: attrs & bindings::DMA_ATTR_NO_WARN as c_ulong != 0,
        }
    }
}

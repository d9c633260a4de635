// SPDX-License-Identifier: GPL-2.0

//! The hooks of the DMA mapping code: thunks that convert, call one method of the pool, and return.
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
    // The buffer is copied to the slot whatever the attributes say, as in swiotlb.c: the slot must
    // not keep its old contents.
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

/// Maps `size` bytes at `orig` to a slot of this CPU's stack, or else by way of swiotlb.c, which
/// calls [`__cc_swiotlb_map`]. Returns the same as `swiotlb_map()`.
///
/// # Safety
///
/// `dev` must be a valid device with a DMA mask, and the buffer must stay until it is unmapped:
/// both are what the DMA API demands of its callers.
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
/// `dev` must be a valid device, the buffer that was mapped must still be there, and the caller
/// must be in an RCU read-side critical section.
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

/// As [`__cc_swiotlb_sync_for_cpu`], but copies from the original buffer.
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

/// Maps `size` bytes at `orig` after the legacy pool could not do so either: the last try.
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

/// The largest mapping that `dev` may ask for, in bytes; 0 to leave the answer to the legacy pool.
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

/// Sets the parameters to their configured values, before anything is mapped. Has no effect if the
/// command line has set a parameter, as this was done before that.
///
/// # Safety
///
/// None.
#[export]
unsafe extern "C" fn cc_swiotlb_configure() {
    crate::params::configure();
}

/// Ends the conversions, because the machine goes down.
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
    /// The request that the DMA API was called with.
    ///
    /// # Safety
    ///
    /// `dev` must be a valid device for as long as the request exists, and the buffer must stay
    /// until the mapping is undone.
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

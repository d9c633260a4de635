// SPDX-License-Identifier: GPL-2.0

//! Thunks for borrowers of shared memory, and for dma-direct to recognise it when it is mapped.
//!
//! The declarations are in include/linux/cc_swiotlb.h; `#[export]` checks them against these.

use super::memory;
use crate::pool::{
    address::Phys,
    lender::Lent, //
};
use kernel::{
    bindings,
    prelude::*, //
};

/// An address as the hooks return it, 0 if there is none: page 0 is never shared.
fn raw(lent: Option<Lent<'_>>) -> bindings::phys_addr_t {
    lent.map_or(0, |lent| lent.into_addr().raw())
}

/// Lends `size` bytes in pages, on `node` if that is a node's number. May sleep if `may_sleep` says
/// so; any context but NMI otherwise.
///
/// # Safety
///
/// None: any numbers will do.
#[export]
unsafe extern "C" fn __cc_swiotlb_lend_pages(
    node: c_int,
    size: usize,
    may_sleep: bool,
) -> bindings::phys_addr_t {
    let node = usize::try_from(node).ok();
    raw(crate::pool().and_then(|pool| pool.lend_pages(node, size, may_sleep)))
}

/// Lends `size` bytes of a slot. Any context but NMI.
///
/// # Safety
///
/// None: any number will do.
#[export]
unsafe extern "C" fn __cc_swiotlb_lend_slot(size: usize) -> bindings::phys_addr_t {
    raw(crate::pool().and_then(|pool| pool.lend_slot(size)))
}

/// Takes back what was lent at `addr`; returns whether the address is ours. Any context but NMI.
///
/// # Safety
///
/// The caller must own the memory, if any is lent there, and nobody may access it any more.
#[export]
unsafe extern "C" fn __cc_swiotlb_take_back(addr: bindings::phys_addr_t, size: usize) -> bool {
    crate::pool().is_some_and(|pool| pool.take_back(Phys::new(addr), size))
}

/// Lends `size` bytes of a slot, not zeroed, as a buffer whose pages others may come to refer to.
/// Any context but NMI.
///
/// # Safety
///
/// None: any number will do.
#[export]
unsafe extern "C" fn __cc_swiotlb_lend_buffer(size: usize) -> bindings::phys_addr_t {
    raw(crate::pool().and_then(|pool| pool.lend_as_it_is(size)))
}

/// Takes back what was lent at `addr`, at once or when nobody refers to its pages any more; returns
/// whether the address is ours. Any context but NMI.
///
/// # Safety
///
/// As for [`__cc_swiotlb_take_back`], but holders of references to the pages may still access it.
#[export]
unsafe extern "C" fn __cc_swiotlb_take_back_buffer(
    addr: bindings::phys_addr_t,
    size: usize,
) -> bool {
    let addr = Phys::new(addr);
    crate::pool().is_some_and(|pool| pool.take_back_unused(addr, size, memory::is_used))
}

/// Whether `size` bytes at `addr` are lent. Any context.
///
/// # Safety
///
/// None: any numbers will do.
#[export]
unsafe extern "C" fn __cc_swiotlb_is_lent(addr: bindings::phys_addr_t, size: usize) -> bool {
    crate::pool().is_some_and(|pool| pool.is_lent(Phys::new(addr), size))
}

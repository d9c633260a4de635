// SPDX-License-Identifier: GPL-2.0

//! The parameters of a mapping.

use super::{
    address::Phys,
    layout::Layout, //
};
use crate::glue::device::DmaDevice;

/// A request for a mapping.
///
/// # Invariants
///
/// `size` bytes at `orig` are a buffer that its driver keeps until the mapping is undone.
#[derive(Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) dev: DmaDevice<'a>,
    pub(crate) orig: Phys,
    pub(crate) size: usize,
    /// Address bits that must be clear at both ends of the allocation, 0 but for dma-iommu.
    pub(crate) alloc_align_mask: u64,
    /// Whether only the device writes to the buffer.
    pub(crate) from_device: bool,
    /// Whether the driver wants no message.
    pub(crate) quiet: bool,
}

impl Request<'_> {
    /// The class of the mapping and its place in a slot, see [`Layout::find`].
    #[inline]
    pub(crate) fn layout(&self) -> Option<Layout> {
        let rules = self.dev.constraints(self.alloc_align_mask);
        Layout::find(self.orig.raw(), self.size, &rules)
    }
}

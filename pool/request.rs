// SPDX-License-Identifier: GPL-2.0

//! What a mapping is asked for with.

use super::address::Phys;

/// A mapping that is asked for.
///
/// # Invariants
///
/// `size` bytes at `orig` are a buffer that its driver keeps until the mapping is undone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(crate) orig: Phys,
    pub(crate) size: usize,
    /// Address bits that must be clear at both ends of the allocation, 0 but for dma-iommu.
    pub(crate) alloc_align_mask: u64,
    /// Whether only the device writes to the buffer.
    pub(crate) from_device: bool,
    /// Whether the driver wants no message.
    pub(crate) quiet: bool,
}

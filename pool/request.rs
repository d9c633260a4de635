// SPDX-License-Identifier: GPL-2.0

//! What a mapping is asked for with.

use super::address::Phys;

/// Which way the bytes of a mapping go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Direction {
    /// The device reads.
    ToDevice,
    /// The device writes.
    FromDevice,
    /// Both.
    Bidirectional,
}

impl Direction {
    /// Whether the device may read the buffer.
    #[inline]
    pub(crate) fn device_reads(self) -> bool {
        self != Self::FromDevice
    }

    /// Whether the device may write to the buffer.
    #[inline]
    pub(crate) fn device_writes(self) -> bool {
        self != Self::ToDevice
    }
}

/// A mapping that is asked for.
///
/// # Invariants
///
/// `size` bytes at `orig` are a buffer that its driver keeps until the mapping is undone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(super) orig: Phys,
    pub(super) size: usize,
    pub(super) alloc_align_mask: u64,
    pub(super) direction: Direction,
    /// Whether the driver wants no message.
    pub(super) quiet: bool,
}

impl Request {
    /// Asks for a mapping of `size` bytes at `orig`. `alloc_align_mask` are address bits that must
    /// be clear at both ends of the allocation, 0 but for dma-iommu.
    ///
    /// # Safety
    ///
    /// The type invariant must hold.
    #[inline]
    pub(crate) unsafe fn new(
        orig: u64,
        size: usize,
        alloc_align_mask: u32,
        direction: Direction,
        quiet: bool,
    ) -> Self {
        // INVARIANT: By the safety requirement.
        Self {
            orig: Phys::new(orig),
            size,
            alloc_align_mask: u64::from(alloc_align_mask),
            direction,
            quiet,
        }
    }
}

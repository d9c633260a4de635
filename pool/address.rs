// SPDX-License-Identifier: GPL-2.0

//! Physical addresses, as a type of their own.

use super::class::SPAN_SHIFT;

/// A guest-physical address without encryption or sharing bits, as `dma_to_phys()` gives it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Phys(u64);

impl Phys {
    /// The address `raw`.
    pub(crate) const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The bare number.
    pub(crate) const fn raw(self) -> u64 {
        self.0
    }

    /// The address `bytes` bytes higher. Wraps around: it is only ever compared or looked up.
    pub(crate) const fn add(self, bytes: usize) -> Self {
        Self(self.0.wrapping_add(bytes as u64))
    }

    /// Bytes from `start` up to this address, [`None`] below `start`.
    #[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
    pub(crate) fn since(self, start: Self) -> Option<usize> {
        self.0.checked_sub(start.0).map(|bytes| bytes as usize)
    }

    /// Bytes from the last multiple of `1 << shift` up to this address.
    pub(crate) const fn offset_in(self, shift: u32) -> usize {
        (self.0 & (1u64.wrapping_shl(shift) - 1)) as usize
    }

    /// Index of the span of memory that the address lies in.
    pub(crate) const fn span_index(self) -> usize {
        (self.0 >> SPAN_SHIFT) as usize
    }
}

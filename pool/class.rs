// SPDX-License-Identifier: GPL-2.0

//! Size classes: which slot a mapping needs.

#[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
use kernel::prelude::*;

use core::ops::{
    Index,
    IndexMut, //
};

/// log2 of the size of a span, the unit of memory that belongs to one class.
pub(crate) const SPAN_SHIFT: u32 = 19;
/// Bytes in a span.
pub(crate) const SPAN_BYTES: usize = 1 << SPAN_SHIFT;
/// Bytes in a chunk, the unit of conversion: as many as one entry of the direct map covers.
pub(crate) const CHUNK_BYTES: usize = 1 << 21;
/// Spans in a chunk.
pub(crate) const SPANS_PER_CHUNK: usize = CHUNK_BYTES / SPAN_BYTES;
/// The largest slot, and with it the largest mapping, in bytes.
pub(crate) const MAX_SLOT_BYTES: usize = SPAN_BYTES;

/// Number of size classes.
pub(crate) const CLASSES: usize = SizeClass::ALL.len();

const MIN_SHIFT: u32 = 9;

/// A size class, named after the bytes in a slot.
///
/// 512 B, 2 KiB, 4 KiB, 16 KiB and 512 KiB are those of the RFC. The steps between 4 KiB and 512
/// KiB are powers of two, so that a mapping never wastes more than half of its slot: with the RFC's
/// classes a mapping of 20 KiB took 512 KiB.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub(crate) enum SizeClass {
    B512,
    K2,
    K4,
    K8,
    K16,
    K32,
    K64,
    K128,
    K256,
    K512,
}

use SizeClass::*;

/// The class by the number of bits that an offset needs, starting at 9. There is no class of 1 KiB.
const BY_BITS: [SizeClass; 11] = [B512, K2, K2, K4, K8, K16, K32, K64, K128, K256, K512];

const NAMES: [&str; CLASSES] = [
    "512", "2K", "4K", "8K", "16K", "32K", "64K", "128K", "256K", "512K",
];

impl SizeClass {
    /// All classes, the smallest first.
    pub(crate) const ALL: [Self; 10] = [B512, K2, K4, K8, K16, K32, K64, K128, K256, K512];

    /// The smallest class whose slots hold `bytes` bytes, [`None`] above the largest.
    #[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
    pub(crate) fn for_bytes(bytes: usize) -> Option<Self> {
        Self::reaching(bytes.saturating_sub(1))
    }

    /// The smallest class whose slots have a byte at offset `last`, [`None`] above the largest.
    pub(crate) fn reaching(last: usize) -> Option<Self> {
        // The number of bits that the offset needs is log2 of the slot, rounded up.
        let bits = usize::BITS - (last | (B512.slot_bytes() - 1)).leading_zeros();
        BY_BITS.get(bits.wrapping_sub(MIN_SHIFT) as usize).copied()
    }

    /// The larger classes, the smallest of them first.
    pub(crate) fn larger(self) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(move |class| *class > self)
    }

    /// log2 of the slot size.
    pub(crate) const fn shift(self) -> u32 {
        match self {
            B512 => MIN_SHIFT,
            larger => larger as u32 + 10,
        }
    }

    /// Size of a slot in bytes.
    pub(crate) const fn slot_bytes(self) -> usize {
        1 << self.shift()
    }

    /// Slots in a span of this class.
    pub(crate) const fn slots_per_span(self) -> usize {
        SPAN_BYTES >> self.shift()
    }

    /// The most slots that a CPU keeps. For small slots that is twice what a deep queue has in
    /// flight; for the largest ones a few suffice, as the copy dwarfs the way to the depot.
    pub(crate) const fn cache_slots(self) -> usize {
        match self {
            B512 | K2 | K4 => 128,
            K8 | K16 | K32 | K64 => 64,
            K128 => 16,
            K256 => 8,
            K512 => 4,
        }
    }

    /// Whether the last spans of a node are kept for this class: the largest mapping that drivers
    /// were promised depends on it, and the legacy pool serves nothing above 256 KiB.
    pub(crate) const fn is_large(self) -> bool {
        matches!(self, K256 | K512)
    }

    /// Name as it is written in `cc_swiotlb.watermark=`.
    pub(crate) const fn name(self) -> &'static str {
        NAMES[self as usize]
    }
}

/// One value for each class.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct PerClass<T>([T; CLASSES]);

impl<T> PerClass<T> {
    /// Each class and its value.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (SizeClass, &T)> {
        SizeClass::ALL.into_iter().zip(&self.0)
    }
}

impl<T> Index<SizeClass> for PerClass<T> {
    type Output = T;

    fn index(&self, class: SizeClass) -> &T {
        &self.0[class as usize]
    }
}

impl<T> IndexMut<SizeClass> for PerClass<T> {
    fn index_mut(&mut self, class: SizeClass) -> &mut T {
        &mut self.0[class as usize]
    }
}

#[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
const _: () = {
    let mut shift = 0;
    while shift < BY_BITS.len() {
        assert!(BY_BITS[shift].shift() as usize >= shift + MIN_SHIFT as usize);
        shift += 1;
    }
    assert!(B512.shift() == MIN_SHIFT && K512.shift() == SPAN_SHIFT);
    assert!(K2.slot_bytes() == 2048 && K4.slot_bytes() == 4096);
};

#[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
#[kunit_tests(cc_swiotlb_class)]
mod tests {
    use super::*;

    #[test]
    fn smallest_class_that_fits() -> Result {
        for bytes in 0..=MAX_SLOT_BYTES {
            let class = SizeClass::for_bytes(bytes).ok_or(ERANGE)?;
            assert!(class.slot_bytes() >= bytes);
            let smaller = SizeClass::ALL.into_iter().filter(|it| *it < class).last();
            assert!(smaller.is_none_or(|smaller| smaller.slot_bytes() < bytes));
        }
        Ok(())
    }

    #[test]
    fn nothing_above_the_largest() {
        assert!(SizeClass::for_bytes(MAX_SLOT_BYTES + 1).is_none());
        assert!(SizeClass::for_bytes(usize::MAX).is_none());
        assert!(K512.larger().next().is_none());
    }

    #[test]
    fn around_each_boundary() -> Result {
        // Bytes, slot that serves them.
        for (bytes, slot) in [
            (1, 512),
            (512, 512),
            (513, 2048),
            (1024, 2048),
            (2048, 2048),
            (2049, 4096),
            (4096, 4096),
            (4097, 8192),
            (20 << 10, 32 << 10),
            ((256 << 10) + 1, 512 << 10),
            (512 << 10, 512 << 10),
        ] {
            let class = SizeClass::for_bytes(bytes).ok_or(ERANGE)?;
            assert_eq!(class.slot_bytes(), slot);
        }
        Ok(())
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Size classes: which slot a mapping needs.

#[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
use kernel::prelude::*;

/// log2 of the size of a span, the unit of memory that belongs to one class.
pub(crate) const SPAN_SHIFT: u32 = 19;
/// Bytes in a span.
pub(crate) const SPAN_BYTES: usize = 1 << SPAN_SHIFT;
/// log2 of the size of a chunk, the unit of conversion: what one entry of the direct map covers.
pub(crate) const CHUNK_SHIFT: u32 = 21;
/// Bytes in a chunk.
pub(crate) const CHUNK_BYTES: usize = 1 << CHUNK_SHIFT;
/// Spans in a chunk.
pub(crate) const SPANS_PER_CHUNK: usize = CHUNK_BYTES / SPAN_BYTES;
/// The largest slot, and with it the largest mapping, in bytes.
pub(crate) const MAX_SLOT_BYTES: usize = SPAN_BYTES;

/// The smallest slot, in bytes.
pub(crate) const MIN_SLOT_BYTES: usize = 1 << MIN_SHIFT;

/// Number of size classes.
pub(crate) const CLASSES: usize = 10;

/// log2 of the slot size of each class.
///
/// 512 B, 2 KiB, 4 KiB, 16 KiB and 512 KiB are the RFC's. The steps between 4 KiB and 512 KiB are
/// powers of two, so that a mapping never wastes more than half of its slot: with the RFC's
/// classes a mapping of 20 KiB took 512 KiB.
const SHIFTS: [u8; CLASSES] = [9, 11, 12, 13, 14, 15, 16, 17, 18, 19];

/// Slots in a magazine of each class: enough to make the depot rare, little enough that what idle
/// CPUs hold stays small. For a large slot the copy dwarfs the way to the depot. Divides the slots
/// of a span.
const MAGAZINE_SLOTS: [u8; CLASSES] = [64, 64, 64, 16, 8, 4, 4, 2, 1, 1];

/// Names as users write them in `cc_swiotlb.watermark=`.
const NAMES: [&str; CLASSES] = [
    "512", "2K", "4K", "8K", "16K", "32K", "64K", "128K", "256K", "512K",
];

/// The smallest class of slots that hold `1 << (index + MIN_SHIFT)` bytes, see [`SizeClass::reaching`].
const MIN_SHIFT: u32 = 9;
const MIN_MASK: usize = (1 << MIN_SHIFT) - 1;
const BY_SHIFT: [u8; 11] = [0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9];

/// A size class.
///
/// # Invariants
///
/// `self.0 < CLASSES`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct SizeClass(u8);

impl SizeClass {
    /// The class at `index`, counted from the smallest.
    #[inline]
    pub(crate) const fn new(index: usize) -> Option<Self> {
        if index < CLASSES {
            // INVARIANT: Just checked; `CLASSES` fits into a byte.
            Some(Self(index as u8))
        } else {
            None
        }
    }

    /// All classes, the smallest first.
    pub(crate) fn all() -> impl DoubleEndedIterator<Item = Self> {
        // INVARIANT: The range ends below `CLASSES`.
        (0..CLASSES as u8).map(Self)
    }

    /// The smallest class whose slots hold `bytes` bytes, [`None`] above the largest.
    #[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
    pub(crate) fn for_bytes(bytes: usize) -> Option<Self> {
        Self::reaching(bytes.saturating_sub(1))
    }

    /// The smallest class whose slots have a byte at offset `last`, [`None`] above the largest.
    #[inline]
    pub(crate) fn reaching(last: usize) -> Option<Self> {
        if last >= MAX_SLOT_BYTES {
            return None;
        }
        // The number of bits that the offset needs is log2 of the slot, rounded up.
        let bits = usize::BITS - (last | MIN_MASK).leading_zeros();
        let index = BY_SHIFT.get(bits.wrapping_sub(MIN_SHIFT) as usize)?;
        // INVARIANT: All entries of `BY_SHIFT` are below `CLASSES`, see the assertion below.
        Some(Self(*index))
    }

    /// The class of slots of exactly `bytes` bytes.
    pub(crate) fn of_slot_bytes(bytes: usize) -> Option<Self> {
        Self::all().find(|class| class.slot_bytes() == bytes)
    }

    /// The next larger class.
    #[inline]
    pub(crate) fn larger(self) -> Option<Self> {
        Self::new(self.index() + 1)
    }

    /// Index from the smallest, below [`CLASSES`].
    #[inline]
    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }

    /// log2 of the slot size.
    #[inline]
    pub(crate) fn shift(self) -> u32 {
        // By the type invariant the default is never used; it keeps this free of a panic.
        SHIFTS
            .get(self.index())
            .map_or(SPAN_SHIFT, |&shift| u32::from(shift))
    }

    /// Size of a slot in bytes.
    #[inline]
    pub(crate) fn slot_bytes(self) -> usize {
        1 << self.shift()
    }

    /// Slots in a span of this class.
    #[inline]
    pub(crate) fn slots_per_span(self) -> usize {
        SPAN_BYTES >> self.shift()
    }

    /// Slots in a magazine of this class.
    #[inline]
    pub(crate) fn magazine_slots(self) -> usize {
        MAGAZINE_SLOTS
            .get(self.index())
            .map_or(1, |&slots| usize::from(slots))
    }

    /// Name as it is written in `cc_swiotlb.watermark=`.
    pub(crate) fn name(self) -> &'static str {
        NAMES.get(self.index()).copied().unwrap_or("?")
    }
}

const _: () = {
    let mut class = 0;
    while class < CLASSES {
        let slots = SPAN_BYTES >> SHIFTS[class];
        assert!(slots % MAGAZINE_SLOTS[class] as usize == 0);
        class += 1;
    }
    let mut shift = 0;
    while shift < BY_SHIFT.len() {
        let class = BY_SHIFT[shift] as usize;
        assert!(class < CLASSES);
        assert!(SHIFTS[class] as u32 >= shift as u32 + MIN_SHIFT);
        shift += 1;
    }
    assert!(SHIFTS[0] as u32 == MIN_SHIFT);
    assert!(SHIFTS[CLASSES - 1] as u32 == SPAN_SHIFT);
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
            if class.index() > 0 {
                let smaller = SizeClass::new(class.index() - 1).ok_or(ERANGE)?;
                assert!(smaller.slot_bytes() < bytes);
            }
        }
        Ok(())
    }

    #[test]
    fn nothing_above_the_largest() {
        assert!(SizeClass::for_bytes(MAX_SLOT_BYTES + 1).is_none());
        assert!(SizeClass::for_bytes(usize::MAX).is_none());
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

    #[test]
    fn larger_ends_at_the_top() {
        let mut class = SizeClass::new(0);
        let mut count = 0;
        while let Some(this) = class {
            class = this.larger();
            count += 1;
        }
        assert_eq!(count, CLASSES);
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Where in a slot a mapping lies: the alignment arithmetic of swiotlb.c, without its state.
//!
//! Slots are aligned to their size. So the low bits of a bounce address are those of its offset
//! into the slot, a mapping crosses no boundary at a multiple of the slot's size, and a slot larger
//! than both alignment masks satisfies both of them.

use super::class::{
    SizeClass,
    MAX_SLOT_BYTES, //
};
#[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
use kernel::prelude::*;

/// Requirements of a device and its driver on the address of a bounce buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Constraints {
    /// Address bits that a bounce buffer must share with the original, `dma_get_min_align_mask()`.
    pub(crate) min_align_mask: u64,
    /// Address bits that must be clear at the start and at the end of the allocation; 0 unless
    /// dma-iommu asks for it.
    pub(crate) alloc_align_mask: u64,
    /// Address bits that must not carry over inside the mapping, `dma_get_seg_boundary()`.
    pub(crate) seg_boundary_mask: u64,
}

impl Constraints {
    /// Whether there can be a segment boundary within a slot.
    #[inline]
    fn splits_slots(&self) -> bool {
        const WITHIN: u64 = MAX_SLOT_BYTES as u64 - 1;
        self.seg_boundary_mask & WITHIN != WITHIN
    }

    /// Whether `size` bytes from `offset` on cross a segment boundary.
    #[cold]
    fn crosses(&self, offset: usize, size: usize) -> bool {
        // Compares with the rest of the segment, as if the slot started at a boundary. It does
        // unless segments are larger than the slot, and then nothing can cross one.
        let boundary = self.seg_boundary_mask as usize;
        size.wrapping_sub(1) > boundary - (offset & boundary)
    }
}

/// The class of a mapping, and its place in a slot of this class or of any larger one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Layout {
    /// The smallest class that serves.
    pub(crate) class: SizeClass,
    /// Bytes from the start of the slot to the mapping.
    pub(crate) offset: usize,
}

impl Layout {
    /// Finds the place for `size` bytes at the original address `orig`.
    ///
    /// [`None`] where no slot can satisfy the constraints: the mapping is too large, or its
    /// offset makes it cross a segment boundary that is smaller than its slot.
    #[inline]
    pub(crate) fn find(orig: u64, size: usize, rules: &Constraints) -> Option<Self> {
        let offset = (orig & rules.min_align_mask) as usize;
        // For an empty mapping this overflows, or is larger than any slot.
        let last = offset.checked_add(size.wrapping_sub(1))?;
        // A slot that reaches beyond the masks is aligned to more than they ask for.
        let mask = (rules.min_align_mask | rules.alloc_align_mask) as usize;
        let class = SizeClass::reaching(last | mask)?;
        if rules.splits_slots() && rules.crosses(offset, size) {
            return None;
        }
        Some(Self { class, offset })
    }
}

/// The largest mapping that always finds a [`Layout`], in bytes, whatever its address.
pub(crate) fn max_mapping_bytes(min_align_mask: u64) -> usize {
    let lost = usize::try_from(min_align_mask).map_or(usize::MAX, |mask| mask.saturating_add(1));
    let lost = if min_align_mask == 0 { 0 } else { lost };
    MAX_SLOT_BYTES.saturating_sub(lost)
}

#[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
#[kunit_tests(cc_swiotlb_layout)]
mod tests {
    use super::*;

    const FREE: Constraints = Constraints {
        min_align_mask: 0,
        alloc_align_mask: 0,
        seg_boundary_mask: u32::MAX as u64,
    };

    fn place(orig: u64, size: usize, rules: &Constraints) -> Option<(usize, usize)> {
        Layout::find(orig, size, rules).map(|at| (at.class.slot_bytes(), at.offset))
    }

    #[test]
    fn without_constraints_the_start_of_the_slot() {
        assert_eq!(place(0x1234, 1, &FREE), Some((512, 0)));
        assert_eq!(place(0x1fff, 4096, &FREE), Some((4096, 0)));
        assert_eq!(
            place(0x1fff, MAX_SLOT_BYTES, &FREE),
            Some((MAX_SLOT_BYTES, 0))
        );
        assert_eq!(place(0x1fff, MAX_SLOT_BYTES + 1, &FREE), None);
    }

    #[test]
    fn low_address_bits_are_kept() {
        let nvme = Constraints {
            min_align_mask: 4095,
            ..FREE
        };
        // Original address, size, slot and offset.
        for (orig, size, slot, offset) in [
            (0x1000, 4096, 4096, 0),
            (0x1200, 512, 4096, 0x200),
            (0x1200, 4096, 8192, 0x200),
            (0x1fff, 1, 4096, 0xfff),
            (0x1fff, 2, 8192, 0xfff),
        ] {
            assert_eq!(place(orig, size, &nvme), Some((slot, offset)));
        }
        let sectors = Constraints {
            min_align_mask: 511,
            ..FREE
        };
        assert_eq!(place(0x1201, 511, &sectors), Some((512, 1)));
        assert_eq!(place(0x1201, 512, &sectors), Some((2048, 1)));
    }

    #[test]
    fn allocation_alignment_chooses_a_slot_of_that_size() {
        let iommu = Constraints {
            alloc_align_mask: 4095,
            ..FREE
        };
        assert_eq!(place(0x1234, 16, &iommu), Some((4096, 0)));
        let iommu_64k = Constraints {
            alloc_align_mask: 0xffff,
            ..FREE
        };
        assert_eq!(place(0x1234, 16, &iommu_64k), Some((0x10000, 0)));
    }

    #[test]
    fn segment_boundaries_are_not_crossed() {
        let rules = Constraints {
            min_align_mask: 4095,
            seg_boundary_mask: 4095,
            ..FREE
        };
        assert_eq!(place(0x1200, 0xe00, &rules), Some((4096, 0x200)));
        assert_eq!(place(0x1200, 0xe01, &rules), None);
        assert_eq!(place(0x1000, 8192, &rules), None);
        let all = Constraints {
            seg_boundary_mask: u64::MAX,
            ..FREE
        };
        assert_eq!(place(0, MAX_SLOT_BYTES, &all), Some((MAX_SLOT_BYTES, 0)));
    }

    #[test]
    fn masks_that_no_slot_satisfies() {
        let rules = Constraints {
            min_align_mask: u64::MAX,
            ..FREE
        };
        assert_eq!(place(0x1000, 1, &rules), None);
        assert_eq!(place(0x1000, usize::MAX, &FREE), None);
        assert_eq!(place(0x1000, 0, &FREE), None);
    }

    #[test]
    fn the_largest_mapping_fits_at_every_offset() {
        for mask in [0u64, 511, 4095, 0xffff] {
            let rules = Constraints {
                min_align_mask: mask,
                ..FREE
            };
            let max = max_mapping_bytes(mask);
            for offset in [0, 1, mask / 2, mask] {
                assert!(Layout::find(0x10_0000 + offset, max, &rules).is_some());
            }
        }
        assert_eq!(max_mapping_bytes(u64::MAX), 0);
    }
}

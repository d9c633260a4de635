// SPDX-License-Identifier: GPL-2.0

//! The private record of one slot: 16 bytes in a cache line of their own kind.
//!
//! # Ordering
//!
//! A slot has one owner at a time: a magazine, or the mapping. Ownership passes by the lock or the
//! disabled interrupts that guard the magazine. [`Slot::begin`] publishes a mapping with a release
//! store, which pairs with the acquire loads in [`Slot::mapping`] and [`Slot::end`]: whoever gets
//! the bounce address from the driver, on whatever CPU and by whatever (even unordered) means, and
//! finds the slot mapped, sees the whole record. swiotlb.c needs a full barrier in the same place
//! because its list of pools has no such dependency.
//!
//! [`Slot::end`] is a compare-and-exchange, so that of two unmaps that race for one mapping only
//! one gives the slot back.

use super::address::Phys;
use kernel::{
    prelude::*,
    sync::atomic::{
        Acquire,
        Atomic,
        Full,
        Relaxed,
        Release, //
    },
};

const FIELD_BITS: u32 = 24;
const FIELD_MASK: u64 = (1 << FIELD_BITS) - 1;
const MAPPED: u64 = 1 << 63;
const FREE: u64 = 0;

/// A mapping as its slot records it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mapping {
    /// Physical address of the original buffer.
    pub(crate) orig: Phys,
    /// Bytes from the start of the slot to the start of the mapping.
    pub(crate) offset: usize,
    /// Size in bytes.
    pub(crate) size: usize,
}

impl Mapping {
    /// The word of the record: a mark, the offset and the size.
    ///
    /// Both fit: a slot has at most 2^19 bytes.
    fn word(&self) -> u64 {
        MAPPED | ((self.offset as u64 & FIELD_MASK) << FIELD_BITS) | (self.size as u64 & FIELD_MASK)
    }
}

/// Why a slot has no mapping to undo.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NotMapped {
    /// It has never had one.
    Never,
    /// It had one, which is over.
    Over,
}

/// The record of one slot.
///
/// # Invariants
///
/// - `word` is [`FREE`], or [`Mapping::word`] of the mapping that owns the slot.
/// - While `word` is not [`FREE`], `orig` is that mapping's original address.
pub(crate) struct Slot {
    orig: Atomic<u64>,
    word: Atomic<u64>,
}

impl Slot {
    /// A free slot that has never been used.
    pub(crate) const fn new() -> Self {
        // INVARIANT: Free.
        Self {
            orig: Atomic::new(0),
            word: Atomic::new(FREE),
        }
    }

    /// Records a mapping. To be called by the slot's owner only, of a free slot.
    #[inline]
    pub(crate) fn begin(&self, mapping: &Mapping) {
        // INVARIANT: The address is there before the mark says so.
        self.orig.store(mapping.orig.raw(), Relaxed);
        // Pairs with the acquire load in `load()`.
        self.word.store(mapping.word(), Release);
    }

    #[inline]
    fn load(&self) -> Result<(u64, Mapping), NotMapped> {
        // Pairs with the release store in `begin()`.
        let word = self.word.load(Acquire);
        let orig = self.orig.load(Relaxed);
        if word == FREE {
            return Err(if orig == 0 {
                NotMapped::Never
            } else {
                NotMapped::Over
            });
        }
        Ok((
            word,
            Mapping {
                orig: Phys::new(orig),
                offset: ((word >> FIELD_BITS) & FIELD_MASK) as usize,
                size: (word & FIELD_MASK) as usize,
            },
        ))
    }

    /// The mapping that owns the slot.
    #[inline]
    pub(crate) fn mapping(&self) -> Result<Mapping, NotMapped> {
        self.load().map(|(_, mapping)| mapping)
    }

    /// Ends `mapping`; the caller owns the slot afterwards.
    ///
    /// Fails when the slot no longer has this mapping: somebody else ended it first.
    #[inline]
    pub(crate) fn end(&self, mapping: &Mapping) -> Result<(), NotMapped> {
        // INVARIANT: Free again. Fully ordered: what was copied out of the slot was read before
        // anybody can take it again.
        match self.word.cmpxchg(mapping.word(), FREE, Full) {
            Ok(_) => Ok(()),
            Err(_) => Err(NotMapped::Over),
        }
    }
}

#[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
#[kunit_tests(cc_swiotlb_slot)]
mod tests {
    use super::*;
    use crate::pool::class::MAX_SLOT_BYTES;

    #[test]
    fn record_is_what_was_mapped() {
        let slot = Slot::new();
        assert_eq!(slot.mapping(), Err(NotMapped::Never));
        for (orig, offset, size) in [
            (0x1234_5678_9abc, 0, 1),
            (u64::MAX >> 12, 4095, 512),
            (1, MAX_SLOT_BYTES - 1, 1),
            (4096, 0, MAX_SLOT_BYTES),
        ] {
            let mapping = Mapping {
                orig: Phys::new(orig),
                offset,
                size,
            };
            slot.begin(&mapping);
            assert_eq!(slot.mapping(), Ok(mapping));
            assert_eq!(slot.end(&mapping), Ok(()));
            assert_eq!(slot.mapping(), Err(NotMapped::Over));
        }
    }

    #[test]
    fn a_mapping_ends_once() {
        let slot = Slot::new();
        let mapping = Mapping {
            orig: Phys::new(0x1000),
            offset: 0,
            size: 100,
        };
        slot.begin(&mapping);
        let other = Mapping {
            size: 101,
            ..mapping
        };
        assert_eq!(slot.end(&other), Err(NotMapped::Over));
        assert_eq!(slot.end(&mapping), Ok(()));
        assert_eq!(slot.end(&mapping), Err(NotMapped::Over));
    }
}

// SPDX-License-Identifier: GPL-2.0

//! The private record of one slot: 16 bytes in a cache line of their own kind.
//!
//! # Ordering
//!
//! A slot has one owner at a time: a magazine, the mapping, or whoever ends the mapping. Ownership
//! passes by the lock or the disabled interrupts that guard the magazine.
//!
//! [`Slot::begin`] ends with a write barrier, after which the driver gets the address and stores it
//! somewhere. Who loads it from there, on another CPU and even without any ordering of the driver's
//! own, finds the record by that address: the dependency is the other half of the barrier
//! ([`Slot::mapping`] and [`Slot::claim`]). swiotlb.c orders its records in the same place.
//!
//! A mapping is undone in two steps. [`Slot::claim`] is a compare-and-exchange, so that of two
//! unmaps that race for one mapping only one goes on; the record does not change while it copies.
//! [`Slot::free`] is a release store: the copy is over before anybody can take the slot again.

use super::{
    address::Phys,
    class::MAX_SLOT_BYTES, //
};
use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Relaxed,
            Release, //
        },
        barrier::{
            smp_mb,
            Read,
            Write, //
        }, //
    },
};

const FIELD_BITS: u32 = 24;
const FIELD_MASK: u64 = (1 << FIELD_BITS) - 1;
const MAPPED: u64 = 1 << 63;
/// The mapping is being undone; the rest of the word is still the mapping's.
const ENDING: u64 = 1 << 62;
const FREE: u64 = 0;

/// A mapping as its slot records it.
///
/// # Invariants
///
/// - `size` bytes at `orig` are a buffer that its driver keeps until the mapping is undone.
/// - `offset + size` is at most the size of the slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mapping {
    orig: Phys,
    offset: usize,
    size: usize,
}

impl Mapping {
    /// The mapping of a buffer to a slot, from `offset` on.
    ///
    /// # Safety
    ///
    /// The type invariants must hold.
    #[inline]
    pub(crate) unsafe fn new(orig: Phys, offset: usize, size: usize) -> Self {
        // INVARIANT: By the safety requirement.
        Self { orig, offset, size }
    }

    /// Physical address of the original buffer.
    #[inline]
    pub(crate) fn orig(&self) -> Phys {
        self.orig
    }

    /// Bytes from the start of the slot to the start of the mapping.
    #[inline]
    pub(crate) fn offset(&self) -> usize {
        self.offset
    }

    /// Size in bytes.
    #[inline]
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// The first `bytes` bytes of the mapping.
    pub(crate) fn first(&self, bytes: usize) -> Self {
        // INVARIANT: A part of what it was.
        Self {
            size: self.size.min(bytes),
            ..*self
        }
    }
}

/// The word of a record: a mark, the offset and the size, of which each has at most 2^19 bytes.
#[inline]
fn word_of(offset: usize, size: usize) -> u64 {
    MAPPED | ((offset as u64) << FIELD_BITS) | size as u64
}

/// Why a slot has no mapping to undo.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NotMapped {
    /// It has never had one.
    Never,
    /// It had one, which is over.
    Over,
    /// It has one, but not there.
    Elsewhere,
}

/// The record of one slot.
///
/// # Invariants
///
/// - `word` is [`FREE`], or [`word_of`] the mapping that owns the slot, with [`ENDING`]
///   set while that is undone.
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
        // INVARIANT: The address is there before the mark says so. And it is not before the slot is
        // free: `mapping()`, which looks at the mark twice, would not see that it is another's.
        self.orig.store(mapping.orig.raw(), Release);
        self.word
            .store(word_of(mapping.offset, mapping.size), Release);
        // Pairs with the address dependency of `mapping()` and `claim()`.
        smp_mb(Write);
    }

    /// What the record says, if `word` is its word.
    #[inline]
    fn decode(&self, word: u64) -> Result<Mapping, NotMapped> {
        let orig = self.orig.load(Relaxed);
        if word & MAPPED == 0 || word & ENDING != 0 {
            return Err(if orig == 0 {
                NotMapped::Never
            } else {
                NotMapped::Over
            });
        }
        // INVARIANT: That is what `begin()` was given. If the slot has got another mapping between
        // the two loads, `mapping()` and `claim()` find out before anybody uses it.
        Ok(Mapping {
            orig: Phys::new(orig),
            offset: ((word >> FIELD_BITS) & FIELD_MASK) as usize,
            size: (word & FIELD_MASK) as usize,
        })
    }

    /// The mapping that owns the slot.
    #[inline]
    pub(crate) fn mapping(&self) -> Result<Mapping, NotMapped> {
        let word = self.word.load(Acquire);
        let mapping = self.decode(word)?;
        smp_mb(Read);
        if self.word.load(Relaxed) != word {
            // Undone meanwhile: the driver syncs what it unmaps.
            return Err(NotMapped::Over);
        }
        Ok(mapping)
    }

    /// Claims the mapping of `size` bytes at `offset` for whoever undoes it: nobody else will, and
    /// the record stays as it is until [`Self::free`].
    ///
    /// [`None`] if the slot has no such mapping, see [`Self::claim_any`].
    #[inline]
    pub(crate) fn claim(&self, offset: usize, size: usize) -> Option<Mapping> {
        if size > MAX_SLOT_BYTES {
            return None;
        }
        let word = word_of(offset, size);
        // INVARIANT: Ending.
        self.word.cmpxchg(word, word | ENDING, Acquire).ok()?;
        // INVARIANT: The word says so, and with it came the original address.
        Some(Mapping {
            orig: Phys::new(self.orig.load(Relaxed)),
            offset,
            size,
        })
    }

    /// The same for a mapping of any size.
    ///
    /// A mapping at another offset is left alone: [`NotMapped::Elsewhere`].
    pub(crate) fn claim_any(&self, offset: usize) -> Result<Mapping, NotMapped> {
        let word = self.word.load(Relaxed);
        if self.decode(word)?.offset != offset {
            return Err(NotMapped::Elsewhere);
        }
        // INVARIANT: Ending.
        match self.word.cmpxchg(word, word | ENDING, Acquire) {
            Ok(_) => self.decode(word),
            Err(_) => Err(NotMapped::Over),
        }
    }

    /// Takes back a claim on `mapping` that turned out to be of another slot.
    #[cold]
    pub(crate) fn unclaim(&self, mapping: &Mapping) {
        let word = word_of(mapping.offset, mapping.size);
        // INVARIANT: As before the claim.
        self.word.store(word, Release);
    }

    /// Ends the mapping that the caller has claimed; the caller owns the slot now.
    #[inline]
    pub(crate) fn free(&self) {
        // INVARIANT: Free again.
        self.word.store(FREE, Release);
    }
}

#[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
#[kunit_tests(cc_swiotlb_slot)]
mod tests {
    use super::*;
    use crate::pool::class::MAX_SLOT_BYTES;

    /// A mapping that nobody copies.
    fn mapping(orig: u64, offset: usize, size: usize) -> Mapping {
        // SAFETY: Nothing is done with the buffer.
        unsafe { Mapping::new(Phys::new(orig), offset, size) }
    }

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
            let mapping = mapping(orig, offset, size);
            slot.begin(&mapping);
            assert_eq!(slot.mapping(), Ok(mapping));
            assert_eq!(slot.claim(offset, size), Some(mapping));
            slot.free();
            assert_eq!(slot.mapping(), Err(NotMapped::Over));
        }
    }

    #[test]
    fn a_mapping_is_claimed_once() {
        let slot = Slot::new();
        assert_eq!(slot.claim(0, 1), None);
        assert_eq!(slot.claim_any(0), Err(NotMapped::Never));
        let mapping = mapping(0x1000, 8, 100);
        slot.begin(&mapping);
        assert_eq!(slot.claim_any(0), Err(NotMapped::Elsewhere));
        assert_eq!(slot.claim_any(8), Ok(mapping));
        assert_eq!(slot.claim_any(8), Err(NotMapped::Over));
        assert_eq!(slot.mapping(), Err(NotMapped::Over));
        slot.free();
        assert_eq!(slot.claim_any(8), Err(NotMapped::Over));
    }
}

// SPDX-License-Identifier: GPL-2.0

//! The private record of one slot: 16 bytes, in a cache line that holds nothing but such records.
//!
//! # Ordering
//!
//! A slot has one owner at a time: its span, a CPU's stack, the mapping or borrower that has it, or
//! the caller that ends the mapping. Ownership changes under the depot's lock, or with interrupts
//! disabled, which guards the stack.
//!
//! [`Slot::begin`] ends with a write barrier, after which the driver gets the address and stores it
//! somewhere. A CPU that loads the address from there, even without any ordering by the driver,
//! finds the record through it: this address dependency is the other half of the barrier
//! ([`Slot::mapping`] and [`Slot::claim`]). swiotlb.c orders its records in the same place.
//!
//! A mapping is undone in two steps. [`Slot::claim`] is a compare-and-exchange, so that of two
//! unmaps that race for one mapping only one goes on; the record does not change while it copies.
//! [`Slot::free`] is a release store: the copy is over before anybody can take the slot again.

use super::{
    address::Phys,
    class::{
        CHUNK_BYTES,
        MAX_SLOT_BYTES,
        SPAN_BYTES,
        SPAN_SHIFT, //
    },
    misuse::Misuse, //
};
use crate::glue::once::read_once;
use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Full,
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
const SIZE_MASK: u64 = (1 << FIELD_BITS) - 1;
const OFFSET_MASK: u64 = SPAN_BYTES as u64 - 1;
/// A mapping owns the slot. Only this bit is cleared while the mapping is being undone.
const MAPPED: u64 = 1 << 63;
/// The memory is lent, and belongs to no mapping.
const LENT: u64 = 1 << 62;
/// The owner has given the lent memory back, but others still refer to it.
const DEFERRED: u64 = 1 << 61;
const FREE: u64 = 0;

/// A mapping, or a part of one.
///
/// # Invariants
///
/// - `shared..shared + size` lies within one slot.
/// - The `size` bytes at `orig` belong to a buffer that its driver keeps until the mapping is
///   undone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mapping {
    shared: Phys,
    orig: Phys,
    size: usize,
}

impl Mapping {
    /// The mapping of a buffer to a slot, at `shared`.
    ///
    /// # Safety
    ///
    /// The type invariants must hold.
    pub(crate) unsafe fn new(shared: Phys, orig: Phys, size: usize) -> Self {
        // INVARIANT: By the safety requirement.
        Self { shared, orig, size }
    }

    /// Where it lies in shared memory.
    pub(crate) fn shared(&self) -> Phys {
        self.shared
    }

    /// Physical address of the original buffer.
    pub(crate) fn orig(&self) -> Phys {
        self.orig
    }

    /// Size in bytes.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// The part of at most `bytes` bytes from `addr` on; `addr` lies in the same span. [`None`] if
    /// it is outside the mapping.
    #[inline]
    pub(crate) fn part(&self, addr: Phys, bytes: usize) -> Option<Self> {
        let start = self.shared.offset_in(SPAN_SHIFT);
        let skip = addr.offset_in(SPAN_SHIFT).checked_sub(start)?;
        if skip >= self.size {
            return None;
        }
        // INVARIANT: A part of a mapping lies within the same slot and buffer.
        Some(Self {
            shared: addr,
            orig: self.orig.add(skip),
            size: bytes.min(self.size - skip),
        })
    }

    /// The first `bytes` bytes.
    pub(crate) fn first(&self, bytes: usize) -> Self {
        // INVARIANT: A part of a mapping lies within the same slot and buffer.
        Self {
            size: self.size.min(bytes),
            ..*self
        }
    }
}

/// The word of a record: a mark, the offset of the mapping in its span, and its size. A mapping has
/// at most 2^19 bytes, lent memory at most 2^21.
fn word_of(mark: u64, shared: Phys, size: usize) -> u64 {
    mark | ((shared.offset_in(SPAN_SHIFT) as u64) << FIELD_BITS) | size as u64
}

/// The record of one slot.
///
/// # Invariants
///
/// - `word` is [`FREE`]; or [`word_of`] the mapping that owns the slot, without [`MAPPED`] while
///   the mapping is being undone; or that of the memory that is lent from the slot on, with
///   [`DEFERRED`] once its owner is done with it and others are not.
/// - While a mapping owns the slot, `orig` is that mapping's original address.
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

    /// Records a mapping. To be called only by the slot's owner, on a free slot or to undo a claim.
    #[inline]
    pub(crate) fn begin(&self, mapping: &Mapping) {
        // INVARIANT: The address is stored before the mark, and not before the slot is free: else
        // `mapping()`, which reads the mark twice, would not see that it is another mapping's.
        self.orig.store(mapping.orig.raw(), Release);
        let word = word_of(MAPPED, mapping.shared, mapping.size);
        self.word.store(word, Release);
        // Pairs with the address dependency of `mapping()` and `claim()`.
        smp_mb(Write);
    }

    /// The mapping that the record describes, if `word` is its word; `addr` lies in the same span.
    #[inline]
    fn decode(&self, word: u64, addr: Phys) -> Option<Mapping> {
        if word & MAPPED == 0 {
            return None;
        }
        let span = addr.raw() - addr.offset_in(SPAN_SHIFT) as u64;
        // INVARIANT: `begin()` was given these values. If the slot got another mapping between the
        // two loads, `mapping()` and `claim_any()` notice it before anybody uses the result.
        Some(Mapping {
            shared: Phys::new(span | ((word >> FIELD_BITS) & OFFSET_MASK)),
            orig: Phys::new(read_once(&self.orig)),
            size: (word & SIZE_MASK) as usize,
        })
    }

    /// The mapping that owns the slot; `addr` lies in the slot.
    #[inline]
    pub(crate) fn mapping(&self, addr: Phys) -> Option<Mapping> {
        let word = read_once(&self.word);
        smp_mb(Read);
        let mapping = self.decode(word, addr)?;
        smp_mb(Read);
        // If it was undone meanwhile, the driver syncs a mapping that it is unmapping.
        (read_once(&self.word) == word).then_some(mapping)
    }

    /// Claims the mapping of `size` bytes at `addr` for the caller to undo it: nobody else will,
    /// and the record stays as it is until [`Self::free`].
    ///
    /// [`None`] if the slot has no such mapping, see [`Self::claim_any`].
    #[inline]
    pub(crate) fn claim(&self, addr: Phys, size: usize) -> Option<Mapping> {
        if size > MAX_SLOT_BYTES {
            return None;
        }
        let word = word_of(MAPPED, addr, size);
        // INVARIANT: The mapping is being undone from here on.
        self.word.cmpxchg(word, word & !MAPPED, Acquire).ok()?;
        // INVARIANT: The word had these values, and the acquire makes the original address visible.
        Some(Mapping {
            shared: addr,
            orig: Phys::new(read_once(&self.orig)),
            size,
        })
    }

    /// As [`Self::claim`], for a mapping of any size. A mapping at another address is left alone.
    #[cold]
    #[inline(never)]
    pub(super) fn claim_any(&self, addr: Phys) -> Result<Mapping, Misuse> {
        let word = self.word.load(Relaxed);
        let Some(mapping) = self.decode(word, addr) else {
            return Err(match self.orig.load(Relaxed) {
                // The slot has never had a mapping.
                0 => Misuse::WrongAddress,
                _ => Misuse::DoubleUnmap,
            });
        };
        if mapping.shared != addr {
            return Err(Misuse::WrongAddress);
        }
        // INVARIANT: The mapping is being undone from here on.
        let claimed = self.word.cmpxchg(word, word & !MAPPED, Acquire);
        let claimed = claimed.ok().and_then(|word| self.decode(word, addr));
        claimed.ok_or(Misuse::DoubleUnmap)
    }

    /// Ends the mapping that the caller has claimed; the caller owns the slot now.
    #[inline]
    pub(crate) fn free(&self) {
        // INVARIANT: Free again.
        self.word.store(FREE, Release);
    }

    /// Records that `bytes` bytes from `addr` on, at most a chunk, are lent. Only for the owner of
    /// this slot and of all others that they lie in, on free slots or to undo a claim.
    pub(super) fn lend(&self, addr: Phys, bytes: usize) {
        // INVARIANT: Lent.
        self.word.store(word_of(LENT, addr, bytes), Release);
        // Pairs with the address dependency of `take_back()` and `lent_from()`.
        smp_mb(Write);
    }

    /// Ends the loan, if exactly these bytes are lent: only one of several callers gets the slots.
    /// All earlier accesses to the memory are over then.
    pub(super) fn take_back(&self, addr: Phys, bytes: usize) -> bool {
        let word = word_of(LENT, addr, bytes);
        // INVARIANT: Free again.
        bytes <= CHUNK_BYTES && self.word.cmpxchg(word, FREE, Full).is_ok()
    }

    /// Claims the loan, if exactly these bytes are lent, for the caller to take it back later: the
    /// memory stays lent, and nobody else can take it back. [`Self::lend`] ends the claim.
    pub(super) fn defer(&self, addr: Phys, bytes: usize) -> bool {
        let word = word_of(LENT, addr, bytes);
        // INVARIANT: Its owner is done with it.
        bytes <= CHUNK_BYTES && self.word.cmpxchg(word, word | DEFERRED, Full).is_ok()
    }

    /// Keeps a number for the caller of [`Self::defer`], in place of a mapping's original address.
    pub(super) fn set_next(&self, next: u64) {
        self.orig.store(next, Relaxed);
    }

    /// The number that [`Self::set_next`] was given.
    pub(super) fn next(&self) -> u64 {
        self.orig.load(Relaxed)
    }

    /// How many bytes from `addr` on, which lies in the slot, are lent; [`None`] if the first is
    /// not.
    pub(super) fn lent_from(&self, addr: Phys) -> Option<usize> {
        let word = self.word.load(Relaxed);
        let end = ((word >> FIELD_BITS) & OFFSET_MASK) + (word & SIZE_MASK);
        let left = (end as usize).checked_sub(addr.offset_in(SPAN_SHIFT));
        left.filter(|left| word & LENT != 0 && *left > 0)
    }
}

#[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
#[kunit_tests(cc_swiotlb_slot)]
mod tests {
    use super::*;
    use crate::pool::class::MAX_SLOT_BYTES;

    /// A mapping that nobody copies.
    fn mapping(orig: u64, offset: usize, size: usize) -> Mapping {
        // SAFETY: The buffer is never accessed.
        unsafe { Mapping::new(at(offset), Phys::new(orig), size) }
    }

    /// An address in a span that is not the first.
    fn at(offset: usize) -> Phys {
        Phys::new(7 << SPAN_SHIFT).add(offset)
    }

    #[test]
    fn record_is_what_was_mapped() {
        let slot = Slot::new();
        assert_eq!(slot.mapping(at(0)), None);
        for (orig, offset, size) in [
            (0x1234_5678_9abc, 0, 1),
            (u64::MAX >> 12, 4095, 512),
            (1, MAX_SLOT_BYTES - 1, 1),
            (4096, 0, MAX_SLOT_BYTES),
        ] {
            let mapping = mapping(orig, offset, size);
            slot.begin(&mapping);
            assert_eq!(slot.mapping(at(1)), Some(mapping));
            assert_eq!(slot.claim(at(offset), size), Some(mapping));
            slot.free();
            assert_eq!(slot.mapping(at(1)), None);
        }
    }

    #[test]
    fn a_mapping_is_claimed_once() {
        let slot = Slot::new();
        assert_eq!(slot.claim(at(0), 1), None);
        assert_eq!(slot.claim_any(at(0)), Err(Misuse::WrongAddress));
        let mapping = mapping(0x1000, 8, 100);
        slot.begin(&mapping);
        assert_eq!(slot.claim_any(at(0)), Err(Misuse::WrongAddress));
        assert_eq!(slot.claim_any(at(8)), Ok(mapping));
        assert_eq!(slot.claim_any(at(8)), Err(Misuse::DoubleUnmap));
        assert_eq!(slot.mapping(at(8)), None);
        slot.free();
        assert_eq!(slot.claim_any(at(8)), Err(Misuse::DoubleUnmap));
    }

    #[test]
    fn lent_memory_is_no_mapping_and_is_taken_back_once() {
        let slot = Slot::new();
        // Offset in the span, bytes that are lent.
        for (offset, bytes) in [(0, 1), (512, 512), (4096, CHUNK_BYTES)] {
            let addr = at(offset);
            slot.lend(addr, bytes);
            assert!(slot.mapping(addr).is_none() && slot.claim(addr, bytes).is_none());
            assert!(slot.claim_any(addr).is_err());
            assert_eq!(slot.lent_from(addr), Some(bytes));
            assert!(!slot.take_back(addr, bytes + 1) && !slot.take_back(addr.add(1), bytes));
            assert!(slot.take_back(addr, bytes) && !slot.take_back(addr, bytes));
            assert_eq!(slot.lent_from(addr), None);
        }
        slot.lend(at(512), 100);
        for (offset, left) in [(611, Some(1)), (612, None), (1023, None)] {
            assert_eq!(slot.lent_from(at(offset)), left);
        }
        slot.take_back(at(512), 100);
        // A mapping is not lent.
        slot.begin(&mapping(0x1000, 0, 512));
        assert!(slot.lent_from(at(0)).is_none() && !slot.take_back(at(0), 512));
        assert!(slot.claim(at(0), 512).is_some());
    }

    #[test]
    fn parts_end_with_the_mapping() {
        let mapping = mapping(0x1000, 100, 50);
        // First byte in the slot, bytes that are asked for, bytes of them that are mapped.
        for (offset, bytes, left) in [
            (100, 50, Some(50)),
            (100, 51, Some(50)),
            (120, 10, Some(10)),
            (149, usize::MAX, Some(1)),
            (150, 0, None),
            (99, 1, None),
        ] {
            let part = mapping.part(at(offset), bytes);
            assert_eq!(part.map(|part| part.size), left);
            assert!(part.is_none_or(|part| part.orig.raw() == (0x1000 + offset - 100) as u64));
        }
    }
}

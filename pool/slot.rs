// SPDX-License-Identifier: GPL-2.0

//! The private record of one slot: 16 bytes in a cache line of their own kind.
//!
//! # Ordering
//!
//! A slot has one owner at a time: its span, a CPU's stack, the mapping or borrower that has it, or
//! whoever ends the mapping. Ownership passes by the depot's lock, or by the disabled interrupts that
//! guard the stack.
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
/// A mapping owns the slot. While it is being undone the rest of the word is still there.
const MAPPED: u64 = 1 << 63;
/// The memory is lent, and is no mapping's.
const LENT: u64 = 1 << 62;
/// What is lent waits for others than its owner.
const DEFERRED: u64 = 1 << 61;
const FREE: u64 = 0;

/// A mapping, or a part of one.
///
/// # Invariants
///
/// - `shared..shared + size` lies within one slot.
/// - `size` bytes at `orig` are of a buffer that its driver keeps until the mapping is undone.
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

    /// The part of at most `bytes` bytes from `addr` on, which lies in the same span. [`None`] if it is
    /// outside.
    #[inline]
    pub(crate) fn part(&self, addr: Phys, bytes: usize) -> Option<Self> {
        let start = self.shared.offset_in(SPAN_SHIFT);
        let skip = addr.offset_in(SPAN_SHIFT).checked_sub(start)?;
        if skip >= self.size {
            return None;
        }
        // INVARIANT: A part of what is within the slot and the buffer.
        Some(Self {
            shared: addr,
            orig: self.orig.add(skip),
            size: bytes.min(self.size - skip),
        })
    }

    /// The first `bytes` bytes.
    pub(crate) fn first(&self, bytes: usize) -> Self {
        // INVARIANT: A part of what it was.
        Self {
            size: self.size.min(bytes),
            ..*self
        }
    }
}

/// The word of a record: a mark, how far into its span the mapping lies, and its size. A mapping has at
/// most 2^19 bytes, what is lent 2^21.
fn word_of(mark: u64, shared: Phys, size: usize) -> u64 {
    mark | ((shared.offset_in(SPAN_SHIFT) as u64) << FIELD_BITS) | size as u64
}

/// The record of one slot.
///
/// # Invariants
///
/// - `word` is [`FREE`], or [`word_of`] the mapping that owns the slot, without [`MAPPED`] while that
///   is undone, or of what is lent from the slot on, with [`DEFERRED`] set once its owner is done with
///   it and others are not.
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

    /// Records a mapping. To be called by the slot's owner only: of a free slot, or to take back a claim.
    #[inline]
    pub(crate) fn begin(&self, mapping: &Mapping) {
        // INVARIANT: The address is there before the mark says so. And it is not before the slot is
        // free: `mapping()`, which looks at the mark twice, would not see that it is another's.
        self.orig.store(mapping.orig.raw(), Release);
        let word = word_of(MAPPED, mapping.shared, mapping.size);
        self.word.store(word, Release);
        // Pairs with the address dependency of `mapping()` and `claim()`.
        smp_mb(Write);
    }

    /// What the record says, if `word` is its word; `addr` lies in the same span.
    #[inline]
    fn decode(&self, word: u64, addr: Phys) -> Option<Mapping> {
        if word & MAPPED == 0 {
            return None;
        }
        let span = addr.raw() - addr.offset_in(SPAN_SHIFT) as u64;
        // INVARIANT: That is what `begin()` was given. If the slot has got another mapping between
        // the two loads, `mapping()` and `claim_any()` find out before anybody uses it.
        Some(Mapping {
            shared: Phys::new(span | ((word >> FIELD_BITS) & OFFSET_MASK)),
            orig: Phys::new(read_once(&self.orig)),
            size: (word & SIZE_MASK) as usize,
        })
    }

    /// The mapping that owns the slot, which `addr` lies in.
    #[inline]
    pub(crate) fn mapping(&self, addr: Phys) -> Option<Mapping> {
        let word = read_once(&self.word);
        smp_mb(Read);
        let mapping = self.decode(word, addr)?;
        smp_mb(Read);
        // If it was undone meanwhile, the driver syncs what it unmaps.
        (read_once(&self.word) == word).then_some(mapping)
    }

    /// Claims the mapping of `size` bytes at `addr` for whoever undoes it: nobody else will, and
    /// the record stays as it is until [`Self::free`].
    ///
    /// [`None`] if the slot has no such mapping, see [`Self::claim_any`].
    #[inline]
    pub(crate) fn claim(&self, addr: Phys, size: usize) -> Option<Mapping> {
        if size > MAX_SLOT_BYTES {
            return None;
        }
        let word = word_of(MAPPED, addr, size);
        // INVARIANT: It is undone from here on.
        self.word.cmpxchg(word, word & !MAPPED, Acquire).ok()?;
        // INVARIANT: The word says so, and with it came the original address.
        Some(Mapping {
            shared: addr,
            orig: Phys::new(read_once(&self.orig)),
            size,
        })
    }

    /// The same for a mapping of any size. A mapping at another address is left alone.
    #[cold]
    #[inline(never)]
    pub(super) fn claim_any(&self, addr: Phys) -> Result<Mapping, Misuse> {
        let word = self.word.load(Relaxed);
        let Some(mapping) = self.decode(word, addr) else {
            return Err(match self.orig.load(Relaxed) {
                // It has never had one.
                0 => Misuse::WrongAddress,
                _ => Misuse::DoubleUnmap,
            });
        };
        if mapping.shared != addr {
            return Err(Misuse::WrongAddress);
        }
        // INVARIANT: It is undone from here on.
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

    /// Records that `bytes` bytes from `addr` on, at most a chunk, are lent. To be called by the owner
    /// of the slot only, and of all others that the bytes lie in: of free ones, or to take back a claim.
    pub(super) fn lend(&self, addr: Phys, bytes: usize) {
        // INVARIANT: Lent.
        self.word.store(word_of(LENT, addr, bytes), Release);
        // Pairs with the address dependency of `take_back()` and `lent_from()`.
        smp_mb(Write);
    }

    /// Ends that, if exactly this is lent: of several callers one gets the slots. What was done to the
    /// memory before is over.
    pub(super) fn take_back(&self, addr: Phys, bytes: usize) -> bool {
        let word = word_of(LENT, addr, bytes);
        // INVARIANT: Free again.
        bytes <= CHUNK_BYTES && self.word.cmpxchg(word, FREE, Full).is_ok()
    }

    /// Claims what is lent, if it is exactly this, for whoever takes it back later: it stays lent, and
    /// nobody else will. That ends with [`Self::lend`].
    pub(super) fn defer(&self, addr: Phys, bytes: usize) -> bool {
        let word = word_of(LENT, addr, bytes);
        // INVARIANT: Its owner is done with it.
        bytes <= CHUNK_BYTES && self.word.cmpxchg(word, word | DEFERRED, Full).is_ok()
    }

    /// Keeps a number for the caller of [`Self::defer`], where a mapping has its original address.
    pub(super) fn set_next(&self, next: u64) {
        self.orig.store(next, Relaxed);
    }

    /// That number.
    pub(super) fn next(&self) -> u64 {
        self.orig.load(Relaxed)
    }

    /// How many bytes are lent from `addr` on, which lies in the slot; [`None`] if the first is not.
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
        // SAFETY: Nothing is done with the buffer.
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

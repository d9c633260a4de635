// SPDX-License-Identifier: GPL-2.0

//! Spans: 512 KiB of shared memory, unbound, or bound to one class and cut into its slots.
//!
//! A span knows which of its slots are home; all others are with a CPU's cache or a mapping. When all
//! are home nobody uses the span, and it can be unbound and bound to another class at once: nothing
//! has to be searched for, and nobody has to be waited for.
//!
//! # Locking
//!
//! `home` and the links belong to the lock of the depot that the span is bound to, or of the stock
//! that it is in while it is unbound. They are atomic so that a span can be shared; no access relies
//! on it.
//!
//! # Stale addresses
//!
//! A span is never freed, and an unmap looks at it without any lock. The binding may change between
//! its look-up and its claim only if the address has no mapping: a slot that is mapped is not home.
//! So an unmap compares the binding after it has claimed the record ([`Span::is_bound_as`]): if it
//! changed, the driver has unmapped what was unmapped before. If the slot is mapped again in that
//! moment, at the same offset and with the same size, its own unmap may be taken for the wrong one:
//! it is reported, and the slot is lost.

use super::{
    address::Phys,
    chunk::Chunk,
    class::{
        SizeClass,
        SPAN_SHIFT, //
    },
    list::{
        Linked,
        Links, //
    },
    slot::Slot, //
};
use crate::glue::link::Link;
use kernel::{
    alloc::{
        AllocError,
        Flags, //
    },
    prelude::*,
    sync::atomic::{
        Acquire,
        Atomic,
        Relaxed,
        Release, //
    },
};

/// Records in a table: enough for all classes but that of 512 B, which has four tables.
const TABLE_SLOTS: usize = 256;
const TABLES: usize = SizeClass::B512.slots_per_span() / TABLE_SLOTS;
const WORD_BITS: usize = u64::BITS as usize;
const WORDS: usize = SizeClass::B512.slots_per_span() / WORD_BITS;

type Table = [Slot; TABLE_SLOTS];

/// A free slot: its record, and where it is.
#[derive(Clone, Copy)]
pub(crate) struct FreeSlot {
    /// Start of the slot.
    pub(crate) base: Phys,
    /// The slot's record, in private memory.
    pub(crate) slot: &'static Slot,
}

/// What a span is bound to, and how often it has been bound: log2 of the slot size in the lowest byte,
/// which is all that a sync needs, the class in four bits, and a count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Binding(u32);

impl Binding {
    const SHIFT: u32 = 0xff;
    const CLASS: u32 = 0xf00;
    const CLASS_AT: u32 = Self::CLASS.trailing_zeros();
    const NEXT: u32 = Self::CLASS + (1 << Self::CLASS_AT);
    /// No class. As slots go there is one, without a mapping.
    const UNBOUND: u32 = Self::CLASS | SPAN_SHIFT;

    /// The class, [`None`] while the span is unbound.
    pub(crate) fn class(self) -> Option<SizeClass> {
        let class = (self.0 & Self::CLASS) >> Self::CLASS_AT;
        SizeClass::ALL.get(class as usize).copied()
    }

    /// log2 of the slot size, or of the span's while it is unbound.
    fn shift(self) -> u32 {
        self.0 & Self::SHIFT
    }

    /// The binding to `class` that follows this one.
    fn next(self, class: Option<SizeClass>) -> Self {
        let class = class.map_or(Self::UNBOUND, |class| {
            (class as u32) << Self::CLASS_AT | class.shift()
        });
        Self((self.0 & !(Self::CLASS | Self::SHIFT)).wrapping_add(Self::NEXT) | class)
    }
}

/// A span.
pub(crate) struct Span {
    binding: Atomic<u32>,
    base: Atomic<u64>,
    /// The records. The first table is always there; the others are made when the span is first
    /// bound to the class of 512 B. All records are free while the span is unbound.
    tables: [Link<Table>; TABLES],
    /// The slots that are home, one bit each, and their number.
    home: [Atomic<u64>; WORDS],
    home_slots: Atomic<u32>,
    chunk: Link<Chunk>,
    links: Links<Self>,
}

/// The level of spans whose slots are all home. Below it they are sorted by quarters, the fullest
/// first.
pub(super) const ALL_HOME: usize = 4;

impl Linked for Span {
    fn links(&self) -> &Links<Self> {
        &self.links
    }

    fn level(&self) -> Option<usize> {
        let slots = self.binding().class()?.slots_per_span();
        match self.home_slots() as usize {
            0 => None,
            home => Some(home * ALL_HOME / slots),
        }
    }
}

impl Span {
    /// A span without memory.
    pub(crate) const fn new() -> Self {
        Self {
            binding: Atomic::new(Binding::UNBOUND),
            base: Atomic::new(0),
            tables: [const { Link::new() }; TABLES],
            home: [const { Atomic::new(0) }; WORDS],
            home_slots: Atomic::new(0),
            chunk: Link::new(),
            links: Links::new(),
        }
    }

    /// Makes the first `count` tables of records, if they are not there yet.
    pub(super) fn make_tables(&self, count: usize, flags: Flags) -> Result<(), AllocError> {
        for table in self.tables.iter().take(count) {
            if table.get().is_none() {
                let records = pin_init::init_array_from_fn(|_| Slot::new());
                let made: KBox<Table> = KBox::init(records, flags).map_err(|_| AllocError)?;
                table.set(Some(KBox::leak(made)));
            }
        }
        Ok(())
    }

    /// Gives the span the memory from `base` on. It is unbound, and not in the directory yet.
    pub(crate) fn place(&self, base: Phys, chunk: &'static Chunk) {
        self.base.store(base.raw(), Relaxed);
        self.chunk.set(Some(chunk));
    }

    /// Start of the span's memory.
    pub(crate) fn base(&self) -> Phys {
        Phys::new(self.base.load(Relaxed))
    }

    /// The chunk that the span is a part of, [`None`] before it is placed.
    pub(crate) fn chunk(&self) -> Option<&'static Chunk> {
        self.chunk.get()
    }

    /// What the span is bound to.
    pub(crate) fn binding(&self) -> Binding {
        // Pairs with `set_binding()`.
        Binding(self.binding.load(Acquire))
    }

    /// Whether it is still bound as it was, after a claim that was an acquire.
    pub(crate) fn is_bound_as(&self, binding: Binding) -> bool {
        self.binding.load(Relaxed) == binding.0
    }

    fn set_binding(&self, class: Option<SizeClass>) {
        let binding = Binding(self.binding.load(Relaxed)).next(class);
        // The tables are there before anybody can see the class. Pairs with `binding()`.
        self.binding.store(binding.0, Release);
    }

    /// The slot that `addr` lies in, and the binding that says so.
    ///
    /// Spans and slots are aligned to their size, so that the address alone says where in the span it
    /// is. Of a span that is unbound it is a slot without a mapping.
    #[inline]
    pub(crate) fn slot_at(&self, addr: Phys) -> Option<(FreeSlot, Binding)> {
        let binding = self.binding();
        let shift = binding.shift();
        let slot = FreeSlot {
            base: Phys::new(addr.raw() - addr.offset_in(shift) as u64),
            slot: self.record(addr.offset_in(SPAN_SHIFT).wrapping_shr(shift))?,
        };
        Some((slot, binding))
    }

    #[inline]
    fn record(&self, index: usize) -> Option<&'static Slot> {
        let table = self.tables[index / TABLE_SLOTS % TABLES].get()?;
        Some(&table[index % TABLE_SLOTS])
    }

    /// Binds the unbound span to `class`: all slots are home. Takes a few hundred instructions, and
    /// for the class of 512 B may allocate, without sleeping.
    pub(crate) fn bind(&self, class: SizeClass) -> Result<(), AllocError> {
        let slots = class.slots_per_span();
        self.make_tables(slots.div_ceil(TABLE_SLOTS), GFP_NOWAIT | __GFP_NOWARN)?;
        for (index, word) in self.home.iter().enumerate() {
            let bits = slots.saturating_sub(index * WORD_BITS).min(WORD_BITS);
            let all = u64::MAX.checked_shr((WORD_BITS - bits) as u32);
            word.store(all.unwrap_or(0), Relaxed);
        }
        self.home_slots.store(slots as u32, Relaxed);
        self.set_binding(Some(class));
        Ok(())
    }

    /// Unbinds the span, all of whose slots are home.
    pub(crate) fn unbind(&self) {
        self.home_slots.store(0, Relaxed);
        self.set_binding(None);
    }

    /// Slots that are home.
    pub(crate) fn home_slots(&self) -> u32 {
        self.home_slots.load(Relaxed)
    }

    /// Takes a slot of `class`, which the span is bound to; [`None`] if none is home.
    pub(crate) fn take(&self, class: SizeClass) -> Option<FreeSlot> {
        let words = self.home.iter().enumerate();
        let (at, word, bits) = words
            .map(|(at, word)| (at, word, word.load(Relaxed)))
            .find(|(_, _, bits)| *bits != 0)?;
        let index = at * WORD_BITS + bits.trailing_zeros() as usize;
        let slot = self.record(index)?;
        word.store(bits & (bits - 1), Relaxed);
        self.home_slots.store(self.home_slots() - 1, Relaxed);
        Some(FreeSlot {
            base: self.base().add(index << class.shift()),
            slot,
        })
    }

    /// Puts a slot of `class`, which the span is bound to, back.
    pub(crate) fn put(&self, class: SizeClass, slot: FreeSlot) {
        let index = slot.base.offset_in(SPAN_SHIFT) >> class.shift();
        let word = &self.home[index / WORD_BITS % WORDS];
        word.store(word.load(Relaxed) | 1 << (index % WORD_BITS), Relaxed);
        self.home_slots.store(self.home_slots() + 1, Relaxed);
    }
}

#[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
#[kunit_tests(cc_swiotlb_span)]
mod tests {
    use super::*;
    use crate::pool::class::{
        CHUNK_BYTES,
        SPANS_PER_CHUNK,
        SPAN_BYTES, //
    };

    /// An unbound span that is not the first of its chunk.
    fn span() -> Result<&'static Span> {
        let base = Phys::new(5 * CHUNK_BYTES as u64);
        let chunk = Chunk::for_test(base, SPANS_PER_CHUNK, 0)?;
        chunk.spans().nth(1).ok_or(EINVAL)
    }

    #[test]
    fn each_slot_is_taken_once_and_put_back() -> Result {
        let span = span()?;
        for class in SizeClass::ALL {
            let total = class.slots_per_span();
            assert!(span.bind(class).is_ok());
            let mut seen = KVec::from_elem(false, total, GFP_KERNEL)?;
            while let Some(slot) = span.take(class) {
                let offset = slot.base.since(span.base()).ok_or(EINVAL)?;
                assert_eq!(offset % class.slot_bytes(), 0);
                assert!(!core::mem::replace(
                    &mut seen[offset / class.slot_bytes()],
                    true
                ));
                let (found, _) = span.slot_at(slot.base).ok_or(EINVAL)?;
                assert!(core::ptr::eq(found.slot, slot.slot));
            }
            assert!(seen.iter().all(|seen| *seen));
            assert_eq!(span.home_slots(), 0);
            for (home, index) in (0..total).rev().enumerate() {
                let base = span.base().add(index * class.slot_bytes());
                let (slot, _) = span.slot_at(base).ok_or(EINVAL)?;
                span.put(class, slot);
                assert_eq!(span.home_slots() as usize, home + 1);
            }
            span.unbind();
        }
        Ok(())
    }

    #[test]
    fn what_was_put_back_is_taken_again() -> Result {
        let span = span()?;
        for class in SizeClass::ALL {
            assert!(span.bind(class).is_ok());
            while span.take(class).is_some() {}
            let last = span.base().add(SPAN_BYTES - 1);
            let (slot, _) = span.slot_at(last).ok_or(EINVAL)?;
            span.put(class, slot);
            assert!(span
                .take(class)
                .is_some_and(|taken| taken.base == slot.base));
            assert!(span.take(class).is_none());
            span.unbind();
        }
        Ok(())
    }

    #[test]
    fn every_address_has_its_slot() -> Result {
        let span = span()?;
        for class in SizeClass::ALL {
            assert!(span.bind(class).is_ok());
            let mut previous: Option<FreeSlot> = None;
            for at in (0..SPAN_BYTES)
                .step_by(512)
                .flat_map(|at| [at, at + 1, at + 511])
            {
                let addr = span.base().add(at);
                let (slot, binding) = span.slot_at(addr).ok_or(EINVAL)?;
                assert!(binding == span.binding() && binding.class() == Some(class));
                let offset = addr.since(slot.base).ok_or(EINVAL)?;
                assert!(offset < class.slot_bytes());
                assert_eq!(slot.base.offset_in(class.shift()), 0);
                // One record for one slot.
                if let Some(previous) = previous {
                    let same = core::ptr::eq(previous.slot, slot.slot);
                    assert_eq!(same, previous.base == slot.base);
                }
                previous = Some(slot);
            }
            span.unbind();
        }
        Ok(())
    }

    #[test]
    fn binding_anew_is_another_binding() -> Result {
        let span = span()?;
        assert_eq!(span.binding().class(), None);
        let mut before = span.binding();
        for class in [
            SizeClass::K4,
            SizeClass::K4,
            SizeClass::B512,
            SizeClass::K512,
        ] {
            assert!(span.bind(class).is_ok());
            let bound = span.binding();
            assert_eq!(bound.class(), Some(class));
            assert!(span.is_bound_as(bound) && !span.is_bound_as(before));
            span.unbind();
            assert_eq!(span.binding().class(), None);
            assert_eq!(span.home_slots(), 0);
            assert!(!span.is_bound_as(bound));
            before = bound;
        }
        Ok(())
    }
}

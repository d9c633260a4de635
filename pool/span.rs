// SPDX-License-Identifier: GPL-2.0

//! Spans: 512 KiB of shared memory each, either unbound, or bound to one use and cut into the slots
//! of a class or into pages that are lent.
//!
//! A span knows which of its slots are home; all others are in a CPU's cache or belong to a
//! mapping. When all are home nobody uses the span, and it can be unbound and bound to another
//! class at once: there is nothing to search for and nobody to wait for.
//!
//! # Locking
//!
//! `home` and the links belong to the lock of the depot that the span is bound to, or of the stock
//! that it is in while it is unbound. They are atomic so that a span can be shared; only
//! `lent_from()`, which reads `home` without a lock, relies on it.
//!
//! # Stale addresses
//!
//! A span is never freed, and an unmap reads it without any lock. The binding can change between
//! the unmap's look-up and its claim only if the address has no mapping, because a slot that is
//! mapped is not home. So an unmap compares the binding again after it has claimed the record,
//! which is an acquire: if it changed, the driver has unmapped the address before. If the slot is
//! mapped again at that moment, at the same offset and with the same size, the correct unmap of
//! this mapping may be mistaken for the wrong one: it is reported, and the slot is lost. The same
//! holds for a span that got other memory before the binding was read. A sync runs in an RCU
//! read-side critical section, in which the span keeps its memory.

use super::{
    address::Phys,
    chunk::Chunk,
    class::{
        SizeClass,
        SPAN_BYTES,
        SPAN_SHIFT, //
    },
    list::{
        Linked,
        Links, //
    },
    slot::Slot,
    stats::Counter, //
};
use crate::glue::{
    link::Link,
    once::read_once, //
};
use kernel::{
    alloc::AllocError,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed,
            Release, //
        },
        barrier::{
            smp_mb,
            Read, //
        }, //
    },
};

/// Records in a table: enough for all classes but that of 512 B, which has four tables.
const TABLE_SLOTS: usize = 256;
const TABLES: usize = SizeClass::B512.slots_per_span() / TABLE_SLOTS;
const WORD_BITS: usize = u64::BITS as usize;
const WORDS: usize = SizeClass::B512.slots_per_span() / WORD_BITS;

type Table = [Slot; TABLE_SLOTS];

/// A free slot: its record and its address.
#[derive(Clone, Copy)]
pub(crate) struct FreeSlot {
    /// Start of the slot.
    pub(crate) base: Phys,
    /// The slot's record, in private memory.
    pub(crate) slot: &'static Slot,
}

/// What a span can be bound to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Use {
    /// The slots of a class.
    Slots(SizeClass),
    /// Pages of 4 KiB that are lent: slots that no mapping ever has.
    Lent,
}

impl Use {
    /// The class whose slots the span is cut into.
    pub(crate) const fn class(self) -> SizeClass {
        match self {
            Self::Slots(class) => class,
            Self::Lent => SizeClass::K4,
        }
    }
}

/// The use that a span is bound to, and how often that has changed: log2 of the slot size in the
/// lowest byte, which is all that a sync needs, the use in the next four bits, and a count above.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Binding(u32);

impl Binding {
    const SHIFT: u32 = 0xff;
    const USE: u32 = 0xf00;
    const USE_AT: u32 = Self::USE.trailing_zeros();
    const NEXT: u32 = Self::USE + (1 << Self::USE_AT);
    /// No class. For a look-up the whole span is one slot, which has no mapping.
    const UNBOUND: u32 = Self::USE | SPAN_SHIFT;
    /// No class either: the slots are pages that are lent.
    const LENT: u32 = Self::USE - (1 << Self::USE_AT) | Use::Lent.class().shift();

    /// The class, [`None`] while the span is unbound, or its pages are lent.
    pub(crate) fn class(self) -> Option<SizeClass> {
        let class = (self.0 & Self::USE) >> Self::USE_AT;
        SizeClass::ALL.get(class as usize).copied()
    }

    /// The use, [`None`] while the span is unbound.
    pub(crate) fn bound_to(self) -> Option<Use> {
        match self.0 & (Self::USE | Self::SHIFT) {
            Self::LENT => Some(Use::Lent),
            _ => self.class().map(Use::Slots),
        }
    }

    /// log2 of the slot size, or of the span's while it is unbound.
    fn shift(self) -> u32 {
        self.0 & Self::SHIFT
    }

    /// The binding to `bound_to` that follows this one.
    fn next(self, bound_to: Option<Use>) -> Self {
        let bits = match bound_to {
            Some(Use::Slots(class)) => (class as u32) << Self::USE_AT | class.shift(),
            Some(Use::Lent) => Self::LENT,
            None => Self::UNBOUND,
        };
        Self((self.0 & !(Self::USE | Self::SHIFT)).wrapping_add(Self::NEXT) | bits)
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
    home: [Counter; WORDS],
    pub(crate) home_slots: Counter,
    chunk: Link<Chunk>,
    links: Links<Self>,
}

/// The level of spans whose slots are all home. Spans below it are sorted by quarters, the fullest
/// (those with the fewest slots home) first.
pub(super) const ALL_HOME: usize = 4;

/// The indices at which a run of `count` out of `all` may begin: it is aligned to `count` rounded
/// up to a power of two.
pub(super) fn starts(all: usize, count: usize) -> impl Iterator<Item = usize> {
    let mask = count.next_power_of_two().wrapping_sub(1);
    (0..all).filter(move |first| first & mask == 0)
}

impl Linked for Span {
    fn links(&self) -> &Links<Self> {
        &self.links
    }

    fn level(&self) -> Option<usize> {
        let slots = self.binding().bound_to()?.class().slots_per_span();
        match self.home_slots.get() as usize {
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
            home: [const { Counter::new(0) }; WORDS],
            home_slots: Counter::new(0),
            chunk: Link::new(),
            links: Links::new(),
        }
    }

    /// Makes the first `count` tables of records, if they are not there yet. Does not sleep.
    pub(super) fn make_tables(&self, count: usize) -> Result<(), AllocError> {
        for table in self.tables.iter().take(count) {
            if table.get().is_none() {
                let records = pin_init::init_array_from_fn(|_| Slot::new());
                let made: KBox<Table> = KBox::init(records, GFP_NOWAIT).map_err(|_| AllocError)?;
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
        // Pairs with `set_binding()`: the address of the record depends on the value.
        Binding(read_once(&self.binding))
    }

    /// Whether the span still has the memory that `addr` lies in, and still has the `binding` by
    /// which the caller found its record. The caller has claimed the record since, which is an
    /// acquire. See the top of this file.
    #[inline]
    pub(crate) fn is_still(&self, binding: Binding, addr: Phys) -> bool {
        let base = addr.raw() - addr.offset_in(SPAN_SHIFT) as u64;
        self.binding() == binding && read_once(&self.base) == base
    }

    fn set_binding(&self, bound_to: Option<Use>) {
        let binding = Binding(self.binding.load(Relaxed)).next(bound_to);
        // The tables are visible before the use is. Pairs with `binding()`.
        self.binding.store(binding.0, Release);
    }

    /// The slot that `addr` lies in, and the binding that says so.
    ///
    /// Spans and slots are aligned to their size, so the address alone gives the place in the span.
    /// In an unbound span it is a slot without a mapping.
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

    /// How many bytes from `addr` on are lent, as far as one look tells: at most to the end of the
    /// slot or of the span. [`None`] if the first byte is not lent.
    pub(super) fn lent_from(&self, addr: Phys) -> Option<usize> {
        let (slot, binding) = self.slot_at(addr)?;
        let offset = addr.offset_in(SPAN_SHIFT);
        match binding.bound_to()? {
            Use::Slots(_) => slot.slot.lent_from(addr),
            Use::Lent => {
                // Read after the binding, before which the bits were those of other slots.
                smp_mb(Read);
                let is_home = self.is_home(offset >> Use::Lent.class().shift());
                // Pages behind it may be home, but then nobody else has their address.
                (!is_home).then_some(SPAN_BYTES - offset)
            }
        }
    }

    #[inline]
    fn record(&self, index: usize) -> Option<&'static Slot> {
        let table = self.tables[index / TABLE_SLOTS % TABLES].get()?;
        Some(&table[index % TABLE_SLOTS])
    }

    /// Binds the unbound span; all its slots are home then. Takes a few hundred instructions, and
    /// for the class of 512 B may allocate, without sleeping.
    pub(crate) fn bind(&self, bound_to: Use) -> Result<(), AllocError> {
        let slots = bound_to.class().slots_per_span();
        self.make_tables(slots.div_ceil(TABLE_SLOTS))?;
        for (index, word) in self.home.iter().enumerate() {
            let bits = slots.saturating_sub(index * WORD_BITS).min(WORD_BITS);
            let all = u64::MAX.checked_shr((WORD_BITS - bits) as u32);
            word.set(all.unwrap_or(0));
        }
        self.home_slots.set(slots as u64);
        self.set_binding(Some(bound_to));
        Ok(())
    }

    /// Unbinds the span, all of whose slots are home.
    pub(crate) fn unbind(&self) {
        self.home_slots.set(0);
        self.set_binding(None);
    }

    /// Takes a slot of `class`, which the span is bound to; [`None`] if none is home.
    pub(crate) fn take(&self, class: SizeClass) -> Option<FreeSlot> {
        let mut words = self.home.iter().map(Counter::get).enumerate();
        let (at, bits) = words.find(|(_, bits)| *bits != 0)?;
        self.take_at(class, at * WORD_BITS + bits.trailing_zeros() as usize, 1)
    }

    /// Takes `count` adjacent slots of `class`, which the span is cut into; returns the first,
    /// aligned to `count` rounded up to a power of two. [`None`] if no such slots are home.
    pub(super) fn take_run(&self, class: SizeClass, count: usize) -> Option<FreeSlot> {
        let mut starts = starts(class.slots_per_span(), count);
        let first =
            starts.find(|first| (*first..first + count).all(|index| self.is_home(index)))?;
        self.take_at(class, first, count)
    }

    fn take_at(&self, class: SizeClass, first: usize, count: usize) -> Option<FreeSlot> {
        let run = FreeSlot {
            base: self.base().add(first << class.shift()),
            slot: self.record(first)?,
        };
        (first..first + count).for_each(|index| self.set_home(index, false));
        Some(run)
    }

    /// Puts back `count` adjacent slots of `class`, which the span is cut into.
    pub(crate) fn put(&self, class: SizeClass, first: Phys, count: usize) {
        let first = first.offset_in(SPAN_SHIFT) >> class.shift();
        (first..first + count).for_each(|index| self.set_home(index, true));
    }

    fn is_home(&self, index: usize) -> bool {
        self.home[index / WORD_BITS % WORDS].get() >> (index % WORD_BITS) & 1 != 0
    }

    /// Notes that a slot comes home or leaves.
    fn set_home(&self, index: usize, home: bool) {
        let word = &self.home[index / WORD_BITS % WORDS];
        let bit = 1 << (index % WORD_BITS);
        let (bits, count) = match home {
            true => (word.get() | bit, self.home_slots.get() + 1),
            false => (word.get() & !bit, self.home_slots.get() - 1),
        };
        word.set(bits);
        self.home_slots.set(count);
    }
}

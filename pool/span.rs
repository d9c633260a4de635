// SPDX-License-Identifier: GPL-2.0

//! Spans: 512 KiB of shared memory cut into the slots of one class.

use super::{
    address::Phys,
    class::{
        SizeClass,
        SPAN_SHIFT, //
    },
    magazine::Magazine,
    slot::Slot, //
};
use kernel::{
    alloc::AllocError,
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
};

/// A free slot: its record, and where it is.
#[derive(Clone, Copy)]
pub(crate) struct FreeSlot {
    /// Start of the slot.
    pub(crate) base: Phys,
    /// The slot's record, in private memory.
    pub(crate) slot: &'static Slot,
}

/// A span and the records of its slots.
///
/// A span is never freed, only bound to other memory, and that after a grace period: a driver that
/// unmaps an address which was given back finds the old records, all of them free, or what is at
/// that address now.
pub(crate) struct Span {
    class: SizeClass,
    /// log2 of the size of a slot.
    shift: u32,
    base: Atomic<u64>,
    slots: KVVec<Slot>,
    /// The NUMA node that its slots were made for, wherever its memory is. Only kccd uses it.
    node: Atomic<u32>,
}

impl Span {
    /// Makes a span of `class` out of the memory from `base` on, for node 0.
    ///
    /// May sleep.
    pub(crate) fn new(class: SizeClass, base: Phys) -> Result<&'static Self, AllocError> {
        let count = class.slots_per_span();
        let mut slots = KVVec::with_capacity(count, GFP_KERNEL)?;
        for _ in 0..count {
            // Cannot fail, the capacity is there.
            slots.push(Slot::new(), GFP_KERNEL)?;
        }
        let span = Self {
            class,
            shift: class.shift(),
            base: Atomic::new(base.raw()),
            slots,
            node: Atomic::new(0),
        };
        Ok(KBox::leak(KBox::new(span, GFP_KERNEL)?))
    }

    /// The class of all the slots.
    #[inline]
    pub(crate) fn class(&self) -> SizeClass {
        self.class
    }

    /// Start of the span's memory.
    #[inline]
    pub(crate) fn base(&self) -> Phys {
        Phys::new(self.base.load(Relaxed))
    }

    /// The NUMA node that its slots were made for.
    pub(crate) fn node(&self) -> usize {
        self.node.load(Relaxed) as usize
    }

    /// Says which node that is.
    pub(crate) fn set_node(&self, node: usize) {
        self.node.store(node as u32, Relaxed);
    }

    /// The slot that `addr` lies in, and how far into it.
    ///
    /// `addr` must be one that [`Directory::get`] finds this span by: spans and slots are aligned to
    /// their size, so that it alone says where in the span it is.
    ///
    /// [`Directory::get`]: super::directory::Directory::get
    #[inline]
    pub(crate) fn slot_at(&'static self, addr: Phys) -> Option<(FreeSlot, usize)> {
        let offset = addr.offset_in(self.shift);
        let slot = FreeSlot {
            base: Phys::new(addr.raw() - offset as u64),
            slot: self.slots.get(addr.offset_in(SPAN_SHIFT) >> self.shift)?,
        };
        Some((slot, offset))
    }

    /// Binds a span that was retired to the memory from `base` on.
    ///
    /// To be called when the directory does not have it, and a grace period of RCU after it had: so
    /// nobody who looked up an address of the old memory still uses it.
    pub(crate) fn rebind(&self, base: Phys) {
        self.base.store(base.raw(), Relaxed);
    }

    /// Whether no mapping owns any of the slots: a guess, unless all slots are in hand.
    pub(crate) fn is_idle(&self) -> bool {
        self.slots.iter().all(Slot::is_free)
    }

    /// Which slot `addr` lies in. [`None`] if `addr` is not in this span.
    #[inline]
    pub(crate) fn index_of(&self, addr: Phys) -> Option<usize> {
        let index = addr.since(self.base())? >> self.shift;
        (index < self.slots.len()).then_some(index)
    }

    /// The slot at `index`, counted from the lowest.
    #[inline]
    pub(crate) fn slot(&'static self, index: usize) -> Option<FreeSlot> {
        Some(FreeSlot {
            base: self.slot_base(index),
            slot: self.slots.get(index)?,
        })
    }

    /// All slots, the lowest first.
    pub(crate) fn slots(&'static self) -> impl Iterator<Item = FreeSlot> {
        self.slots.iter().enumerate().map(|(index, slot)| FreeSlot {
            base: self.slot_base(index),
            slot,
        })
    }

    /// Puts all slots into `magazines`, which have room for them: [`Magazine::for_span`].
    pub(crate) fn fill(&'static self, mut magazines: KVec<Magazine>) -> KVec<Magazine> {
        let mut slots = self.slots();
        for magazine in magazines.iter_mut() {
            for slot in slots.by_ref().take(self.class.magazine_slots()) {
                // There is room, it was empty.
                let _ = magazine.push(slot);
            }
        }
        magazines
    }

    #[inline]
    fn slot_base(&self, index: usize) -> Phys {
        self.base().add(index << self.class.shift())
    }
}

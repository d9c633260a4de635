// SPDX-License-Identifier: GPL-2.0

//! Depots: the magazines that no CPU holds, one depot for each NUMA node.
//!
//! # Locking
//!
//! `shelves` is taken with interrupts disabled, from any context but NMI, and is the innermost
//! lock of the allocator: nothing is taken, woken or printed while it is held. A CPU takes it once
//! for a magazine of slots, kccd once for a span.
//!
//! # Why there is always an empty magazine
//!
//! A CPU that wants to store a full magazine needs an empty one in exchange. There are two
//! magazines for each CPU, and one more for each full magazine of slots that was ever made, so the
//! depots together hold `slots / capacity` magazines. The CPU that asks holds two full ones, so
//! that at least two of those in the depots have to be empty. It may be another node's depot that
//! has them.

use super::{
    class::{
        SizeClass,
        CLASSES, //
    },
    magazine::Magazine, //
};
use core::mem;
use kernel::{
    alloc::AllocError,
    interrupt::LocalInterruptDisabled,
    new_spinlock_irq,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        SpinLockIrq, //
    },
};

/// How far down a depot may be emptied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Depth {
    /// Leave the reserve alone.
    Ready,
    /// To the last slot: kccd was outrun.
    Reserve,
}

/// The magazines of one class.
struct Shelf {
    /// Magazines with slots in them.
    full: KVVec<Magazine>,
    /// Magazines without.
    empty: KVVec<Magazine>,
    /// How many of `full` are held back.
    reserve: usize,
}

/// What a depot has of one class, to be read without the lock.
struct Gauge {
    /// Slots in the depot. Written with the lock held.
    free: Atomic<u32>,
    /// kccd wants to know when `free` drops below this.
    low: Atomic<u32>,
    /// Most slots of the class that were ever out of the depot. Written with the lock held.
    peak: Atomic<u32>,
    /// Slots that belong to this depot. Written with the lock held.
    slots: Atomic<u32>,
}

/// The depot of one NUMA node.
#[pin_data]
pub(crate) struct Depot {
    #[pin]
    shelves: SpinLockIrq<[Shelf; CLASSES]>,
    gauges: [Gauge; CLASSES],
}

impl Depot {
    /// An empty depot.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            shelves <- new_spinlock_irq!([const {
                Shelf {
                    full: KVVec::new(),
                    empty: KVVec::new(),
                    reserve: 0,
                }
            }; CLASSES]),
            gauges: [const {
                Gauge {
                    free: Atomic::new(0),
                    low: Atomic::new(0),
                    peak: Atomic::new(0),
                    slots: Atomic::new(0),
                }
            }; CLASSES],
        })
    }

    /// Exchanges the empty `magazine` for one with slots in it.
    ///
    /// Returns whether it did; if not, the depot has none left down to `depth`.
    pub(crate) fn swap_for_full(
        &self,
        class: SizeClass,
        depth: Depth,
        magazine: &mut Magazine,
        irq: &LocalInterruptDisabled,
    ) -> bool {
        let Some(gauge) = self.gauges.get(class.index()) else {
            return false;
        };
        // The common case of an idle class, without touching the lock.
        if gauge.free.load(Relaxed) == 0 {
            return false;
        }
        let mut shelves = self.shelves.lock_with(irq);
        let Some(shelf) = shelves.get_mut(class.index()) else {
            return false;
        };
        if depth == Depth::Ready && shelf.full.len() <= shelf.reserve {
            return false;
        }
        let Some(full) = shelf.full.pop() else {
            return false;
        };
        gauge.took(full.len());
        let empty = mem::replace(magazine, full);
        // There is room: `add()` made room for all magazines of the class on either list. Should
        // that ever be wrong, an empty magazine is lost, no slot.
        let _ = shelf.empty.push_within_capacity(empty);
        true
    }

    /// Exchanges the full `magazine` for an empty one.
    ///
    /// Returns whether it did; if not, the depot has no empty magazine, see the top of this file.
    pub(crate) fn swap_for_empty(
        &self,
        class: SizeClass,
        magazine: &mut Magazine,
        irq: &LocalInterruptDisabled,
    ) -> bool {
        let Some(gauge) = self.gauges.get(class.index()) else {
            return false;
        };
        let mut shelves = self.shelves.lock_with(irq);
        let Some(shelf) = shelves.get_mut(class.index()) else {
            return false;
        };
        if shelf.full.len() >= shelf.full.capacity() {
            return false;
        }
        let Some(empty) = shelf.empty.pop() else {
            return false;
        };
        let full = mem::replace(magazine, empty);
        gauge.gave(full.len());
        // There is room, just checked.
        let _ = shelf.full.push_within_capacity(full);
        true
    }

    /// Makes room for `more` magazines on top of those that are there.
    ///
    /// On both lists, for all magazines of the class: so an exchange never allocates. May sleep. To be
    /// called by kccd only, as [`Self::add`], so that the number of magazines does not change
    /// between the two times that the lock is held.
    pub(crate) fn make_room(&self, class: SizeClass, more: usize) -> Result<(), AllocError> {
        let (total, room) = match self.shelves.lock().get(class.index()) {
            Some(shelf) => (
                shelf.full.len() + shelf.empty.len() + more,
                shelf.full.capacity().min(shelf.empty.capacity()),
            ),
            None => return Err(AllocError),
        };
        if total <= room {
            return Ok(());
        }
        // Allocated and freed without the lock, and twice as large, so that it happens rarely.
        let mut full = KVVec::with_capacity(2 * total, GFP_KERNEL)?;
        let mut empty = KVVec::with_capacity(2 * total, GFP_KERNEL)?;
        let mut shelves = self.shelves.lock();
        if let Some(shelf) = shelves.get_mut(class.index()) {
            for (list, larger) in [(&mut shelf.full, &mut full), (&mut shelf.empty, &mut empty)] {
                for magazine in list.drain_all() {
                    // There is room, it is larger.
                    let _ = larger.push_within_capacity(magazine);
                }
                mem::swap(list, larger);
            }
        }
        drop(shelves);
        Ok(())
    }

    /// Adds magazines with new slots. [`Self::make_room`] must have been called for them.
    pub(crate) fn add(&self, class: SizeClass, mut magazines: KVec<Magazine>) {
        let Some(gauge) = self.gauges.get(class.index()) else {
            return;
        };
        let mut shelves = self.shelves.lock();
        let Some(shelf) = shelves.get_mut(class.index()) else {
            return;
        };
        for magazine in magazines.drain_all() {
            gauge.made(magazine.len());
            // There is room: it was made, and only kccd adds.
            let _ = shelf.full.push_within_capacity(magazine);
        }
    }

    /// Sets how many slots of `class` kccd keeps ready here, and how many are held back.
    pub(crate) fn set_levels(&self, class: SizeClass, low_slots: u32, reserve_slots: u32) {
        let Some(gauge) = self.gauges.get(class.index()) else {
            return;
        };
        gauge.low.store(low_slots, Relaxed);
        let mut shelves = self.shelves.lock();
        if let Some(shelf) = shelves.get_mut(class.index()) {
            shelf.reserve = reserve_slots as usize / class.magazine_slots();
        }
    }

    fn read(&self, class: SizeClass, which: impl Fn(&Gauge) -> &Atomic<u32>) -> u32 {
        self.gauges
            .get(class.index())
            .map_or(0, |gauge| which(gauge).load(Relaxed))
    }

    /// Slots of `class` in the depot.
    pub(crate) fn free(&self, class: SizeClass) -> u32 {
        self.read(class, |gauge| &gauge.free)
    }

    /// Slots of `class` that were made for this node.
    pub(crate) fn slots(&self, class: SizeClass) -> u32 {
        self.read(class, |gauge| &gauge.slots)
    }

    /// Most slots of `class` that were ever out of the depot, those cached by CPUs included.
    pub(crate) fn peak(&self, class: SizeClass) -> u32 {
        self.read(class, |gauge| &gauge.peak)
    }

    /// Whether kccd should hear of how little is left of `class`.
    #[inline]
    pub(crate) fn is_low(&self, class: SizeClass) -> bool {
        self.gauges
            .get(class.index())
            .is_some_and(|gauge| gauge.free.load(Relaxed) < gauge.low.load(Relaxed))
    }
}

impl Gauge {
    // All three are called with the lock held, so that plain loads and stores do.

    fn took(&self, slots: usize) {
        let free = self.free.load(Relaxed).saturating_sub(slots as u32);
        self.free.store(free, Relaxed);
        let out = self.slots.load(Relaxed).saturating_sub(free);
        if out > self.peak.load(Relaxed) {
            self.peak.store(out, Relaxed);
        }
    }

    fn gave(&self, slots: usize) {
        let free = self.free.load(Relaxed).saturating_add(slots as u32);
        self.free.store(free, Relaxed);
    }

    fn made(&self, slots: usize) {
        let total = self.slots.load(Relaxed).saturating_add(slots as u32);
        self.slots.store(total, Relaxed);
        self.gave(slots);
    }
}

#[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
#[kunit_tests(cc_swiotlb_depot)]
mod tests {
    use super::*;
    use crate::pool::{
        address::Phys,
        span::Span, //
    };
    use kernel::interrupt::local_interrupt_disable;

    /// A depot with one span of `class` in it.
    fn stocked(class: SizeClass) -> Result<Pin<KBox<Depot>>> {
        let depot = KBox::pin_init(Depot::new(), GFP_KERNEL)?;
        let magazines = Magazine::for_span(class)?;
        depot.make_room(class, magazines.len())?;
        let span = Span::new(class, Phys::new(0))?;
        depot.add(class, span.fill(magazines));
        Ok(depot)
    }

    #[test]
    fn full_for_empty_and_back() -> Result {
        for class in SizeClass::all() {
            let depot = stocked(class)?;
            let total = class.slots_per_span() as u32;
            let room = class.magazine_slots() as u32;
            assert_eq!(depot.free(class), total);

            let mut magazine = Magazine::new(class)?;
            let irq = local_interrupt_disable();
            let got = depot.swap_for_full(class, Depth::Ready, &mut magazine, &irq);
            let left = depot.free(class);
            let returned = depot.swap_for_empty(class, &mut magazine, &irq);
            drop(irq);
            assert!(got && returned && magazine.is_empty());
            assert_eq!(left, total - room);
            assert_eq!(depot.free(class), total);
            assert_eq!(depot.peak(class), room);
        }
        Ok(())
    }

    #[test]
    fn the_reserve_is_the_last_to_go() -> Result {
        let class = SizeClass::for_bytes(4096).ok_or(ERANGE)?;
        let depot = stocked(class)?;
        let room = class.magazine_slots() as u32;
        depot.set_levels(class, 0, room);

        let mut magazine = Magazine::new(class)?;
        let mut ready = 0;
        let mut spare = KVec::new();
        loop {
            let irq = local_interrupt_disable();
            let got = depot.swap_for_full(class, Depth::Ready, &mut magazine, &irq);
            drop(irq);
            if !got {
                break;
            }
            ready += magazine.len() as u32;
            spare.push(
                mem::replace(&mut magazine, Magazine::new(class)?),
                GFP_KERNEL,
            )?;
        }
        assert_eq!(ready, class.slots_per_span() as u32 - room);
        let irq = local_interrupt_disable();
        let got = depot.swap_for_full(class, Depth::Reserve, &mut magazine, &irq);
        let again = depot.swap_for_full(class, Depth::Reserve, &mut spare[0], &irq);
        drop(irq);
        assert!(got && !again);
        assert_eq!(depot.free(class), 0);
        Ok(())
    }

    #[test]
    fn low_below_the_watermark_only() -> Result {
        let class = SizeClass::for_bytes(64 << 10).ok_or(ERANGE)?;
        let depot = stocked(class)?;
        let total = class.slots_per_span() as u32;
        depot.set_levels(class, total, 0);
        assert!(!depot.is_low(class));
        depot.set_levels(class, total + 1, 0);
        assert!(depot.is_low(class));
        Ok(())
    }
}

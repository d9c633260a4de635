// SPDX-License-Identifier: GPL-2.0

//! Depots: the magazines that no CPU holds, one depot for each NUMA node.
//!
//! # Locking
//!
//! `shelves` is taken with interrupts disabled, from any context but NMI, and is the innermost
//! lock of the allocator: nothing is taken, woken or printed while it is held. A CPU takes it once
//! for a magazine of slots, kccd once for a span.
//!
//! Why an exchange never fails for want of an empty magazine is explained in shelf.rs.
//!
//! The gauges are written with the lock held and read by anybody.

use super::{
    class::{
        SizeClass,
        CLASSES, //
    },
    gauge::{
        Depth,
        Gauge,
        Levels, //
    },
    magazine::Magazine,
    shelf::Shelf,
    span::FreeSlot,
    withdrawn::Withdrawn, //
};
use kernel::{
    alloc::AllocError,
    interrupt::{
        local_interrupt_disable,
        LocalInterruptDisabled, //
    },
    new_spinlock_irq,
    prelude::*,
    sync::SpinLockIrq, //
};

/// Magazines that are sifted with the lock held, and slots that are put back.
const SIFTED: usize = 16;
const BATCH: usize = 64;

/// The depot of one NUMA node.
#[pin_data]
pub(crate) struct Depot {
    #[pin]
    pub(super) shelves: SpinLockIrq<[Shelf; CLASSES]>,
    pub(super) gauges: [Gauge; CLASSES],
}

impl Depot {
    /// An empty depot.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            shelves <- new_spinlock_irq!([const { Shelf::new() }; CLASSES]),
            gauges: [const { Gauge::new() }; CLASSES],
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
        if gauge.free() == 0 {
            return false;
        }
        let mut shelves = self.shelves.lock_with(irq);
        let Some(shelf) = shelves.get_mut(class.index()) else {
            return false;
        };
        let keep = gauge.keep(depth, class.magazine_slots());
        let swapped = shelf.swap_for_full(keep, magazine)
            || (depth != Depth::Surplus && shelf.swap_for_open(magazine));
        if swapped {
            gauge.took(magazine.len());
        }
        swapped
    }

    /// Exchanges the full `magazine` for an empty one.
    ///
    /// Returns whether it did; if not, the depot has no empty magazine, see shelf.rs.
    pub(crate) fn swap_for_empty(
        &self,
        class: SizeClass,
        magazine: &mut Magazine,
        irq: &LocalInterruptDisabled,
    ) -> bool {
        let Some(gauge) = self.gauges.get(class.index()) else {
            return false;
        };
        let slots = magazine.len();
        let mut shelves = self.shelves.lock_with(irq);
        let swapped = shelves
            .get_mut(class.index())
            .is_some_and(|shelf| shelf.swap_for_empty(magazine));
        if swapped {
            gauge.gave(slots);
        }
        swapped
    }

    /// Stores all slots that `next` yields. Gives back the one that there is no room for.
    ///
    /// `next` is called with the lock held, and must not yield more than a few magazines.
    pub(crate) fn take_back(
        &self,
        class: SizeClass,
        next: impl FnMut() -> Option<FreeSlot>,
        irq: &LocalInterruptDisabled,
    ) -> Result<(), FreeSlot> {
        self.store_all(class, next, Gauge::gave, irq)
    }

    /// Stores slots that were withdrawn. Gives back the one that there is no room for.
    pub(crate) fn restore(&self, hand: &mut Withdrawn) -> Result<(), FreeSlot> {
        let class = hand.span().class();
        while hand.len() > 0 {
            let mut left = BATCH;
            let next = || {
                left = left.checked_sub(1)?;
                hand.pop()
            };
            let irq = local_interrupt_disable();
            self.store_all(class, next, Gauge::restored, &irq)?;
        }
        Ok(())
    }

    fn store_all(
        &self,
        class: SizeClass,
        mut next: impl FnMut() -> Option<FreeSlot>,
        account: impl Fn(&Gauge, usize),
        irq: &LocalInterruptDisabled,
    ) -> Result<(), FreeSlot> {
        let mut shelves = self.shelves.lock_with(irq);
        let place = shelves.get_mut(class.index());
        let (Some(shelf), Some(gauge)) = (place, self.gauges.get(class.index())) else {
            return next().map_or(Ok(()), Err);
        };
        while let Some(slot) = next() {
            shelf.store(slot)?;
            account(gauge, 1);
        }
        Ok(())
    }

    /// Moves the slots of the span in `hand` there, as many as are in the depot. Until
    /// [`Self::settle`] they are neither in the depot nor out. A few batches, with the lock held for
    /// each.
    pub(crate) fn withdraw(&self, hand: &mut Withdrawn) {
        let class = hand.span().class();
        let Some(gauge) = self.gauges.get(class.index()) else {
            return;
        };
        let mut at = Some(0);
        while let (Some(from), false) = (at, hand.is_complete()) {
            let before = hand.len();
            let mut shelves = self.shelves.lock();
            at = shelves
                .get_mut(class.index())
                .and_then(|shelf| shelf.withdraw(from, SIFTED, hand));
            gauge.withdrew(hand.len().saturating_sub(before));
        }
    }

    /// Takes an empty magazine out, for the caller to free. To be called by kccd only.
    pub(crate) fn remove_empty(&self, class: SizeClass) -> Option<Magazine> {
        self.shelves.lock().get_mut(class.index())?.remove_empty()
    }

    /// Makes room for `more` magazines on top of those that are there.
    ///
    /// On both lists, for all magazines of the class: so an exchange never allocates. May sleep. To be
    /// called by kccd only, as [`Self::add`] and [`Self::remove_empty`], so that the number of
    /// magazines does not change between the two times that the lock is held.
    pub(crate) fn make_room(&self, class: SizeClass, more: usize) -> Result<(), AllocError> {
        let (total, room, is_open) = match self.shelves.lock().get(class.index()) {
            Some(shelf) => (shelf.magazines() + more, shelf.room(), shelf.is_open()),
            None => return Err(AllocError),
        };
        if !is_open {
            let open = Magazine::new(class)?;
            if let Some(shelf) = self.shelves.lock().get_mut(class.index()) {
                shelf.open(open);
            }
        }
        if total <= room {
            return Ok(());
        }
        // Allocated and freed without the lock, and twice as large, so that it happens rarely.
        let mut full = KVVec::with_capacity(2 * total, GFP_KERNEL)?;
        let mut empty = KVVec::with_capacity(2 * total, GFP_KERNEL)?;
        let mut shelves = self.shelves.lock();
        if let Some(shelf) = shelves.get_mut(class.index()) {
            shelf.enlarge(&mut full, &mut empty);
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
            shelf.add(magazine);
        }
    }

    /// Sets when kccd is rung, and what is held back.
    pub(crate) fn set_levels(&self, class: SizeClass, levels: Levels) {
        let Some(gauge) = self.gauges.get(class.index()) else {
            return;
        };
        // With the lock held: whoever takes or gives slots after us sees them, and we, by the
        // time that we look, have seen what was taken or given before. So no ring is missed.
        let _shelves = self.shelves.lock();
        gauge.set_levels(levels);
    }

    /// Begins a new window of time in place of the one at `index`, which is forgotten.
    pub(crate) fn turn_window(&self, class: SizeClass, index: usize) {
        let Some(gauge) = self.gauges.get(class.index()) else {
            return;
        };
        let _shelves = self.shelves.lock();
        gauge.turn_window(index);
    }

    /// Notes that a mapping of `class` found nothing, or that this has been dealt with.
    pub(crate) fn note_dry(&self, class: SizeClass, dry: bool) {
        if let Some(gauge) = self.gauges.get(class.index()) {
            gauge.note_dry(dry);
        }
    }

    /// Whether a mapping of `class` found nothing.
    pub(crate) fn is_dry(&self, class: SizeClass) -> bool {
        self.ask(class, Gauge::is_dry)
    }

    /// Notes that kccd could not make more of `class`, or that it may try again.
    pub(crate) fn note_failed(&self, class: SizeClass, failed: bool) {
        if let Some(gauge) = self.gauges.get(class.index()) {
            gauge.note_failed(failed);
        }
    }

    /// Whether kccd could not make more of `class` in this round.
    pub(crate) fn has_failed(&self, class: SizeClass) -> bool {
        self.ask(class, Gauge::has_failed)
    }

    fn read(&self, class: SizeClass, what: impl Fn(&Gauge) -> u32) -> u32 {
        self.gauges.get(class.index()).map_or(0, what)
    }

    fn ask(&self, class: SizeClass, what: impl Fn(&Gauge) -> bool) -> bool {
        self.gauges.get(class.index()).is_some_and(what)
    }

    /// Slots of `class` in the depot.
    pub(crate) fn free(&self, class: SizeClass) -> u32 {
        self.read(class, Gauge::free)
    }

    /// Slots of `class` that were made for this node.
    pub(crate) fn slots(&self, class: SizeClass) -> u32 {
        self.read(class, Gauge::slots)
    }

    /// Slots of `class` that are out of the depot, those cached by CPUs included.
    pub(crate) fn out(&self, class: SizeClass) -> u32 {
        self.read(class, Gauge::out)
    }

    /// Slots of `class` that were made for this node, with those in kccd's hand, and these. Over all
    /// depots the difference is what there is, at any time.
    pub(crate) fn own_and_in_hand(&self, class: SizeClass) -> (u32, i32) {
        self.gauges
            .get(class.index())
            .map_or((0, 0), |gauge| (gauge.own(), gauge.hand()))
    }

    /// Below how many slots of `class` in the depot kccd is rung.
    pub(crate) fn low(&self, class: SizeClass) -> u32 {
        self.read(class, Gauge::low)
    }

    /// Most slots of `class` that were ever out of the depot.
    pub(crate) fn peak(&self, class: SizeClass) -> u32 {
        self.read(class, Gauge::peak)
    }

    /// Most slots of `class` that were out of the depot in any of the windows.
    pub(crate) fn demand(&self, class: SizeClass) -> u32 {
        self.read(class, Gauge::demand)
    }

    /// Whether kccd should hear of how little is left of `class`.
    pub(crate) fn is_low(&self, class: SizeClass) -> bool {
        self.ask(class, Gauge::is_low)
    }

    /// Whether kccd should hear of how much there is of `class`.
    pub(crate) fn is_high(&self, class: SizeClass) -> bool {
        self.ask(class, Gauge::is_high)
    }

    /// Whether there is a slot of `class` on top of the reserve.
    pub(crate) fn is_ready(&self, class: SizeClass) -> bool {
        self.ask(class, Gauge::is_ready)
    }
}

#[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
#[kunit_tests(cc_swiotlb_depot)]
mod tests {
    use super::*;
    use crate::{
        kccd::policy::WINDOWS,
        pool::{
            address::Phys,
            span::Span, //
        }, //
    };
    use core::mem;

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
        let levels = Levels {
            low: 0,
            high: u32::MAX,
            reserve: room,
        };
        depot.set_levels(class, levels);

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
        let mut levels = Levels {
            low: total,
            high: total + 1,
            reserve: 0,
        };
        depot.set_levels(class, levels);
        assert!(!depot.is_low(class) && !depot.is_high(class));
        levels.low = total + 1;
        levels.high = total;
        depot.set_levels(class, levels);
        assert!(depot.is_low(class) && depot.is_high(class));
        Ok(())
    }

    #[test]
    fn others_get_only_what_is_above_the_watermark() -> Result {
        let class = SizeClass::for_bytes(4096).ok_or(ERANGE)?;
        let depot = stocked(class)?;
        let room = class.magazine_slots() as u32;
        let mut levels = Levels {
            low: class.slots_per_span() as u32,
            high: u32::MAX,
            reserve: 0,
        };
        let mut magazine = Magazine::new(class)?;
        // The watermark that is set, and whether another class may take a magazine.
        for (low, taken) in [
            (class.slots_per_span() as u32, false),
            (room + 1, false),
            (room, true),
            (1, false),
            (0, true),
        ] {
            levels.low = low;
            depot.set_levels(class, levels);
            let mut next = Magazine::new(class)?;
            let irq = local_interrupt_disable();
            let got = depot.swap_for_full(class, Depth::Surplus, &mut next, &irq);
            drop(irq);
            assert_eq!(got, taken);
            magazine = next;
        }
        assert!(!magazine.is_empty());
        Ok(())
    }

    #[test]
    fn demand_is_the_most_that_was_out_for_a_while() -> Result {
        let class = SizeClass::for_bytes(4096).ok_or(ERANGE)?;
        let depot = stocked(class)?;
        let room = class.magazine_slots() as u32;
        let mut magazine = Magazine::new(class)?;
        let irq = local_interrupt_disable();
        let got = depot.swap_for_full(class, Depth::Ready, &mut magazine, &irq);
        let left = depot.free(class);
        let back = depot.take_back(class, || magazine.pop(), &irq);
        drop(irq);
        assert!(got && back.is_ok() && left < depot.free(class));
        // It is over, and remembered for all of the windows, whichever is the first.
        for turn in 3..3 + WINDOWS {
            assert_eq!(depot.demand(class), room);
            depot.turn_window(class, turn);
        }
        assert_eq!(depot.demand(class), room);
        depot.turn_window(class, 3);
        assert_eq!(depot.demand(class), 0);
        assert_eq!(depot.peak(class), room);
        Ok(())
    }
}

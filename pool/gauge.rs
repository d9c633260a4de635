// SPDX-License-Identifier: GPL-2.0

//! Gauges: what a depot has of one class, and what went out of it.
//!
//! Read by anybody at any time; written with the depot's lock held, so that plain loads and stores
//! do.

use crate::kccd::policy::WINDOWS;
use kernel::sync::atomic::{
    Atomic,
    Relaxed, //
};

/// How far down a depot may be emptied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Depth {
    /// Take what is above the watermark.
    Surplus,
    /// Leave the reserve alone.
    Ready,
    /// To the last slot: kccd was outrun.
    Reserve,
}

/// When kccd wants to hear of a class, and what is held back of it, in slots.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Levels {
    /// It is rung when fewer than these are in the depot.
    pub(crate) low: u32,
    /// It is rung when these or more are in the depot, [`u32::MAX`] for never.
    pub(crate) high: u32,
    /// Held back.
    pub(crate) reserve: u32,
}

/// What a depot has of one class.
pub(super) struct Gauge {
    /// Slots in the depot.
    free: Atomic<u32>,
    /// kccd wants to know when `free` drops below this.
    low: Atomic<u32>,
    /// kccd wants to know when `free` gets up to this.
    high: Atomic<u32>,
    /// Slots that are held back.
    reserve: Atomic<u32>,
    /// Slots that were made for this depot's node, and not retired since. Not the same ones are
    /// in the depot: a slot that was taken on one node may come back on another.
    slots: Atomic<u32>,
    /// Slots that kccd has in its hand, out of this depot; less than 0 where it has put back what
    /// is out of others. Over all depots it is what it has.
    hand: Atomic<i32>,
    /// Most slots of the class that were ever out of the depot.
    peak: Atomic<u32>,
    /// Most slots that were out of the depot since the window was turned.
    recent: Atomic<u32>,
    /// The same in the windows before, in no order.
    windows: [Atomic<u32>; WINDOWS],
    /// 1 if a mapping found nothing since kccd had enough. Written without the lock.
    dry: Atomic<u32>,
    /// 1 if kccd could not make more in this round. kccd's alone.
    failed: Atomic<u32>,
}

impl Gauge {
    /// All at 0.
    pub(super) const fn new() -> Self {
        Self {
            free: Atomic::new(0),
            low: Atomic::new(0),
            high: Atomic::new(u32::MAX),
            reserve: Atomic::new(0),
            slots: Atomic::new(0),
            hand: Atomic::new(0),
            peak: Atomic::new(0),
            recent: Atomic::new(0),
            windows: [const { Atomic::new(0) }; WINDOWS],
            dry: Atomic::new(0),
            failed: Atomic::new(0),
        }
    }

    /// Slots that are not in the depot, of as many as belong to it.
    ///
    /// A depot has magazines for its own slots and no more (shelf.rs). So what it has of others' is
    /// what others have of its own, or what is in use, but for less than a magazine.
    pub(super) fn out(&self) -> u32 {
        self.slots().saturating_sub(self.free())
    }

    /// How many magazines of `room` slots stay in the depot.
    pub(super) fn keep(&self, depth: Depth, room: usize) -> usize {
        match depth {
            Depth::Surplus => (self.low() as usize).div_ceil(room),
            Depth::Ready => self.reserve.load(Relaxed) as usize / room,
            Depth::Reserve => 0,
        }
    }

    /// Slots in the depot.
    pub(super) fn free(&self) -> u32 {
        self.free.load(Relaxed)
    }

    /// Slots that belong to the depot, without those in kccd's hand.
    pub(super) fn slots(&self) -> u32 {
        self.own()
            .saturating_add_signed(self.hand().saturating_neg())
    }

    /// Slots that belong to the depot.
    pub(super) fn own(&self) -> u32 {
        self.slots.load(Relaxed)
    }

    /// Slots of the depot that are in kccd's hand.
    pub(super) fn hand(&self) -> i32 {
        self.hand.load(Relaxed)
    }

    fn add_to_hand(&self, slots: i32) {
        self.hand.store(self.hand().saturating_add(slots), Relaxed);
    }

    /// Below how many slots in the depot kccd is rung.
    pub(super) fn low(&self) -> u32 {
        self.low.load(Relaxed)
    }

    /// Most slots that were ever out of the depot.
    pub(super) fn peak(&self) -> u32 {
        self.peak.load(Relaxed)
    }

    /// Most slots that were out of the depot in any of the windows.
    pub(super) fn demand(&self) -> u32 {
        let before = self.windows.iter().map(|window| window.load(Relaxed));
        before.fold(self.recent.load(Relaxed), u32::max)
    }

    /// Whether kccd should hear of how little is left.
    #[inline]
    pub(super) fn is_low(&self) -> bool {
        self.free() < self.low()
    }

    /// Whether kccd should hear of how much there is.
    pub(super) fn is_high(&self) -> bool {
        self.free() >= self.high.load(Relaxed)
    }

    /// Whether there is a slot on top of the reserve.
    pub(super) fn is_ready(&self) -> bool {
        self.free() > self.reserve.load(Relaxed)
    }

    /// Whether a mapping found nothing since the last [`Self::note_dry`] of `false`.
    pub(super) fn is_dry(&self) -> bool {
        self.dry.load(Relaxed) != 0
    }

    /// Notes that a mapping found nothing, or that this has been dealt with.
    pub(super) fn note_dry(&self, dry: bool) {
        // Many CPUs may find it dry at a time: one write is enough.
        if self.is_dry() != dry {
            self.dry.store(u32::from(dry), Relaxed);
        }
    }

    /// Whether kccd could not make more since the last [`Self::note_failed`] of `false`.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Relaxed) != 0
    }

    /// Notes that kccd could not make more, or that it may try again.
    pub(super) fn note_failed(&self, failed: bool) {
        self.failed.store(u32::from(failed), Relaxed);
    }

    // The following are called with the depot's lock held.

    /// Slots went out.
    pub(super) fn took(&self, slots: usize) {
        self.free
            .store(self.free().saturating_sub(slots as u32), Relaxed);
        let out = self.out();
        for most in [&self.peak, &self.recent] {
            if out > most.load(Relaxed) {
                most.store(out, Relaxed);
            }
        }
    }

    /// Slots came back.
    pub(super) fn gave(&self, slots: usize) {
        self.free
            .store(self.free().saturating_add(slots as u32), Relaxed);
    }

    /// Slots were added that count as the depot's own from now on.
    pub(super) fn made(&self, slots: usize) {
        self.slots
            .store(self.own().saturating_add(slots as u32), Relaxed);
        self.free
            .store(self.free().saturating_add(slots as u32), Relaxed);
    }

    /// kccd took slots in its hand. They are not in the depot any more, and not out.
    pub(super) fn withdrew(&self, slots: usize) {
        self.add_to_hand(slots as i32);
        self.free
            .store(self.free().saturating_sub(slots as u32), Relaxed);
    }

    /// kccd put slots into the depot that it had in its hand.
    pub(super) fn restored(&self, slots: usize) {
        self.add_to_hand(-(slots as i32));
        self.gave(slots);
    }

    /// Slots of the depot's own that are in kccd's hand are no more.
    pub(super) fn retired(&self, slots: usize) {
        self.add_to_hand(-(slots as i32));
        self.slots
            .store(self.own().saturating_sub(slots as u32), Relaxed);
    }

    /// kccd's hand is empty.
    pub(super) fn settle(&self) {
        self.hand.store(0, Relaxed);
    }

    /// Sets when kccd wants to hear of the class, and what is held back.
    pub(super) fn set_levels(&self, levels: Levels) {
        self.low.store(levels.low, Relaxed);
        self.high.store(levels.high, Relaxed);
        self.reserve.store(levels.reserve, Relaxed);
    }

    /// Begins a new window of time in place of the one at `index`, which is forgotten.
    pub(super) fn turn_window(&self, index: usize) {
        if let Some(window) = self.windows.get(index % WINDOWS) {
            window.store(self.recent.load(Relaxed), Relaxed);
        }
        self.recent.store(self.out(), Relaxed);
    }
}

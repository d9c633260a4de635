// SPDX-License-Identifier: GPL-2.0

//! Lent slots that their owner gives back while somebody else still refers to their pages: a
//! network card may hold a page until the other side has acknowledged it, long after the request.
//!
//! Such a slot stays lent, and kccd looks again until nobody refers to it. A new reference is only
//! made by somebody who has one, so a page that only its owner refers to gets no other user.
//!
//! These slots are kept on a stack that is linked through their records. Any CPU may push, without
//! a lock and without allocating; only kccd takes slots off, all of them at a time, so that it
//! never pops one that has been pushed again in the meantime.

use super::{
    address::Phys,
    slot::Slot,
    Pool, //
};
use kernel::sync::atomic::{
    Atomic,
    Full,
    Relaxed, //
};

/// The link of the bottom slot: no address that is ours.
const END: u64 = u64::MAX;

/// The stack.
///
/// # Invariants
///
/// `top`, and from there the link of each record, is the address of a slot whose record is claimed
/// by [`Slot::defer`], up to [`END`].
pub(super) struct Deferred {
    top: Atomic<u64>,
}

impl Deferred {
    /// An empty stack.
    pub(super) const fn new() -> Self {
        // INVARIANT: Empty.
        Self {
            top: Atomic::new(END),
        }
    }

    /// Pushes the slot at `addr`, whose record the caller has claimed.
    fn push(&self, addr: Phys, slot: &Slot) {
        let mut top = self.top.load(Relaxed);
        loop {
            slot.set_next(top);
            // INVARIANT: It links to the slot that was on top. Full ordering: it is on the stack
            // before the bell is looked at, see `Pool::retry_deferred()`.
            match self.top.cmpxchg(top, addr.raw(), Full) {
                Ok(_) => return,
                Err(now) => top = now,
            }
        }
    }
}

impl Pool {
    /// As [`Pool::take_back`], but the memory stays lent while `is_used`, called with its address
    /// and size, says that others refer to it.
    pub(crate) fn take_back_unused(
        &self,
        addr: Phys,
        bytes: usize,
        is_used: impl Fn(Phys, usize) -> bool,
    ) -> bool {
        let defers = |slot| is_used(addr, bytes) && self.defer(slot, addr, bytes);
        self.record_at(addr).is_some_and(defers) || self.take_back(addr, bytes)
    }

    /// Leaves it to kccd to take back memory lent at `addr`. Returns whether exactly this is lent.
    fn defer(&self, slot: &Slot, addr: Phys, bytes: usize) -> bool {
        let is_lent = slot.defer(addr, bytes);
        if is_lent {
            self.stats.lend_deferred.add(1);
            self.deferred.push(addr, slot);
            self.bell.ring();
        }
        is_lent
    }

    /// Takes back the deferred slots that are not used any more. To be called by kccd.
    ///
    /// A CPU that pushes and finds the bell rung is heard: kccd resets it before it comes here.
    pub(crate) fn retry_deferred(&self, is_used: impl Fn(Phys, usize) -> bool) {
        let mut next = self.deferred.top.xchg(END, Full);
        while let Some((slot, bytes)) = self.deferred_at(Phys::new(next)) {
            let addr = Phys::new(next);
            next = slot.next();
            if is_used(addr, bytes) {
                self.deferred.push(addr, slot);
            } else {
                slot.lend(addr, bytes);
                self.take_back(addr, bytes);
            }
        }
    }

    /// The record at `addr`, and how many bytes are lent there; [`None`] at [`END`].
    fn deferred_at(&self, addr: Phys) -> Option<(&Slot, usize)> {
        let slot = self.record_at(addr)?;
        Some((slot, slot.lent_from(addr)?))
    }

    fn record_at(&self, addr: Phys) -> Option<&Slot> {
        let (slot, _) = self.directory.get(addr)?.slot_at(addr)?;
        Some(slot.slot)
    }

    /// Whether anything is deferred.
    pub(crate) fn has_deferred(&self) -> bool {
        self.deferred.top.load(Relaxed) != END
    }
}

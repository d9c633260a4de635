// SPDX-License-Identifier: GPL-2.0

//! The record of a slot and the stack of deferred slots, unchanged, with stand-ins for what they
//! call.

#[path = "../../../../pool/address.rs"]
mod address;
#[allow(dead_code)]
#[path = "../../../../pool/class.rs"]
mod class;
#[path = "../../../../pool/deferred.rs"]
mod deferred;
#[allow(dead_code, unused_imports)]
#[path = "../../../../pool/slot.rs"]
mod slot;

mod deferring;
mod mapping;

use address::Phys;
use deferred::Deferred;
use loom::sync::atomic::{AtomicBool, Ordering};
use span::Span;

mod misuse {
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) enum Misuse {
        DoubleUnmap,
        WrongAddress,
    }
}

mod span {
    use super::{address::Phys, class::SPAN_SHIFT, slot::Slot};

    /// A span of two slots.
    pub(super) struct Span(pub(super) &'static [Slot; 2]);

    pub(super) struct FreeSlot {
        pub(super) slot: &'static Slot,
    }

    impl Span {
        /// Each half of the span is a slot.
        pub(super) fn slot_at(&self, addr: Phys) -> Option<(FreeSlot, ())> {
            let number = addr.offset_in(SPAN_SHIFT) >> (SPAN_SHIFT - 1);
            let slot = self.0.get(number)?;
            Some((FreeSlot { slot }, ()))
        }
    }
}

/// A directory with one span.
struct Directory(Span);

impl Directory {
    fn get(&self, addr: Phys) -> Option<&Span> {
        (addr.span_index() == mapping::SPAN).then_some(&self.0)
    }
}

#[derive(Default)]
struct Stats {
    lend_deferred: Counter,
}

/// A counter that is added to, but never read.
#[derive(Default)]
struct Counter;

impl Counter {
    fn add(&self, _: u64) {}
}

/// `quiet` as in bell.rs, and whether the bell was rung.
struct Bell {
    quiet: AtomicBool,
    rung: AtomicBool,
}

impl Bell {
    fn ring(&self) {
        if !self.quiet.load(Ordering::Relaxed) {
            self.rung.store(true, Ordering::Relaxed);
        }
    }
}

struct Pool {
    directory: Directory,
    deferred: Deferred,
    stats: Stats,
    bell: Bell,
}

impl Pool {
    /// Whether the address is ours, as the lender says.
    fn take_back(&self, addr: Phys, bytes: usize) -> bool {
        self.try_take_back(addr, bytes);
        self.directory.get(addr).is_some()
    }

    /// As the lender does, except for what becomes of the slot. Returns whether it was lent.
    fn try_take_back(&self, addr: Phys, bytes: usize) -> bool {
        let span = self.directory.get(addr);
        let found = span.and_then(|span| span.slot_at(addr));
        found.is_some_and(|(slot, ())| slot.slot.take_back(addr, bytes))
    }
}

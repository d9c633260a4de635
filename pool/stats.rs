// SPDX-License-Identifier: GPL-2.0

//! Counters of rare events. Events of every mapping are counted by the CPU caches.

use super::class::PerClass;
use crate::glue::once::read_once;
use kernel::sync::atomic::{
    Atomic,
    Relaxed, //
};

/// A number of events, bytes, slots or spans, or a bitmap of some of them. It orders no other
/// access to memory.
///
/// Any CPU may read it and add to it; the methods that set it say who may call them.
pub(crate) struct Counter(Atomic<u64>);

impl Counter {
    /// A counter at `count`.
    pub(crate) const fn new(count: u64) -> Self {
        Self(Atomic::new(count))
    }

    /// Adds to the counter.
    pub(crate) fn add(&self, count: u64) {
        self.0.add(count, Relaxed);
    }

    /// Subtracts from the counter, at most what was added before.
    pub(crate) fn sub(&self, count: u64) {
        self.add(count.wrapping_neg());
    }

    /// Raises it to `count`. To be called by one thread at a time.
    pub(crate) fn raise_to(&self, count: u64) {
        self.set(count.max(self.get()));
    }

    /// Sets it to `count`. To be called by one thread at a time.
    pub(crate) fn set(&self, count: u64) {
        self.0.store(count, Relaxed);
    }

    /// Sets it to `count` if it is `old`. Returns whether it was.
    pub(crate) fn replace(&self, old: u64, count: u64) -> bool {
        self.0.cmpxchg(old, count, Relaxed).is_ok()
    }

    /// Sets it to 0; returns what it was.
    pub(crate) fn take(&self) -> u64 {
        self.0.xchg(0, Relaxed)
    }

    /// The count so far.
    pub(crate) fn get(&self) -> u64 {
        read_once(&self.0)
    }
}

impl Default for Counter {
    fn default() -> Self {
        Self::new(0)
    }
}

/// The counters of one class.
#[derive(Default)]
pub(crate) struct ClassStats {
    /// Mappings that a larger class served.
    pub(crate) fallback: Counter,
    /// Mappings that were left to the legacy pool for want of a slot.
    pub(crate) left: Counter,
    /// Mappings that nobody served.
    pub(crate) refused: Counter,
}

/// Conversions in one direction.
#[derive(Default)]
pub(crate) struct Conversions {
    /// Those that succeeded, their bytes, and the time that all took.
    pub(crate) done: Counter,
    pub(crate) bytes: Counter,
    pub(crate) ns: Counter,
    /// Those that failed.
    pub(crate) failed: Counter,
}

/// The counters.
#[derive(Default)]
pub(crate) struct Stats {
    pub(crate) classes: PerClass<ClassStats>,
    /// From private to shared, and back.
    pub(crate) shared: Conversions,
    pub(crate) given_back: Conversions,
    /// The most bytes that were shared at a time.
    pub(crate) peak_shared_bytes: Counter,
    /// How often there was no memory, not even for a single span, and how often only for one.
    pub(crate) allocation_failures: Counter,
    pub(crate) single_spans: Counter,
    /// Bytes that were shared and are in no stock now, since nobody knows their state.
    pub(crate) leaked_bytes: Counter,
    /// Mappings left to the legacy pool because no slot can hold them.
    pub(crate) oversize: Counter,
    /// Mappings left to the legacy pool because the device did not reach the slot.
    pub(crate) unreachable: Counter,
    /// Calls that no correct driver makes.
    pub(crate) misuse: Counter,
    /// Bytes of slots that are lent at this moment.
    pub(crate) lent_slot_bytes: Counter,
    /// How often memory was not lent: for want of it, and because more was asked for than is lent
    /// at a time.
    pub(crate) lend_refused: Counter,
    pub(crate) lend_oversize: Counter,
    /// How often lent memory was given back while somebody else referred to it.
    pub(crate) lend_deferred: Counter,
}

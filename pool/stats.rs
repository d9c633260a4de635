// SPDX-License-Identifier: GPL-2.0

//! Counters of what is rare. What happens for each mapping is counted by the CPU caches.

use super::class::{
    PerClass,
    SizeClass, //
};
use kernel::sync::atomic::{
    Atomic,
    Relaxed, //
};

/// A number of events or bytes that any CPU may add to.
pub(crate) struct Counter(Atomic<u64>);

impl Counter {
    /// A counter at 0.
    pub(crate) const fn new() -> Self {
        Self(Atomic::new(0))
    }

    /// Adds to the counter.
    pub(crate) fn add(&self, count: u64) {
        self.0.add(count, Relaxed);
    }

    /// Raises it to `value`. To be called by one thread.
    pub(crate) fn raise_to(&self, value: u64) {
        self.set(value.max(self.get()));
    }

    /// Sets it to `value`. To be called by one thread.
    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// The count so far.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What is counted for each class.
pub(crate) struct ClassStats {
    /// Mappings that a larger class served.
    pub(crate) fallback: Counter,
    /// Mappings that were left to the legacy pool for want of a slot.
    pub(crate) left: Counter,
    /// Mappings that nobody served.
    pub(crate) refused: Counter,
}

/// Conversions in one direction.
pub(crate) struct Conversions {
    /// Those that succeeded, their bytes, and the time that all took.
    pub(crate) done: Counter,
    pub(crate) bytes: Counter,
    pub(crate) ns: Counter,
    /// Those that failed.
    pub(crate) failed: Counter,
}

impl Conversions {
    const fn new() -> Self {
        Self {
            done: Counter::new(),
            bytes: Counter::new(),
            ns: Counter::new(),
            failed: Counter::new(),
        }
    }
}

/// The counters.
pub(crate) struct Stats {
    classes: PerClass<ClassStats>,
    /// From private to shared, and back.
    pub(crate) shared: Conversions,
    pub(crate) given_back: Conversions,
    /// The most bytes that were shared at a time.
    pub(crate) peak_shared_bytes: Counter,
    /// Times that there was no memory for a chunk, and that there was for a single span only.
    pub(crate) allocation_failures: Counter,
    pub(crate) single_spans: Counter,
    /// Bytes that are in no stock and were shared, in a state that nobody knows.
    pub(crate) leaked_bytes: Counter,
    /// Mappings left to the legacy pool because no slot can hold them.
    pub(crate) oversize: Counter,
    /// Mappings left to the legacy pool because the device did not reach the slot.
    pub(crate) unreachable: Counter,
    /// Calls that no correct driver makes.
    pub(crate) misuse: Counter,
    /// Bytes of slots that are lent at this moment.
    pub(crate) lent_slot_bytes: Counter,
    /// Times that memory was not lent: for want of it, and because more was asked for than is lent at a
    /// time.
    pub(crate) lend_refused: Counter,
    pub(crate) lend_oversize: Counter,
}

impl Stats {
    /// All counters at 0.
    pub(super) fn new() -> Self {
        Self {
            classes: PerClass::from_fn(|_| ClassStats {
                fallback: Counter::new(),
                left: Counter::new(),
                refused: Counter::new(),
            }),
            shared: Conversions::new(),
            given_back: Conversions::new(),
            peak_shared_bytes: Counter::new(),
            allocation_failures: Counter::new(),
            single_spans: Counter::new(),
            leaked_bytes: Counter::new(),
            oversize: Counter::new(),
            unreachable: Counter::new(),
            misuse: Counter::new(),
            lent_slot_bytes: Counter::new(),
            lend_refused: Counter::new(),
            lend_oversize: Counter::new(),
        }
    }

    /// The counters of a class.
    pub(crate) fn class(&self, class: SizeClass) -> &ClassStats {
        &self.classes[class]
    }
}

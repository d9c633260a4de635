// SPDX-License-Identifier: GPL-2.0

//! The part of `kernel::sync::atomic` that is used, on top of the atomics of loom.

use loom::sync::atomic::{fence, AtomicU64, Ordering};
use std::cell::OnceCell;

pub(crate) struct Relaxed;
pub(crate) struct Acquire;
pub(crate) struct Release;
/// Ordered with all that comes before and after.
pub(crate) struct Full;

pub(crate) trait Load {
    const ORDERING: Ordering;
}

impl Load for Relaxed {
    const ORDERING: Ordering = Ordering::Relaxed;
}

impl Load for Acquire {
    const ORDERING: Ordering = Ordering::Acquire;
}

pub(crate) trait Store {
    const ORDERING: Ordering;
}

impl Store for Relaxed {
    const ORDERING: Ordering = Ordering::Relaxed;
}

impl Store for Release {
    const ORDERING: Ordering = Ordering::Release;
}

/// The ordering of an exchange, and whether there are barriers before and after.
pub(crate) trait Exchange {
    const ORDERING: Ordering;
    const FULL: bool = false;
}

impl Exchange for Relaxed {
    const ORDERING: Ordering = Ordering::Relaxed;
}

impl Exchange for Acquire {
    const ORDERING: Ordering = Ordering::Acquire;
}

impl Exchange for Release {
    const ORDERING: Ordering = Ordering::Release;
}

impl Exchange for Full {
    const ORDERING: Ordering = Ordering::AcqRel;
    const FULL: bool = true;
}

fn barrier(full: bool) {
    if full {
        fence(Ordering::SeqCst);
    }
}

/// An atomic of loom, made when it is first used, because those of the kernel can be constants.
pub(crate) struct Atomic<T> {
    first: T,
    made: OnceCell<AtomicU64>,
}

// SAFETY: loom runs one thread at a time, and changes to another one only where an atomic is used,
// which is after it was made.
unsafe impl Sync for Atomic<u64> {}

impl Atomic<u64> {
    pub(crate) const fn new(first: u64) -> Self {
        Self {
            first,
            made: OnceCell::new(),
        }
    }

    fn get(&self) -> &AtomicU64 {
        self.made.get_or_init(|| AtomicU64::new(self.first))
    }

    pub(crate) fn load<O: Load>(&self, _: O) -> u64 {
        self.get().load(O::ORDERING)
    }

    pub(crate) fn store<O: Store>(&self, value: u64, _: O) {
        self.get().store(value, O::ORDERING);
    }

    pub(crate) fn xchg<O: Exchange>(&self, value: u64, _: O) -> u64 {
        barrier(O::FULL);
        let old = self.get().swap(value, O::ORDERING);
        barrier(O::FULL);
        old
    }

    /// If it fails, it orders nothing that comes later.
    pub(crate) fn cmpxchg<O: Exchange>(&self, old: u64, new: u64, _: O) -> Result<u64, u64> {
        barrier(O::FULL);
        let done = self
            .get()
            .compare_exchange(old, new, O::ORDERING, Ordering::Relaxed);
        barrier(O::FULL && done.is_ok());
        done
    }
}

// SPDX-License-Identifier: GPL-2.0

//! From a physical address to its span: one table, indexed by the address.
//!
//! The table has 8 bytes for each 512 KiB that can ever be memory (16 KiB for a guest of 1 GiB,
//! 16 MiB for one of 1 TiB), so that a lookup is one read, however much is shared, and an address
//! that is not ours is told apart by the same read.
//!
//! # Ordering
//!
//! [`Directory::insert`] publishes a span with a release store, which pairs with the acquire load
//! in [`Directory::get`]. [`Directory::remove`] needs no partner: nothing is freed that a reader may
//! still look at, and by the time that the memory belongs to anybody else, the page allocator's own
//! ordering has made the store visible to them.

use super::{
    address::Phys,
    class::{
        SPAN_BYTES,
        SPAN_SHIFT, //
    },
    span::Span, //
};
use core::ptr;
use kernel::{
    alloc::AllocError,
    page::PAGE_SHIFT,
    prelude::*,
    sync::atomic::{
        Acquire,
        Atomic,
        Release, //
    },
};

/// The table.
///
/// # Invariants
///
/// Each entry is null or was made from a `&'static Span`.
pub(crate) struct Directory {
    entries: KVVec<Atomic<*mut Span>>,
}

// SAFETY: The entries are shared references to spans, which are `Sync`.
unsafe impl Send for Directory {}

// SAFETY: The entries are shared references to spans, which are `Sync`, and are replaced as a
// whole by atomic stores.
unsafe impl Sync for Directory {}

impl Directory {
    /// A table for the first `frames` page frames.
    ///
    /// May sleep.
    pub(crate) fn new(frames: usize) -> Result<Self, AllocError> {
        let count = (frames >> (SPAN_SHIFT as usize - PAGE_SHIFT)) + 1;
        let mut entries = KVVec::with_capacity(count, GFP_KERNEL)?;
        for _ in 0..count {
            // INVARIANT: Null.
            entries.push(Atomic::new(ptr::null_mut()), GFP_KERNEL)?;
        }
        Ok(Self { entries })
    }

    /// The span that `addr` lies in, [`None`] if the address is not ours.
    #[inline]
    pub(crate) fn get(&self, addr: Phys) -> Option<&'static Span> {
        // Pairs with the release store in `insert()`.
        let span = self.entries.get(addr.span_index())?.load(Acquire);
        // SAFETY: By the type invariant, the entry is null, or valid for reads for ever.
        unsafe { span.as_ref() }
    }

    /// How far the table reaches, in bytes from address 0.
    pub(crate) fn bytes(&self) -> usize {
        self.entries.len().saturating_mul(SPAN_BYTES)
    }

    /// Whether all of `bytes` from `base` on has entries in the table.
    pub(crate) fn covers(&self, base: Phys, bytes: usize) -> bool {
        base.add(bytes.saturating_sub(1)).span_index() < self.entries.len()
    }

    /// Enters `span` at its address.
    ///
    /// Fails with [`EINVAL`] where the table does not reach.
    pub(crate) fn insert(&self, span: &'static Span) -> Result {
        let entry = self.entries.get(span.base().span_index()).ok_or(EINVAL)?;
        // INVARIANT: Made from a `&'static Span`.
        // Pairs with the acquire load in `get()`.
        entry.store(ptr::from_ref(span).cast_mut(), Release);
        Ok(())
    }

    /// Removes the span at `base`: from now on its addresses are not ours.
    pub(crate) fn remove(&self, base: Phys) {
        if let Some(entry) = self.entries.get(base.span_index()) {
            // INVARIANT: Null.
            entry.store(ptr::null_mut(), Release);
        }
    }
}

#[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
#[kunit_tests(cc_swiotlb_directory)]
mod tests {
    use super::*;
    use crate::pool::class::SizeClass;

    #[test]
    fn finds_the_slot_of_every_address() -> Result {
        let directory = Directory::new(16 << (SPAN_SHIFT as usize - PAGE_SHIFT))?;
        for (place, class) in SizeClass::all().enumerate() {
            let base = Phys::new((place * SPAN_BYTES) as u64);
            directory.insert(Span::new(class, base)?)?;
        }
        for (place, class) in SizeClass::all().enumerate() {
            let start = place * SPAN_BYTES;
            let bytes = class.slot_bytes();
            for index in [0, class.slots_per_span() / 2, class.slots_per_span() - 1] {
                let base = start + index * bytes;
                for addr in [base, base + 1, base + bytes / 2, base + bytes - 1] {
                    let addr = Phys::new(addr as u64);
                    let span = directory.get(addr).ok_or(ENOENT)?;
                    assert_eq!(span.class(), class);
                    let (slot, offset) = span.slot_at(addr).ok_or(ENOENT)?;
                    assert_eq!(slot.base.raw(), base as u64);
                    assert_eq!(slot.base.add(offset), addr);
                }
            }
        }
        Ok(())
    }

    #[test]
    fn foreign_addresses_are_not_ours() -> Result {
        let directory = Directory::new(16 << (SPAN_SHIFT as usize - PAGE_SHIFT))?;
        let class = SizeClass::new(0).ok_or(ERANGE)?;
        let base = Phys::new(3 * SPAN_BYTES as u64);
        directory.insert(Span::new(class, base)?)?;
        for addr in [
            0,
            base.raw() - 1,
            base.raw() + SPAN_BYTES as u64,
            1 << 40,
            u64::MAX,
        ] {
            assert!(directory.get(Phys::new(addr)).is_none());
        }
        assert!(directory.get(base).is_some());
        directory.remove(base);
        assert!(directory.get(base).is_none());
        assert!(directory.covers(base, SPAN_BYTES));
        assert!(!directory.covers(Phys::new(1 << 40), 1));
        Ok(())
    }
}

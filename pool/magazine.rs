// SPDX-License-Identifier: GPL-2.0

//! Magazines: small stacks of free slots of one class.
//!
//! Bonwick and Adams, "Magazines and Vmem" (USENIX 2001), describe the scheme; the IOVA allocator
//! (drivers/iommu/iova.c) and the sheaves of SLUB are its relatives in the kernel. Last in, first
//! out: the next mapping gets the slot whose bytes are still in this CPU's cache.

use super::{
    class::SizeClass,
    span::FreeSlot,
    withdrawn::Withdrawn, //
};
use kernel::{
    alloc::AllocError,
    prelude::*, //
};

/// A stack of free slots with room for [`SizeClass::magazine_slots`].
pub(crate) struct Magazine {
    slots: KVec<FreeSlot>,
}

impl Magazine {
    /// An empty magazine for slots of `class`.
    ///
    /// May sleep.
    pub(crate) fn new(class: SizeClass) -> Result<Self, AllocError> {
        Ok(Self {
            slots: KVec::with_capacity(class.magazine_slots(), GFP_KERNEL)?,
        })
    }

    /// Empty magazines for all the slots of a span.
    ///
    /// May sleep.
    pub(crate) fn for_span(class: SizeClass) -> Result<KVec<Self>, AllocError> {
        let count = class.slots_per_span() / class.magazine_slots();
        let mut magazines = KVec::with_capacity(count, GFP_KERNEL)?;
        for _ in 0..count {
            magazines.push(Self::new(class)?, GFP_KERNEL)?;
        }
        Ok(magazines)
    }

    /// Takes the slot that was put in last.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<FreeSlot> {
        self.slots.pop()
    }

    /// Puts a slot in; gives it back if there is no room.
    #[inline]
    pub(crate) fn push(&mut self, slot: FreeSlot) -> Result<(), FreeSlot> {
        self.slots
            .push_within_capacity(slot)
            .map_err(|refused| refused.0)
    }

    /// Moves the slots of the span in `hand` there. The others stay in their order.
    pub(super) fn withdraw(&mut self, hand: &mut Withdrawn) {
        self.slots.retain(|slot| !hand.take(slot));
    }

    /// Number of slots in the magazine.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is no room in it.
    pub(super) fn is_full(&self) -> bool {
        self.slots.len() == self.slots.capacity()
    }

    /// Whether there is no slot in it.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

#[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
#[kunit_tests(cc_swiotlb_magazine)]
mod tests {
    use super::*;
    use crate::pool::{
        address::Phys,
        span::Span, //
    };

    #[test]
    fn last_in_first_out_up_to_its_capacity() -> Result {
        for class in SizeClass::all() {
            let span = Span::new(class, Phys::new(0))?;
            let mut magazine = Magazine::new(class)?;
            assert!(magazine.is_empty());
            for slot in span.slots().take(class.magazine_slots()) {
                assert!(magazine.push(slot).is_ok());
            }
            assert_eq!(magazine.len(), class.magazine_slots());
            for index in (0..class.magazine_slots()).rev() {
                let slot = magazine.pop().ok_or(ENOENT)?;
                assert_eq!(slot.base.raw(), (index * class.slot_bytes()) as u64);
            }
            assert!(magazine.pop().is_none());
        }
        Ok(())
    }
}

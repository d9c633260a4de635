// SPDX-License-Identifier: GPL-2.0

//! The slots of one span that kccd has withdrawn, on the way to retiring the span.

use super::{
    class::{
        MIN_SLOT_BYTES,
        SPAN_BYTES, //
    },
    span::{
        FreeSlot,
        Span, //
    },
};
#[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
use kernel::prelude::*;

/// Most slots that a span has.
const MAX_SLOTS: usize = SPAN_BYTES / MIN_SLOT_BYTES;
const WORD_BITS: usize = u64::BITS as usize;

/// A set of free slots of one span, as a bitmap: retiring allocates nothing, it has to work when
/// memory is short.
///
/// # Invariants
///
/// `slots` is the number of bits that are set. Each stands for a slot that was in a magazine and
/// is in none now.
pub(crate) struct Withdrawn {
    span: &'static Span,
    bits: [u64; MAX_SLOTS / WORD_BITS],
    slots: usize,
}

impl Withdrawn {
    /// No slot of `span` yet.
    pub(crate) fn new(span: &'static Span) -> Self {
        // INVARIANT: No bit is set.
        Self {
            span,
            bits: [0; MAX_SLOTS / WORD_BITS],
            slots: 0,
        }
    }

    /// The span.
    pub(crate) fn span(&self) -> &'static Span {
        self.span
    }

    /// Takes a slot over, if it is one of the span's. Whoever calls lets go of it then.
    ///
    /// Two of the same count once, so that no slot can make up for one that is in use.
    pub(crate) fn take(&mut self, slot: &FreeSlot) -> bool {
        let Some(index) = self.span.index_of(slot.base) else {
            return false;
        };
        let bit = 1 << (index % WORD_BITS);
        if let Some(word) = self.bits.get_mut(index / WORD_BITS) {
            if *word & bit == 0 {
                // INVARIANT: One more, which is the caller's to give.
                *word |= bit;
                self.slots += 1;
            }
        }
        true
    }

    /// Lets go of one of the slots, to be put into a magazine.
    pub(crate) fn pop(&mut self) -> Option<FreeSlot> {
        let (place, word) = self
            .bits
            .iter_mut()
            .enumerate()
            .find(|(_, word)| **word != 0)?;
        let bit = word.trailing_zeros();
        // INVARIANT: One less.
        *word &= *word - 1;
        self.slots = self.slots.saturating_sub(1);
        self.span.slot(place * WORD_BITS + bit as usize)
    }

    /// Number of slots.
    pub(crate) fn len(&self) -> usize {
        self.slots
    }

    /// Whether all slots of the span are here, so that none of them is in use, nor ever will be.
    pub(crate) fn is_complete(&self) -> bool {
        self.slots == self.span.class().slots_per_span()
    }
}

#[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
#[kunit_tests(cc_swiotlb_withdrawn)]
mod tests {
    use super::*;
    use crate::pool::{
        address::Phys,
        class::SizeClass, //
    };

    #[test]
    fn complete_with_the_last_slot_only() -> Result {
        for class in SizeClass::all() {
            let span = Span::new(class, Phys::new(SPAN_BYTES as u64))?;
            let mut hand = Withdrawn::new(span);
            for slot in span.slots() {
                assert!(!hand.is_complete());
                assert!(hand.take(&slot));
            }
            assert!(hand.is_complete());
            let mut last = None;
            while let Some(slot) = hand.pop() {
                assert!(span.index_of(slot.base).is_some());
                assert!(last.is_none_or(|last| slot.base > last));
                last = Some(slot.base);
            }
            assert_eq!(hand.len(), 0);
            assert!(!hand.is_complete());
        }
        Ok(())
    }

    #[test]
    fn a_slot_counts_once_and_a_foreign_one_not_at_all() -> Result {
        let class = SizeClass::for_bytes(4096).ok_or(ERANGE)?;
        let span = Span::new(class, Phys::new(SPAN_BYTES as u64))?;
        let below = Span::new(class, Phys::new(0))?;
        let above = Span::new(class, Phys::new(2 * SPAN_BYTES as u64))?;
        let mut hand = Withdrawn::new(span);
        let slot = span.slot(7).ok_or(ENOENT)?;
        assert!(hand.take(&slot) && hand.take(&slot));
        assert_eq!(hand.len(), 1);
        for other in [below, above] {
            assert!(other.slots().all(|slot| !hand.take(&slot)));
        }
        assert_eq!(hand.len(), 1);
        Ok(())
    }
}

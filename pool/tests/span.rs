// SPDX-License-Identifier: GPL-2.0

//! The rules of a span.

use crate::pool::{
    address::Phys,
    chunk::Chunk,
    class::{
        SizeClass,
        CHUNK_BYTES,
        SPANS_PER_CHUNK,
        SPAN_BYTES, //
    },
    span::{
        FreeSlot,
        Span,
        Use, //
    },
};
use kernel::prelude::*;

#[kunit_tests(cc_swiotlb_span)]
mod tests {
    use super::*;

    /// An unbound span that is not the first of its chunk.
    fn span() -> Result<&'static Span> {
        let base = Phys::new(5 * CHUNK_BYTES as u64);
        let chunk = Chunk::for_test(base, SPANS_PER_CHUNK, 0)?;
        chunk.spans().nth(1).ok_or(EINVAL)
    }

    #[test]
    fn each_slot_is_taken_once_and_put_back() -> Result {
        let span = span()?;
        for class in SizeClass::ALL {
            let total = class.slots_per_span();
            assert!(span.bind(Use::Slots(class)).is_ok());
            let mut seen = KVec::from_elem(false, total, GFP_KERNEL)?;
            while let Some(slot) = span.take(class) {
                let offset = slot.base.since(span.base()).ok_or(EINVAL)?;
                assert_eq!(offset % class.slot_bytes(), 0);
                assert!(!core::mem::replace(
                    &mut seen[offset / class.slot_bytes()],
                    true
                ));
                let (found, _) = span.slot_at(slot.base).ok_or(EINVAL)?;
                assert!(core::ptr::eq(found.slot, slot.slot));
            }
            assert!(seen.iter().all(|seen| *seen));
            assert_eq!(span.home_slots.get(), 0);
            for (home, index) in (0..total).rev().enumerate() {
                let base = span.base().add(index * class.slot_bytes());
                let (slot, _) = span.slot_at(base).ok_or(EINVAL)?;
                span.put(class, slot.base, 1);
                assert_eq!(span.home_slots.get() as usize, home + 1);
            }
            span.unbind();
        }
        Ok(())
    }

    #[test]
    fn what_was_put_back_is_taken_again() -> Result {
        let span = span()?;
        for class in SizeClass::ALL {
            assert!(span.bind(Use::Slots(class)).is_ok());
            while span.take(class).is_some() {}
            let last = span.base().add(SPAN_BYTES - 1);
            let (slot, _) = span.slot_at(last).ok_or(EINVAL)?;
            span.put(class, slot.base, 1);
            assert!(span
                .take(class)
                .is_some_and(|taken| taken.base == slot.base));
            assert!(span.take(class).is_none());
            span.unbind();
        }
        Ok(())
    }

    #[test]
    fn every_address_has_its_slot() -> Result {
        let span = span()?;
        for class in SizeClass::ALL {
            assert!(span.bind(Use::Slots(class)).is_ok());
            let mut previous: Option<FreeSlot> = None;
            for at in (0..SPAN_BYTES)
                .step_by(512)
                .flat_map(|at| [at, at + 1, at + 511])
            {
                let addr = span.base().add(at);
                let (slot, binding) = span.slot_at(addr).ok_or(EINVAL)?;
                assert!(binding == span.binding() && binding.class() == Some(class));
                let offset = addr.since(slot.base).ok_or(EINVAL)?;
                assert!(offset < class.slot_bytes());
                assert_eq!(slot.base.offset_in(class.shift()), 0);
                // One record for one slot.
                if let Some(previous) = previous {
                    let same = core::ptr::eq(previous.slot, slot.slot);
                    assert_eq!(same, previous.base == slot.base);
                }
                previous = Some(slot);
            }
            span.unbind();
        }
        Ok(())
    }

    #[test]
    fn a_span_that_has_moved_is_not_still_there() -> Result {
        let span = span()?;
        let chunk = span.chunk().ok_or(EINVAL)?;
        let before = span.base();
        span.place(Phys::new(9 * CHUNK_BYTES as u64), chunk);
        assert!(span.bind(Use::Slots(SizeClass::K4)).is_ok());
        for (base, is_there) in [(before, false), (span.base(), true)] {
            for at in [0, 1, SPAN_BYTES - 1] {
                let addr = base.add(at);
                let (_, binding) = span.slot_at(addr).ok_or(EINVAL)?;
                assert_eq!(span.is_still(binding, addr), is_there);
            }
        }
        let (_, bound) = span.slot_at(span.base()).ok_or(EINVAL)?;
        span.unbind();
        assert!(!span.is_still(bound, span.base()));
        Ok(())
    }

    #[test]
    fn binding_anew_is_another_binding() -> Result {
        let span = span()?;
        assert_eq!(span.binding().class(), None);
        let mut before = span.binding();
        for class in [
            SizeClass::K4,
            SizeClass::K4,
            SizeClass::B512,
            SizeClass::K512,
        ] {
            assert!(span.bind(Use::Slots(class)).is_ok());
            let bound = span.binding();
            assert_eq!(bound.class(), Some(class));
            assert!(span.binding() == bound && span.binding() != before);
            span.unbind();
            assert_eq!(span.binding().class(), None);
            assert_eq!(span.home_slots.get(), 0);
            assert!(span.binding() != bound);
            before = bound;
        }
        Ok(())
    }
}

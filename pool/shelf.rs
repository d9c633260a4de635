// SPDX-License-Identifier: GPL-2.0

//! Shelves: what a depot has of one class.
//!
//! # Why there is always an empty magazine
//!
//! A CPU that wants to store a full magazine needs an empty one in exchange. Let a class have S
//! slots in all, and c slots to a magazine. There are two magazines for each CPU, one `open` for
//! each depot, and one more for each c slots that were made, so that the lists of all depots
//! together hold S / c of them. Those in `full` are full. The CPU that asks holds two full ones, so
//! that at most S / c - 2 are in `full`, and at least two in `empty`. It may be another node's
//! depot that has them.
//!
//! A slot that is stored alone, by a CPU that drains its magazines, goes into `open`. That needs an
//! empty magazine only when `open` becomes full. If no depot had one, S slots would be in `full`,
//! and the one in hand is not.
//!
//! A span that is retired takes S down by a multiple of c, with all its slots in hand: what is left
//! in `full` is at most (S - n) / c, so that n / c empty magazines can go as well.
//!
//! An exchange does not change how many magazines a depot has. So the lists never need more room
//! than [`Shelf::enlarge`] has made for what was added.
//!
//! # How it is found
//!
//! The proof is for all depots at one time, and they are looked at one after the other. Meanwhile an
//! empty magazine may move from one that is next to one that was before: another CPU leaves a full
//! magazine there, and yet another fetches one here. That takes two exchanges by others for each time
//! that all depots are looked at in vain, and all of them are looked at [`PASSES`] times. Each time
//! is as improbable as the first one, so that a proof is not worth a lock on all depots. If they were
//! all in vain, a slot has no place: it counts as leaked, its span can never be retired, the kernel
//! log says so, and nothing else happens.
//!
//! # Whose they are
//!
//! A depot has one magazine for each c slots that were made for its node, full or empty, and no more.
//! So slots that are taken on one node and come back on another do not gather there: its own
//! are the most that it has room for, and the others go where empty magazines are. As a span is
//! retired, its slots may be found, and magazines be taken away, in any depot. After that kccd moves
//! magazines between the depots until it is right again (settle.rs). While it holds one, the
//! lists have one less: there still is an empty one for who asks. If it is full, at most S / c - 3
//! are in `full`; if it is empty, one of the two is left.

use super::{
    magazine::Magazine,
    span::FreeSlot,
    withdrawn::Withdrawn, //
};
use core::mem;
use kernel::prelude::*;

/// How often all depots are looked at for an empty magazine.
pub(super) const PASSES: usize = 100;

/// The magazines of one class in one depot.
///
/// # Invariants
///
/// - The magazines in `full` are full, those in `empty` are empty.
/// - `open` is not full. It is there once there is any other magazine.
/// - Both lists have room for all magazines that are on either of them.
pub(super) struct Shelf {
    full: KVVec<Magazine>,
    empty: KVVec<Magazine>,
    /// The only one that may be partly filled.
    open: Option<Magazine>,
}

impl Shelf {
    /// A shelf without any magazine.
    pub(super) const fn new() -> Self {
        Self {
            full: KVVec::new(),
            empty: KVVec::new(),
            open: None,
        }
    }

    /// Exchanges the empty `magazine` for one with slots in it; at least `keep` full ones stay.
    ///
    /// Returns whether it did.
    pub(super) fn swap_for_full(&mut self, keep: usize, magazine: &mut Magazine) -> bool {
        if self.full.len() > keep {
            if let Some(full) = self.full.pop() {
                let empty = mem::replace(magazine, full);
                // There is room by the type invariant. Should that ever be wrong, an empty
                // magazine is lost, no slot.
                let _ = self.empty.push_within_capacity(empty);
                return true;
            }
        }
        false
    }

    /// Exchanges the empty `magazine` for the one that is partly filled.
    ///
    /// Returns whether it did.
    pub(super) fn swap_for_open(&mut self, magazine: &mut Magazine) -> bool {
        match &mut self.open {
            Some(open) if !open.is_empty() => {
                // INVARIANT: An empty one is not full.
                mem::swap(open, magazine);
                true
            }
            _ => false,
        }
    }

    /// Exchanges the full `magazine` for an empty one.
    ///
    /// Returns whether it did; if not, there is no empty one, see the top of this file.
    pub(super) fn swap_for_empty(&mut self, magazine: &mut Magazine) -> bool {
        if self.full.len() >= self.full.capacity() {
            return false;
        }
        let Some(empty) = self.empty.pop() else {
            return false;
        };
        // There is room, just checked.
        let _ = self
            .full
            .push_within_capacity(mem::replace(magazine, empty));
        true
    }

    /// Stores one slot; gives it back if there is no room, see the top of this file.
    pub(super) fn store(&mut self, slot: FreeSlot) -> Result<(), FreeSlot> {
        let Some(open) = &mut self.open else {
            return Err(slot);
        };
        open.push(slot)?;
        if !open.is_full() {
            return Ok(());
        }
        if self.full.len() < self.full.capacity() {
            if let Some(empty) = self.empty.pop() {
                let full = mem::replace(open, empty);
                // There is room, just checked.
                let _ = self.full.push_within_capacity(full);
                return Ok(());
            }
        }
        // INVARIANT: Not full again.
        open.pop().map_or(Ok(()), Err)
    }

    /// Moves slots of the span in `hand` there, out of up to `budget` magazines from the one at
    /// `from` on.
    ///
    /// Returns where to go on, [`None`] at the end. Between the calls magazines come and go at the
    /// far end, so that some may be missed.
    pub(super) fn withdraw(
        &mut self,
        from: usize,
        budget: usize,
        hand: &mut Withdrawn,
    ) -> Option<usize> {
        let mut at = from;
        for _ in 0..budget {
            let Some(magazine) = self.full.get_mut(at) else {
                if let Some(open) = &mut self.open {
                    open.withdraw(hand);
                }
                return None;
            };
            magazine.withdraw(hand);
            if magazine.is_full() {
                at += 1;
                continue;
            }
            // The last one takes its place, to be looked at next.
            let mut rest = self.full.pop()?;
            if let Some(place) = self.full.get_mut(at) {
                mem::swap(place, &mut rest);
            }
            self.settle(rest);
        }
        Some(at)
    }

    /// Finds a place for a magazine that is not full, by pouring it into `open`.
    fn settle(&mut self, mut rest: Magazine) {
        let Some(open) = &mut self.open else {
            // INVARIANT: Not full.
            self.open = Some(rest);
            return;
        };
        while !open.is_full() {
            let Some(slot) = rest.pop() else {
                // INVARIANT: Empty. There is room: it comes off the other list.
                let _ = self.empty.push_within_capacity(rest);
                return;
            };
            // There is room, just checked.
            let _ = open.push(slot);
        }
        // INVARIANT: What is left of two that were not full is less than one.
        let full = mem::replace(open, rest);
        let _ = self.full.push_within_capacity(full);
    }

    /// Takes an empty magazine away for good.
    pub(super) fn remove_empty(&mut self) -> Option<Magazine> {
        self.empty.pop()
    }

    /// Takes a magazine away for good: an empty one, or else a full one.
    pub(super) fn remove_any(&mut self) -> Option<Magazine> {
        self.empty.pop().or_else(|| self.full.pop())
    }

    /// How many magazines there are, without `open`.
    pub(super) fn magazines(&self) -> usize {
        self.full.len() + self.empty.len()
    }

    /// For how many magazines there is room.
    pub(super) fn room(&self) -> usize {
        self.full.capacity().min(self.empty.capacity())
    }

    /// Whether there is an open magazine.
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Puts the open magazine in place.
    pub(super) fn open(&mut self, empty: Magazine) {
        // INVARIANT: The caller gives an empty one.
        self.open = Some(empty);
    }

    /// Moves both lists to larger ones, and leaves the old ones there for the caller to free.
    pub(super) fn enlarge(&mut self, full: &mut KVVec<Magazine>, empty: &mut KVVec<Magazine>) {
        for (list, larger) in [(&mut self.full, full), (&mut self.empty, empty)] {
            for magazine in list.drain_all() {
                // There is room, it is larger.
                let _ = larger.push_within_capacity(magazine);
            }
            mem::swap(list, larger);
        }
    }

    /// Adds a magazine, full or empty. There must be room for it.
    pub(super) fn add(&mut self, magazine: Magazine) {
        let list = if magazine.is_empty() {
            &mut self.empty
        } else {
            &mut self.full
        };
        let _ = list.push_within_capacity(magazine);
    }
}

#[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
#[kunit_tests(cc_swiotlb_shelf)]
mod tests {
    use super::*;
    use crate::pool::{
        address::Phys,
        class::{
            SizeClass,
            SPAN_BYTES, //
        },
        span::Span, //
    };

    /// A shelf with the slots of `spans` spans, and the spans.
    fn stocked(class: SizeClass, spans: usize) -> Result<(Shelf, KVec<&'static Span>)> {
        let mut shelf = Shelf::new();
        let mut all = KVec::new();
        let room = spans * class.slots_per_span() / class.magazine_slots();
        let mut full = KVVec::with_capacity(room, GFP_KERNEL)?;
        let mut empty = KVVec::with_capacity(room, GFP_KERNEL)?;
        shelf.enlarge(&mut full, &mut empty);
        shelf.open(Magazine::new(class)?);
        for index in 0..spans {
            let span = Span::new(class, Phys::new((index * SPAN_BYTES) as u64))?;
            for magazine in span.fill(Magazine::for_span(class)?) {
                shelf.add(magazine);
            }
            all.push(span, GFP_KERNEL)?;
        }
        Ok((shelf, all))
    }

    /// Whether the type invariants hold, and `slots` slots are there.
    fn is_sound(shelf: &Shelf, slots: usize) -> bool {
        let open = shelf.open.as_ref().map_or(0, Magazine::len);
        let full: usize = shelf.full.iter().map(Magazine::len).sum();
        shelf.full.iter().all(Magazine::is_full)
            && shelf.empty.iter().all(Magazine::is_empty)
            && shelf.open.as_ref().is_none_or(|open| !open.is_full())
            && shelf.magazines() <= shelf.room()
            && open + full == slots
    }

    #[test]
    fn single_slots_go_into_the_open_magazine() -> Result {
        for class in SizeClass::all() {
            let (mut shelf, _) = stocked(class, 1)?;
            let total = class.slots_per_span();
            // As a CPU does that drains one magazine, in hand and slot by slot.
            let mut magazine = Magazine::new(class)?;
            assert!(shelf.swap_for_full(0, &mut magazine));
            let mut missing = magazine.len();
            while let Some(slot) = magazine.pop() {
                assert!(shelf.store(slot).is_ok());
                missing -= 1;
                assert!(is_sound(&shelf, total - missing));
            }
            assert_eq!(shelf.full.len(), total / class.magazine_slots());
        }
        Ok(())
    }

    #[test]
    fn what_is_in_the_open_magazine_can_be_had() -> Result {
        let class = SizeClass::for_bytes(4096).ok_or(ERANGE)?;
        let (mut shelf, _) = stocked(class, 1)?;
        let mut held = KVec::new();
        loop {
            let mut magazine = Magazine::new(class)?;
            if !shelf.swap_for_full(0, &mut magazine) {
                break;
            }
            held.push(magazine, GFP_KERNEL)?;
        }
        let slot = held.get_mut(0).and_then(Magazine::pop).ok_or(ENOENT)?;
        let mut magazine = Magazine::new(class)?;
        assert!(!shelf.swap_for_open(&mut magazine));
        assert!(shelf.store(slot).is_ok());
        assert!(!shelf.swap_for_full(0, &mut magazine));
        assert!(shelf.swap_for_open(&mut magazine));
        assert_eq!(magazine.len(), 1);
        assert!(is_sound(&shelf, 0));
        Ok(())
    }

    /// Withdraws all of `span` that is on the shelf, `budget` magazines at a time.
    fn withdraw(shelf: &mut Shelf, span: &'static Span, budget: usize) -> Withdrawn {
        let mut hand = Withdrawn::new(span);
        let mut at = Some(0);
        while let Some(from) = at {
            at = shelf.withdraw(from, budget, &mut hand);
        }
        hand
    }

    #[test]
    fn a_span_is_withdrawn_wherever_its_slots_are() -> Result {
        for class in SizeClass::all() {
            let (mut shelf, spans) = stocked(class, 3)?;
            let per_span = class.slots_per_span();
            // Mix them: take everything out, store one slot of each span in turn.
            let mut held = KVec::new();
            loop {
                let mut magazine = Magazine::new(class)?;
                if !shelf.swap_for_full(0, &mut magazine) {
                    break;
                }
                held.push(magazine, GFP_KERNEL)?;
            }
            for index in 0..per_span {
                for span in &spans {
                    let slot = span.slot(index).ok_or(ENOENT)?;
                    assert!(shelf.store(slot).is_ok());
                }
            }
            assert!(is_sound(&shelf, 3 * per_span));
            for (gone, span) in spans.iter().enumerate() {
                let hand = withdraw(&mut shelf, span, gone + 1);
                assert!(hand.is_complete());
                assert!(is_sound(&shelf, (2 - gone) * per_span));
                for _ in 0..per_span / class.magazine_slots() {
                    assert!(shelf.remove_empty().is_some());
                }
            }
            assert_eq!(shelf.magazines(), 0);
        }
        Ok(())
    }

    #[test]
    fn what_was_withdrawn_can_be_put_back() -> Result {
        for class in SizeClass::all() {
            let (mut shelf, spans) = stocked(class, 2)?;
            let span = spans.last().ok_or(ENOENT)?;
            let mut magazine = Magazine::new(class)?;
            assert!(shelf.swap_for_full(0, &mut magazine));
            // The youngest span's slots are on top: one is missing now.
            let mut hand = withdraw(&mut shelf, span, 1);
            assert!(!hand.is_complete());
            assert_eq!(hand.len(), class.slots_per_span() - magazine.len());
            while let Some(slot) = hand.pop() {
                assert!(shelf.store(slot).is_ok());
            }
            assert!(shelf.swap_for_empty(&mut magazine));
            assert!(is_sound(&shelf, 2 * class.slots_per_span()));
        }
        Ok(())
    }
}

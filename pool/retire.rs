// SPDX-License-Identifier: GPL-2.0

//! The way back: slots become a span without a class, and chunks private memory.
//!
//! A span is retired when all of its slots are in hand. That is the whole proof that nobody uses
//! it: a slot is in a magazine, in use, or in hand, and in one place only. The depots' slots are
//! fetched from their shelves; what CPUs hold they put there themselves. If one is missing all go
//! back, and nothing has happened.
//!
//! What is spare may be scattered then, a span here and a span there. So spans that nobody uses are
//! moved together, until what is spare is less than a chunk or mappings stand in the way.
//!
//! # Ordering
//!
//! Whoever used a slot last has copied its bytes before it came into a magazine (`Slot::free()`), and
//! the magazine passed by the depot's lock: so the copy is over. A driver that unmaps or syncs an
//! address of the span now has unmapped it before; it may still have found the span. Lookup, claim
//! and copy are in one RCU section, and between the span's leaving the directory and anything else
//! that is done with its memory or its records is a grace period: whoever found it is through, and
//! has found free records.
//!
//! kccd does not wait for the end of a grace period, it comes back later. Mappings that wait for
//! kccd may be in RCU read sections (the block layer's are), and would hold it up while it holds
//! them up.

use super::{
    address::Phys,
    class::{
        SizeClass,
        CHUNK_BYTES,
        CLASSES,
        SPANS_PER_CHUNK,
        SPAN_BYTES, //
    },
    span::Span,
    spare::SpareSpan,
    stock::{
        Chunk,
        Stock,
        STUCK, //
    },
    withdrawn::Withdrawn,
    Pool, //
};
use crate::{
    glue::{
        cpus,
        grace::GracePeriod, //
    },
    trace, //
};
#[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
use kernel::prelude::*;

/// Chunks that are looked at for a span, from the youngest on, if there is one in them.
const LOOK_AT: usize = 64;

/// What a span of a chunk is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Use {
    /// For nothing.
    Spare,
    /// For mappings, or for a class that can not do without it.
    Busy,
    /// For a class, and no mapping uses it.
    Idle(SizeClass),
}

/// What it takes to empty a chunk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Cost {
    /// Spans that stay: it can not be emptied now.
    stuck: usize,
    /// Spans that can go.
    going: usize,
    /// The first of them.
    first: usize,
}

impl Cost {
    /// Of a chunk whose spans are used as `uses` says, where each class can do without as many
    /// spans as `surplus` says. [`None`] if no span of it can go.
    fn of(uses: [Use; SPANS_PER_CHUNK], mut surplus: [u32; CLASSES]) -> Option<Self> {
        let (mut stuck, mut going, mut first) = (0, 0, None);
        for (index, usage) in uses.into_iter().enumerate() {
            let class = match usage {
                Use::Spare => continue,
                Use::Busy => None,
                Use::Idle(class) => surplus.get_mut(class.index()).filter(|left| **left > 0),
            };
            match class {
                Some(left) => {
                    *left -= 1;
                    going += 1;
                    first.get_or_insert(index);
                }
                None => stuck += 1,
            }
        }
        first.map(|first| Self {
            stuck,
            going,
            first,
        })
    }
}

impl Pool {
    /// Makes every CPU return what it holds to the depots, if it has mapped or unmapped anything
    /// since the last time. Returns whether one has.
    ///
    /// May sleep.
    pub(crate) fn drain_cpus(&self) -> bool {
        let mut any = false;
        for cpu in self.caches.active() {
            any |= cpus::run_on(cpu, self, |pool, irq| {
                pool.caches
                    .drain(|| pool.depots_over_again(pool.home()), irq);
            });
        }
        any
    }

    /// Returns what a dead CPU holds to the depots.
    pub(crate) fn drain_dead(&self, cpu: &cpus::DeadCpu) {
        let home = self.node_of(cpu.id());
        self.caches.drain_dead(cpu, || self.depots_over_again(home));
    }

    /// Retires one span that was made for `node`, of a class that has one too many there: the one
    /// whose chunk is the easiest to empty.
    ///
    /// Returns whether it did. May sleep. To be called by kccd only.
    pub(crate) fn retire(&self, node: usize, surplus: &[u32; CLASSES]) -> bool {
        let mut stock = self.stock.lock();
        for _ in 0..STUCK {
            let Some((span, place)) = self.easiest(&stock, node, surplus) else {
                return false;
            };
            if self.withdraw(span) {
                self.set_aside(&mut stock, span, place);
                self.settle_retired(span);
                return true;
            }
            self.stats.retire_failures.add(1);
            stock.note_stuck(span.base());
        }
        false
    }

    /// Forgets which spans could not be retired: what used them may be over.
    pub(crate) fn forget_stuck(&self) {
        self.stock.lock().stuck = [None; STUCK];
    }

    /// Empties the chunk of `node` that is the easiest to empty, of those that no mapping uses, by
    /// moving its spans to spare memory of others. Without this, what is spare would be scattered
    /// in the end.
    ///
    /// Returns whether it could. May sleep. To be called by kccd only.
    pub(crate) fn compact(&self, node: usize) -> bool {
        let mut stock = self.stock.lock();
        let Some(from) = self.sparse(&stock, node) else {
            return false;
        };
        let spans = (0..SPANS_PER_CHUNK).map(|index| from.add(index * SPAN_BYTES));
        for span in spans.filter_map(|base| self.directory.get(base)) {
            // The fullest of the other chunks, which is the last that will be emptied.
            let wanted = |it: &SpareSpan| it.node == node && !it.base.is_in_chunk(from);
            let Some(spare) = self.take_spare(&mut stock, wanted) else {
                return false;
            };
            // First the new one, so that the class does not run dry meanwhile. It has one too many
            // if the old one turns out to be in use.
            if self
                .cut(&mut stock, span.node(), span.class(), spare.base)
                .is_err()
            {
                let _ = stock.spare.push_within_capacity(spare);
                return false;
            }
            self.stats.refill(span.class()).add(1);
            self.stats.stock(stock.chunks.len(), stock.spare.len());
            if !self.withdraw(span) {
                self.stats.retire_failures.add(1);
                return false;
            }
            self.set_aside(&mut stock, span, node);
            self.settle_retired(span);
        }
        self.stats.compactions.add(1);
        true
    }

    /// Start of the chunk of `node` that is the easiest to empty into what is spare elsewhere.
    fn sparse(&self, stock: &Stock, node: usize) -> Option<Phys> {
        // With the spare spans that it has itself, a chunk's worth is what that takes.
        let spare = stock.spare.iter();
        let spare = spare.filter(|it| it.node == node && !it.awaits_grace());
        if spare.count() < SPANS_PER_CHUNK {
            return None;
        }
        // One that is spare already, and could not be made private yet, will do.
        let mut chunks = stock.chunks.iter();
        if chunks.any(|chunk| self.chunk_users(chunk.shared.base()) == 0) {
            return None;
        }
        let ours = |chunk: &Chunk| chunk.node == node;
        let (cost, chunk) = self.cheapest(stock, ours, |_| true, &[u32::MAX; CLASSES])?;
        (cost.stuck == 0).then(|| chunk.shared.base())
    }

    /// Takes a span out of service, all slots of which are in hand.
    fn set_aside(&self, stock: &mut Stock, span: &'static Span, node: usize) {
        let class = span.class();
        let base = span.base();
        self.directory.remove(base);
        // For those who have found it: see the top of this file.
        let since = GracePeriod::start();
        for _ in 0..class.slots_per_span() / class.magazine_slots() {
            // One at a time, to be freed without the lock.
            drop(
                self.depots_from(node)
                    .find_map(|depot| depot.remove_empty(class)),
            );
        }
        if let Some(idle) = stock.idle.get_mut(class.index()) {
            idle.put(span, since);
        }
        // INVARIANT: All slots were in hand, and what remains of them is a number.
        // There is room for the spans of all chunks.
        let _ = stock.spare.push_within_capacity(SpareSpan {
            base,
            node,
            since: Some(since),
        });
        self.stats.stock(stock.chunks.len(), stock.spare.len());
        self.stats.retired(class).add(1);
    }

    /// Fetches all slots of `span`. Returns whether that was all of them; if not, they are back.
    fn withdraw(&self, span: &'static Span) -> bool {
        let node = span.node();
        let mut hand = Withdrawn::new(span);
        for draining in [false, true] {
            if draining && !self.drain_cpus() {
                // What the depots do not have is in use.
                break;
            }
            for depot in self.depots_from(node) {
                depot.withdraw(&mut hand);
            }
            if hand.is_complete() {
                return true;
            }
        }
        for depot in self.depots_over_again(node) {
            match depot.restore(&mut hand) {
                Ok(()) => break,
                // No room there; the next one.
                Err(slot) => hand.take(&slot),
            };
        }
        while hand.pop().is_some() {
            self.lost(span.class());
        }
        self.settle(span.class(), node, 0);
        false
    }

    /// The span made for `node` that is to be retired next, and the node of its chunk.
    fn easiest(
        &self,
        stock: &Stock,
        node: usize,
        surplus: &[u32; CLASSES],
    ) -> Option<(&'static Span, usize)> {
        let ours = |span: &Span| span.node() == node;
        let (cost, chunk) = self.cheapest(stock, |_| true, ours, surplus)?;
        let span = self.directory.get(chunk.spans().nth(cost.first)?)?;
        Some((span, chunk.node))
    }

    /// The chunk that is the easiest to empty, of those that are `wanted`, where of the spans that
    /// `can_go` each class can do without as many as `surplus` says.
    fn cheapest<'a>(
        &self,
        stock: &'a Stock,
        wanted: impl Fn(&Chunk) -> bool,
        can_go: impl Fn(&Span) -> bool,
        surplus: &[u32; CLASSES],
    ) -> Option<(Cost, &'a Chunk)> {
        let mut best: Option<(Cost, &Chunk)> = None;
        let wanted = stock.chunks.iter().rev().filter(|it| wanted(it));
        for (looked, chunk) in wanted.enumerate() {
            if looked >= LOOK_AT && best.is_some() {
                break;
            }
            let uses = self.uses(stock, chunk, &can_go, surplus);
            let Some(cost) = Cost::of(uses, *surplus) else {
                continue;
            };
            // Among equals the youngest.
            if best.is_none_or(|(least, _)| cost < least) {
                best = Some((cost, chunk));
            }
        }
        best
    }

    fn uses(
        &self,
        stock: &Stock,
        chunk: &Chunk,
        can_go: impl Fn(&Span) -> bool,
        surplus: &[u32; CLASSES],
    ) -> [Use; SPANS_PER_CHUNK] {
        let mut uses = [Use::Spare; SPANS_PER_CHUNK];
        for (usage, base) in uses.iter_mut().zip(chunk.spans()) {
            let Some(span) = self.directory.get(base) else {
                continue;
            };
            let left = surplus.get(span.class().index()).copied().unwrap_or(0);
            let stuck = stock.stuck.contains(&Some(base));
            *usage = if left > 0 && !stuck && can_go(span) && span.is_idle() {
                Use::Idle(span.class())
            } else {
                Use::Busy
            };
        }
        uses
    }

    /// Whether no span of a chunk has a class, nor is anybody still at one.
    fn is_spare(&self, stock: &Stock, chunk: &Chunk) -> bool {
        let base = chunk.shared.base();
        let mut spare = stock.spare.iter().filter(|it| it.base.is_in_chunk(base));
        self.chunk_users(base) == 0 && !spare.any(SpareSpan::awaits_grace)
    }

    /// Makes the youngest chunk private again that is spare as a whole.
    ///
    /// Returns whether there was one, and whether it is not too early after a failure. May sleep, and
    /// takes long. To be called by kccd only.
    pub(crate) fn unshare(&self) -> bool {
        let mut stock = self.stock.lock();
        if stock.spare.len() < SPANS_PER_CHUNK || stock.failures.too_early() {
            return false;
        }
        let place = stock
            .chunks
            .iter()
            .rposition(|chunk| self.is_spare(&stock, chunk));
        let Some(Ok(chunk)) = place.map(|place| stock.chunks.remove(place)) else {
            return false;
        };
        let base = chunk.shared.base();
        stock.spare.retain(|spare| !spare.base.is_in_chunk(base));
        // SAFETY: No span of the chunk is in the directory, and it was in stock: so all of it was
        // spare, and by the type invariant of `SpareSpan` there is no slot in it. Who has none does
        // not access it, and those who looked for one by a stale address are through.
        let result = unsafe { chunk.shared.unshare() };
        stock.failures.note(result.is_ok());
        match result {
            Ok(()) => self.stats.given_back.add(1),
            Err(error) => {
                self.stats.giveback_failures.add(1);
                self.stats.leaked_bytes.add(CHUNK_BYTES as u64);
                kernel::pr_warn!(
                    "a chunk could not be made private ({error:?}), its memory is lost\n"
                );
            }
        }
        self.stats.stock(stock.chunks.len(), stock.spare.len());
        let shared = stock.shared_bytes();
        drop(stock);
        if result.is_ok() {
            trace::giveback(chunk.node, CHUNK_BYTES, shared);
        }
        true
    }
}

#[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
#[kunit_tests(cc_swiotlb_retire)]
mod tests {
    use super::*;
    use crate::pool::slot::Mapping;
    use crate::pool::spare::tests::pass_grace;

    #[test]
    fn the_chunk_that_is_easiest_to_empty() -> Result {
        let small = SizeClass::new(0).ok_or(ERANGE)?;
        let large = SizeClass::new(9).ok_or(ERANGE)?;
        let mut surplus = [0; CLASSES];
        surplus[small.index()] = 2;
        let (spare, busy) = (Use::Spare, Use::Busy);
        let (idle, needed) = (Use::Idle(small), Use::Idle(large));
        // How the spans are used; spans that stay, spans that can go, the first of them.
        for (uses, cost) in [
            ([spare, spare, spare, spare], None),
            ([busy, spare, needed, spare], None),
            ([spare, spare, spare, idle], Some((0, 1, 3))),
            ([spare, idle, idle, spare], Some((0, 2, 1))),
            ([busy, spare, spare, idle], Some((1, 1, 3))),
            ([needed, idle, spare, spare], Some((1, 1, 1))),
            // There are not as many too many.
            ([idle, idle, idle, spare], Some((1, 2, 0))),
        ] {
            let got = Cost::of(uses, surplus).map(|cost| (cost.stuck, cost.going, cost.first));
            assert_eq!(got, cost);
        }
        Ok(())
    }

    #[test]
    fn what_can_be_emptied_comes_first() {
        let cost = |stuck, going| Cost {
            stuck,
            going,
            first: 0,
        };
        assert!(cost(0, 1) < cost(0, 4));
        assert!(cost(0, 4) < cost(1, 1));
        assert!(cost(1, 3) < cost(2, 1));
    }

    #[test]
    fn what_is_in_use_stays_and_all_else_goes() -> Result {
        let class = SizeClass::for_bytes(4096).ok_or(ERANGE)?;
        let pool = crate::glue::leak(KBox::pin_init(Pool::new(), GFP_KERNEL)?);
        let depot = pool.depot(0).ok_or(ENOENT)?;
        let span = class.slots_per_span() as u32;
        // The last one is alone in its chunk, and the first to be used.
        for _ in 0..=SPANS_PER_CHUNK {
            pool.grow(class, 0).map_err(|_| ENOMEM)?;
        }
        let surplus = [SPANS_PER_CHUNK as u32 + 1; CLASSES];

        let (slot, _) = pool.take(class).ok_or(ENOENT)?;
        // SAFETY: Nothing is done with the buffer.
        let mapping = unsafe { Mapping::new(Phys::new(4096), 0, 4096) };
        slot.slot.begin(&mapping);
        for left in (0..SPANS_PER_CHUNK as u32).rev() {
            assert!(!pool.unshare());
            assert!(pool.retire(0, &surplus));
            assert_eq!(depot.slots(class), span + left * span);
        }
        assert!(!pool.retire(0, &surplus));
        pass_grace(pool);
        assert!(pool.unshare() && !pool.unshare());
        assert!(pool.owns(slot.base));

        // As in the middle of a mapping: nothing is recorded, and the slot is in no magazine.
        slot.slot.free();
        assert!(!pool.retire(0, &surplus));
        assert!(pool.owns(slot.base));
        assert_eq!((depot.slots(class), depot.free(class)), (span, span - 1));

        pool.put(slot, class);
        // It is not tried again until that is forgotten.
        assert!(!pool.retire(0, &surplus));
        pool.forget_stuck();
        assert!(pool.retire(0, &surplus));
        pass_grace(pool);
        assert!(pool.unshare());
        assert!(!pool.owns(slot.base));
        assert_eq!((depot.slots(class), depot.free(class)), (0, 0));
        assert!(depot.remove_empty(class).is_none());

        // The records are used again, and are none the worse for it.
        pool.grow(class, 0).map_err(|_| ENOMEM)?;
        let (slot, _) = pool.take(class).ok_or(ENOENT)?;
        assert!(pool.owns(slot.base));
        pool.put(slot, class);
        assert!(pool.retire(0, &surplus));
        pass_grace(pool);
        assert!(pool.unshare());
        Ok(())
    }

    #[test]
    fn what_is_scattered_is_moved_together() -> Result {
        let pool = crate::glue::leak(KBox::pin_init(Pool::new(), GFP_KERNEL)?);
        let depot = pool.depot(0).ok_or(ENOENT)?;
        let small = SizeClass::for_bytes(4096).ok_or(ERANGE)?;
        let large = SizeClass::for_bytes(65536).ok_or(ERANGE)?;
        // Two chunks of which every other span goes.
        for class in [small, large, small, large, small, large, small, large] {
            pool.grow(class, 0).map_err(|_| ENOMEM)?;
        }
        assert!(!pool.compact(0));
        let mut surplus = [0; CLASSES];
        surplus[small.index()] = 4;
        for _ in 0..4 {
            assert!(pool.retire(0, &surplus));
        }
        pass_grace(pool);
        assert!(!pool.unshare());
        let slots = depot.slots(large);
        assert!(pool.compact(0));
        pass_grace(pool);
        assert!(pool.unshare());
        assert_eq!((depot.slots(large), depot.free(large)), (slots, slots));
        assert!(!pool.compact(0) && !pool.unshare());
        for _ in 0..4 {
            assert!(pool.retire(0, &[4; CLASSES]));
        }
        pass_grace(pool);
        assert!(pool.unshare());
        Ok(())
    }
}

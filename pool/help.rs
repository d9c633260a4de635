// SPDX-License-Identifier: GPL-2.0

//! Where a CPU gets a slot from when its stack is empty, and where it leaves one when it is full.
//!
//! The order of help: the own node's depot, an unbound span, other nodes, slots that larger classes
//! have above their watermark, the reserve; then, if our caller asks again after the legacy pool
//! has failed, all of larger classes, except the last spans, which are for large mappings only.
//!
//! Each step that takes a lock disables interrupts for itself. A step that a look without the lock
//! rules out takes none.

use super::{
    address::Phys,
    class::SizeClass,
    depot::Depot,
    gate::Moment,
    node::Node,
    span::FreeSlot,
    stock::Reach,
    NotMade,
    Pool, //
};
use crate::glue::{
    self,
    cpus::DeadCpu,
    irq::IrqsOff,
    memory, //
};
use core::{
    iter,
    ptr, //
};
#[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
use kernel::prelude::kunit_tests;
use kernel::{
    cpu::CpuId,
    interrupt::{
        local_interrupt_disable,
        LocalInterruptDisabled, //
    },
};

/// How deep mappings of `class` may reach if they find nothing else.
const fn reserve(class: SizeClass) -> Reach {
    match class.is_large() {
        true => Reach::Last,
        false => Reach::Reserve,
    }
}

/// How many of `free` slots one of `cpus` CPUs may keep.
fn share(free: usize, cpus: usize) -> usize {
    free.checked_div(2 * cpus).map_or(1, |share| share.max(1))
}

/// A slot and its class.
pub(super) type Found = (FreeSlot, SizeClass);

impl Pool {
    /// Takes a slot of `class` off this CPU's stack.
    #[inline]
    pub(super) fn at_hand(&self, class: SizeClass) -> Option<FreeSlot> {
        // SAFETY: No lock that is taken below outlives it.
        let irq = unsafe { IrqsOff::new() };
        self.caches.pop(class, irq.token())
    }

    /// Takes a slot of `class`, or of a larger one; returns its class with it.
    ///
    /// [`NotMade::Refused`] if the class is closed: nothing was tried, and nothing else should be.
    #[inline]
    pub(super) fn take(&self, class: SizeClass) -> Result<Found, NotMade> {
        self.take_within(class, reserve(class))
    }

    /// As [`Self::take`], but within `reach`. [`Reach::Ready`] is for callers that have an
    /// alternative: it leaves the reserve to others, and all slots of a closed class.
    #[inline]
    pub(super) fn take_within(&self, class: SizeClass, reach: Reach) -> Result<Found, NotMade> {
        match self.at_hand(class) {
            Some(slot) => Ok((slot, class)),
            None => self.take_slow(class, reach),
        }
    }

    /// Takes a slot when this CPU's stack of `class` is empty.
    #[cold]
    #[inline(never)]
    fn take_slow(&self, class: SizeClass, reach: Reach) -> Result<Found, NotMade> {
        if self.gates.is_closed(class) && !self.may_take(class, reach) {
            return Err(NotMade::Refused);
        }
        let found = self
            .take_from(class, Reach::Ready)
            .or_else(|| self.take_larger(class, Reach::Surplus))
            .or_else(|| self.take_from(class, reach));
        let has_news = |node: &Node| node.stock.has_news() || node.depot(class).is_low();
        if self.nodes().any(has_news) {
            // Only now, when interrupts are as they were: otherwise the thread that is woken has to
            // wait for the next tick.
            self.bell.ring();
        }
        found.ok_or(NotMade::Legacy)
    }

    /// Whether the caller may look for a slot of a class that was closed a moment ago.
    fn may_take(&self, class: SizeClass, reach: Reach) -> bool {
        let at = self.moment(class);
        self.gates.reopen(class, at)
            || reach != Reach::Ready && (glue::in_interrupt() || self.gates.admit(class, at))
    }

    /// Takes a slot of a larger class after all else has failed; closes the class if there is none.
    #[cold]
    #[inline(never)]
    pub(super) fn take_last(&self, class: SizeClass) -> Option<Found> {
        let found = self.take_larger(class, Reach::Bound);
        if found.is_none() {
            if !glue::in_interrupt() {
                self.gates.close(class, self.moment(class));
            }
            self.bell.cries.add(1);
            self.bell.ring();
        }
        found
    }

    fn take_larger(&self, class: SizeClass, reach: Reach) -> Option<Found> {
        let has_last = |node: &Node| node.stock.within(Reach::Last) > 0;
        class
            .larger()
            .filter(|it| class.is_large() || !it.is_large() || self.nodes().any(has_last))
            .find_map(|larger| self.take_from(larger, reach))
    }

    fn take_from(&self, class: SizeClass, reach: Reach) -> Option<Found> {
        self.nearest(None)
            .filter(|node| node.depot(class).may_have(&node.stock, reach))
            .find_map(|node| {
                let irq = local_interrupt_disable();
                // The stack of a larger class was not tried yet, nor was this CPU's if we have
                // migrated.
                self.caches.pop(class, &irq).or_else(|| {
                    self.refill(node, class, reach, &irq);
                    self.caches.pop(class, &irq)
                })
            })
            .map(|slot| (slot, class))
    }

    /// Fetches a batch from a depot of `node` for this CPU's stack, which is empty: half of what
    /// the stack may hold, and no more than this CPU's share of what there is.
    fn refill(&self, node: &Node, class: SizeClass, reach: Reach, irq: &LocalInterruptDisabled) {
        // One at a time when few slots are left, and from other classes.
        let share = if reach == Reach::Ready && !self.gates.is_closed(class) {
            self.share(node, class)
        } else {
            1
        };
        self.caches.with(None, class, irq, |stack, _| {
            let batch = stack.limit().div_ceil(2).min(share);
            stack.set_limit((stack.limit() * 2).min(share));
            let depot = node.depot(class);
            depot.take(&node.stock, reach, batch, |slot| {
                // There is room: the stack was empty, and a batch is at most half of it.
                let _ = stack.push(slot);
            });
        });
    }

    /// How many slots one CPU may keep, so that half of what a node has is left to others.
    fn share(&self, node: &Node, class: SizeClass) -> usize {
        let unbound = node.stock.within(Reach::Ready) as usize * class.slots_per_span();
        let free = node.depot(class).free.get() as usize + unbound;
        share(free, glue::cpus::online())
    }

    /// How `class` stands. We may migrate to another CPU at any time, which does no harm.
    fn moment(&self, class: SizeClass) -> Moment {
        let unbound = self.span_bytes(|stock| stock.within(reserve(class))) >> class.shift();
        let all = unbound + self.slots(class, |depot| &depot.slots);
        let low = self.span_bytes(|stock| stock.low.get()) >> class.shift();
        Moment {
            cpu: CpuId::current().as_u32(),
            now_ms: memory::now_ms(),
            available: unbound + self.slots(class, |depot| &depot.free),
            // kccd keeps half of `low` unbound, and large mappings have a quarter of that half.
            plenty: (all * 3 / 4).min(low / 4).max(1),
        }
    }

    /// Gives a slot back.
    #[inline(always)]
    pub(super) fn put(&self, slot: FreeSlot, class: SizeClass) {
        // SAFETY: No lock that is taken below outlives it.
        let irq = unsafe { IrqsOff::new() };
        let pushed = if self.gates.is_closed(class) {
            Err(slot)
        } else {
            self.caches.push(class, slot, irq.token())
        };
        if let Err(slot) = pushed {
            self.put_slow(slot, class, irq.token());
        }
    }

    /// Gives a slot back when this CPU's stack of `class` is full, or the class is closed.
    ///
    /// The stack grows if there is enough for all; otherwise its colder half goes home, or all of
    /// it if the class is closed.
    #[cold]
    #[inline(never)]
    fn put_slow(&self, slot: FreeSlot, class: SizeClass, irq: &LocalInterruptDisabled) {
        let closed = self.gates.is_closed(class);
        let share = || {
            let home = self.nearest(None).next();
            home.map_or(1, |node| self.share(node, class))
        };
        let take_home = |slots: &[FreeSlot]| self.take_home(class, slots);
        self.caches.with(None, class, irq, |stack, _| {
            if !closed && stack.can_grow() && share() > stack.limit() {
                stack.set_limit(stack.limit() * 2);
            } else {
                stack.shed(stack.limit() / 2, take_home);
            }
        });
        let pushed = self.caches.push(class, slot, irq);
        if closed {
            self.caches.drain(None, class, irq, take_home);
        }
        if let Err(slot) = pushed {
            take_home(&[slot]);
        }
    }

    /// Takes slots of `class` home, see [`Self::take_runs_home`].
    pub(super) fn take_home(&self, class: SizeClass, slots: &[FreeSlot]) {
        let runs = slots.iter().map(|slot| (slot.base, 1));
        self.take_runs_home(|node| node.depot(class), runs);
    }

    /// Takes runs of adjacent slots home, each to its own span in the `depot` of that span's node.
    /// Each run lies in one span.
    pub(super) fn take_runs_home(
        &self,
        depot: impl Fn(&Node) -> &Depot,
        runs: impl Iterator<Item = (Phys, usize)>,
    ) {
        let with_home = |(base, count)| {
            let span = self.directory.get(base)?;
            Some((self.nodes.get(span.chunk()?.node())?, (span, base, count)))
        };
        let mut runs = runs.filter_map(with_home).peekable();
        // One depot at a time.
        while let Some((node, _)) = runs.peek().copied() {
            let of_node = iter::from_fn(|| runs.next_if(|(other, _)| ptr::eq(*other, node)));
            depot(node).put(&node.stock, of_node.map(|(_, run)| run));
        }
        self.tell();
    }

    /// Rings if kccd should be told of a stock; returns whether it should. Any context but NMI.
    pub(crate) fn tell(&self) -> bool {
        let has_news = self.nodes().any(|node| node.stock.has_news());
        if has_news {
            self.bell.ring();
        }
        has_news
    }

    /// Takes home the slots that this CPU holds, or a CPU that is dead. Any context but NMI.
    pub(crate) fn drain(&self, dead: Option<&DeadCpu>) {
        for class in SizeClass::ALL {
            let irq = local_interrupt_disable();
            let take_home = |slots: &[FreeSlot]| self.take_home(class, slots);
            self.caches.drain(dead, class, &irq, take_home);
        }
    }

    /// All nodes, beginning with `first`, or else with this CPU's node.
    pub(super) fn nearest(&self, first: Option<usize>) -> impl Iterator<Item = &Node> {
        let home = first.unwrap_or_else(|| memory::node_of_cpu(CpuId::current().as_u32()));
        self.nodes().skip(home).chain(self.nodes().take(home))
    }
}

#[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
#[kunit_tests(cc_swiotlb_share)]
mod tests {
    use super::*;

    #[test]
    fn half_of_what_is_free_is_left_to_others() {
        // Free slots, CPUs, what each of them may keep.
        for (free, cpus, each) in [
            (0, 1, 1),
            (128, 1, 64),
            (11_264, 32, 176),
            (0, 256, 1),
            (1023, 256, 1),
            (1024, 256, 2),
            (1024, 0, 1),
        ] {
            assert_eq!(share(free, cpus), each);
            assert!(each == 1 || each * cpus <= free / 2);
        }
    }
}

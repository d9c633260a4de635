// SPDX-License-Identifier: GPL-2.0

//! Where a CPU gets a slot from when its stack is empty, and where it leaves one when that is full.
//!
//! The order of help: the own depot, an unbound span, other nodes, what larger classes have above
//! their watermark, the reserve; then, if our caller asks again after the legacy pool has failed,
//! larger classes, but for the last spans, which large mappings alone may take.
//!
//! Each step that takes a lock disables interrupts for itself. What a look without the lock rules out
//! takes none.

use super::{
    class::SizeClass,
    depot::{
        Depth,
        OpenDepot, //
    },
    gate::Moment,
    node::Node,
    span::FreeSlot,
    stock::Reach,
    Pool, //
};
use crate::glue::{
    self,
    cpus::DeadCpu,
    irq::IrqsOff,
    memory, //
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

/// Its own class: what is bound, and spans above the reserve.
const READY: Depth = Depth {
    kept: true,
    reach: Reach::Ready,
};
/// A larger class: what it can do without.
const SURPLUS: Depth = Depth {
    kept: false,
    reach: Reach::Nothing,
};
/// A larger class: all that is bound.
const ANY: Depth = Depth {
    kept: true,
    reach: Reach::Nothing,
};

/// Its own class: the reserve as well.
const fn reserve(class: SizeClass) -> Depth {
    let reach = if class.is_large() {
        Reach::Last
    } else {
        Reach::Reserve
    };
    Depth { kept: true, reach }
}

/// How many of `free` slots one of `cpus` CPUs may keep.
fn share(free: usize, cpus: usize) -> usize {
    free.checked_div(2 * cpus).map_or(1, |share| share.max(1))
}

/// A slot, and the class that it is of.
pub(super) type Found = (FreeSlot, SizeClass);

/// Why there is no slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NoSlot {
    /// None was found: the legacy pool may have one.
    Left,
    /// The class is closed: nothing was tried, and nothing should be.
    Closed,
}

impl Pool {
    /// Takes a slot of `class`, or of a larger one; returns its class with it.
    #[inline]
    pub(super) fn take(&self, class: SizeClass) -> Result<Found, NoSlot> {
        // SAFETY: Nothing that is locked below outlives it.
        let irq = unsafe { IrqsOff::new() };
        if let Some(slot) = self.caches.pop(class, irq.token()) {
            return Ok((slot, class));
        }
        drop(irq);
        self.take_slow(class)
    }

    /// This CPU's stack of `class` is empty.
    #[cold]
    #[inline(never)]
    fn take_slow(&self, class: SizeClass) -> Result<Found, NoSlot> {
        if self.gates.is_closed(class) && !self.admit(class) {
            return Err(NoSlot::Closed);
        }
        let found = self.search(class);
        let is_low = |node: &Node| node.stock().is_low() || node.depot(class).is_low();
        if self.nodes().any(is_low) {
            // Only now, with interrupts enabled as they were: otherwise the thread that is woken has
            // to wait for the next tick.
            self.bell.ring();
        }
        found.ok_or(NoSlot::Left)
    }

    fn search(&self, class: SizeClass) -> Option<Found> {
        let home = self.home();
        let own = |depth| self.take_from(home, class, depth);
        own(READY)
            .or_else(|| self.take_larger(home, class, SURPLUS))
            .or_else(|| own(reserve(class)))
    }

    /// A slot of a larger class after all others have failed; closes the class if there is none.
    #[cold]
    #[inline(never)]
    pub(super) fn take_last(&self, class: SizeClass) -> Option<Found> {
        let found = self.take_larger(self.home(), class, ANY);
        if found.is_some() {
            return found;
        }
        if !glue::in_interrupt() {
            let moment = self.moment(class);
            // SAFETY: Nothing that is locked below outlives it.
            let irq = unsafe { IrqsOff::new() };
            self.gates.close(class, moment, irq.token());
        }
        self.bell.cry();
        None
    }

    fn take_larger(&self, home: usize, class: SizeClass, depth: Depth) -> Option<Found> {
        class.larger().find_map(|larger| {
            let last = larger.is_large() && !class.is_large();
            if last
                && self
                    .nodes
                    .iter()
                    .all(|node| node.stock().within(Reach::Last) == 0)
            {
                return None;
            }
            self.take_from(home, larger, depth)
        })
    }

    fn take_from(&self, home: usize, class: SizeClass, depth: Depth) -> Option<Found> {
        self.nodes_from(home)
            .filter(|node| node.depot(class).may_have(node.stock(), depth))
            .find_map(|node| {
                // SAFETY: Nothing that is locked below outlives it.
                let irq = unsafe { IrqsOff::new() };
                // Of a larger class the stack was not looked at, nor was this CPU's if we have come
                // from another one.
                self.caches.pop(class, irq.token()).or_else(|| {
                    self.refill(node, class, depth, irq.token());
                    self.caches.pop(class, irq.token())
                })
            })
            .map(|slot| (slot, class))
    }

    /// Fetches a batch from a depot of `node` for this CPU's stack: half of what the stack may hold,
    /// and no more than its share of what there is. The stack is empty.
    fn refill(&self, node: &Node, class: SizeClass, depth: Depth, irq: &LocalInterruptDisabled) {
        // Near the end of what there is, and of other classes, one at a time.
        let share = if depth == READY && !self.gates.is_closed(class) {
            self.share(node, class)
        } else {
            1
        };
        self.caches.change(class, irq, |stack| {
            let mut left = stack.limit().div_ceil(2).min(share);
            stack.set_limit((stack.limit() * 2).min(share));
            node.depot(class).take(node.stock(), depth, irq, |slot| {
                // There is room: the stack was empty, and a batch is at most half of it.
                let _ = stack.push(slot);
                left -= 1;
                left == 0
            });
        });
    }

    /// How many slots one CPU may keep, so that half of what a node has is left to others.
    fn share(&self, node: &Node, class: SizeClass) -> usize {
        let unbound = node.stock().within(Reach::Ready) as usize * class.slots_per_span();
        let free = node.depot(class).free() as usize + unbound;
        share(free, glue::cpus::online())
    }

    fn admit(&self, class: SizeClass) -> bool {
        if glue::in_interrupt() {
            return true;
        }
        let moment = self.moment(class);
        // SAFETY: Nothing that is locked below outlives it.
        let irq = unsafe { IrqsOff::new() };
        self.gates.admit(class, moment, irq.token())
    }

    /// How `class` stands. The CPU may change at any time, which is no harm.
    fn moment(&self, class: SizeClass) -> Moment {
        let per_span = class.slots_per_span() as u64;
        let reach = reserve(class).reach;
        let (mut available, mut all, mut low) = (0u64, 0u64, 0u64);
        for node in self.nodes() {
            let (depot, stock) = (node.depot(class), node.stock());
            let unbound = u64::from(stock.within(reach)) * per_span;
            available += u64::from(depot.free()) + unbound;
            all += u64::from(depot.slots()) + unbound;
            low += u64::from(stock.low()) * per_span;
        }
        Moment {
            cpu: CpuId::current().as_u32(),
            now_ms: memory::now_ms(),
            available,
            // kccd keeps half of that unbound, of which large mappings have a quarter.
            plenty: (all * 3 / 4).min(low / 4).max(1),
        }
    }

    /// Gives back a slot that was not used.
    #[cold]
    #[inline(never)]
    pub(super) fn put_back(&self, slot: FreeSlot, class: SizeClass) {
        self.put(slot, class);
    }

    /// Gives a slot back.
    #[inline(always)]
    pub(super) fn put(&self, slot: FreeSlot, class: SizeClass) {
        // SAFETY: Nothing that is locked below outlives it.
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

    /// This CPU's stack of `class` is full, or the class is short.
    ///
    /// The stack grows if there is enough for all; otherwise its colder half goes home, or all of it.
    #[cold]
    #[inline(never)]
    fn put_slow(&self, slot: FreeSlot, class: SizeClass, irq: &LocalInterruptDisabled) {
        let closed = self.gates.is_closed(class);
        let share = || {
            let home = self.nodes_from(self.home()).next();
            home.map_or(1, |node| self.share(node, class))
        };
        self.caches.change(class, irq, |stack| {
            if closed {
                stack.shed(0, |slots| self.take_home(class, slots, irq));
                stack.set_limit(1);
            } else if stack.can_grow() && share() > stack.limit() {
                stack.set_limit(stack.limit() * 2);
            } else {
                let kept = stack.limit() / 2;
                stack.shed(kept, |slots| self.take_home(class, slots, irq));
            }
        });
        let pushed = self.caches.push(class, slot, irq);
        if closed {
            self.caches
                .drain(irq, class, |slots| self.take_home(class, slots, irq));
        }
        if let Err(slot) = pushed {
            self.take_home(class, &[slot], irq);
        }
    }

    /// Takes slots of `class` home, each to its own span on its own node.
    pub(super) fn take_home(
        &self,
        class: SizeClass,
        slots: &[FreeSlot],
        irq: &LocalInterruptDisabled,
    ) {
        let mut open: Option<OpenDepot<'_>> = None;
        for slot in slots {
            let Some(span) = self.directory.get(slot.base) else {
                continue;
            };
            let node = self.nodes.get(span.chunk().map_or(0, |chunk| chunk.node()));
            let Some(node) = node else {
                continue;
            };
            let depot = node.depot(class);
            if !open.as_ref().is_some_and(|open| open.is(depot)) {
                // One at a time.
                drop(open.take());
                open = Some(depot.open(node.stock(), irq));
            }
            if let Some(open) = &mut open {
                open.put(span, *slot);
            }
        }
        drop(open);
        if self.nodes().any(|node| node.stock().is_high()) {
            self.bell.ring();
        }
    }

    /// Takes home what this CPU holds. Any context but NMI.
    pub(crate) fn drain_this_cpu(&self) {
        // What changes from here on counts as not drained.
        let cpu = CpuId::current().as_u32();
        let activity = self.caches.activity(cpu);
        for class in SizeClass::ALL {
            let irq = local_interrupt_disable();
            self.caches
                .drain(&irq, class, |slots| self.take_home(class, slots, &irq));
        }
        self.caches.note_drained(cpu, activity);
    }

    /// Takes home what a CPU that is dead holds. May sleep.
    pub(crate) fn drain_dead(&self, cpu: &DeadCpu) {
        for class in SizeClass::ALL {
            let irq = local_interrupt_disable();
            self.caches
                .drain_dead(cpu, class, |slots| self.take_home(class, slots, &irq));
        }
        self.caches
            .note_drained(cpu.id(), self.caches.activity(cpu.id()));
    }

    /// All nodes, `home` first.
    fn nodes_from(&self, home: usize) -> impl Iterator<Item = &Node> {
        let nodes = || self.nodes.iter().map(|node| &**node);
        nodes().skip(home).chain(nodes().take(home))
    }

    /// The node of this CPU.
    fn home(&self) -> usize {
        match self.nodes.len() {
            1 => 0,
            _ => memory::node_of_cpu(CpuId::current().as_u32()),
        }
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

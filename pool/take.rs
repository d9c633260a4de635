// SPDX-License-Identifier: GPL-2.0

//! Where a CPU gets a slot from, and where it leaves one: its own magazines, and beyond.

use super::{
    class::{
        SizeClass,
        CLASSES, //
    },
    depot::Depot,
    gauge::Depth,
    shelf::PASSES,
    span::FreeSlot,
    Pool, //
};
use crate::glue::{
    self,
    grace::GraceWatch,
    irq::IrqsOff,
    memory, //
};
#[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
use kernel::prelude::*;
use kernel::{
    cpu::CpuId,
    interrupt::LocalInterruptDisabled,
    processor::cpu_relax,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    time::{
        Instant,
        Monotonic, //
    },
};

/// For how long a mapping waits while kccd makes slots. Who waits can be preempted, and either is far
/// below what the watchdogs for CPUs and RCU allow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Patience {
    /// Larger classes, the reserve or the legacy pool may help.
    ///
    /// 100 ms: on a TDX host where a page costs 23 µs, kccd takes 12 ms for a chunk, and has to be
    /// woken before; others may take the first slots, and the host may take the CPU of either.
    Short,
    /// Nobody else can help.
    ///
    /// 3 s: where a page costs 260 µs a chunk takes 133 ms, and makes four slots of the largest
    /// class. In a burst of 160 readers one mapping in 70,000 had to wait for more than a second.
    Long,
}

impl Patience {
    const ALL: usize = 2;

    const fn ns(self) -> u64 {
        match self {
            Self::Short => 100_000_000,
            Self::Long => 3_000_000_000,
        }
    }
}

/// For how long those who wait may hold up a grace period of RCU, before nobody begins to wait any
/// more, in milliseconds. RCU complains after 21 s.
const MAX_HOLD_UP_MS: u64 = 5000;

/// Whether waiting for kccd is of any use.
///
/// A wait in which kccd has made nothing ends all that would be as long, for the same class, until
/// it has: there are as many mappings as a request has pages, and each of them would wait.
///
/// Who waits may be in an RCU read section, and wait more than once in it: the block layer has one
/// for many requests.
pub(super) struct Waiting {
    grace: GraceWatch,
    /// How often kccd has made slots.
    made: Atomic<u32>,
    /// What that was when somebody began to wait in vain.
    in_vain: [[Atomic<u32>; Patience::ALL]; CLASSES],
}

impl Waiting {
    /// Nobody has waited.
    pub(super) fn new() -> Self {
        Self {
            grace: GraceWatch::new(),
            made: Atomic::new(0),
            in_vain: [const { [const { Atomic::new(u32::MAX) }; Patience::ALL] }; CLASSES],
        }
    }

    fn in_vain(&self, class: SizeClass, patience: Patience) -> Option<&Atomic<u32>> {
        self.in_vain.get(class.index())?.get(patience as usize)
    }

    fn made(&self) -> u32 {
        self.made.load(Relaxed)
    }

    fn is_of_use(&self, class: SizeClass, patience: Patience) -> bool {
        let in_vain = self.in_vain(class, patience);
        in_vain.is_none_or(|made| made.load(Relaxed) != self.made())
    }

    /// A wait is over that began when [`Self::made`] was `begun`. If it is not any more, others have
    /// taken what there was, and the next one may be luckier.
    fn was_in_vain(&self, class: SizeClass, patience: Patience, begun: u32) {
        if let (Some(made), true) = (self.in_vain(class, patience), begun == self.made()) {
            made.store(begun, Relaxed);
        }
    }

    fn note_progress(&self) {
        self.made.add(1, Relaxed);
    }
}

impl Pool {
    /// Takes a slot of `class`, or of a larger one; returns its class with it.
    #[inline]
    pub(super) fn take(&self, class: SizeClass) -> Option<(FreeSlot, SizeClass)> {
        // SAFETY: Nothing that is locked below outlives it.
        let irq = unsafe { IrqsOff::new() };
        if let Some(slot) = self.caches.pop(class, irq.token()) {
            return Some((slot, class));
        }
        drop(irq);
        self.take_slow(class)
    }

    /// This CPU's magazines of `class` are empty.
    ///
    /// The depots, and what larger classes have above their watermark, which costs nobody anything.
    /// Then, where that is possible, kccd is waited for: a mapping that went on to the larger classes
    /// while kccd is one chunk away would use up slots that only large mappings need, many times its
    /// own size, and make kccd convert memory for them instead. Then the larger classes, then the
    /// same again down to the reserve.
    #[cold]
    #[inline(never)]
    fn take_slow(&self, class: SizeClass) -> Option<(FreeSlot, SizeClass)> {
        let mut found = self.take_without_harm(class);
        if found.is_none() {
            self.note_dry(class);
            let mut wait = Wait::new(self, class, Patience::Short);
            while found.is_none() && wait.go_on() {
                found = self.take_without_harm(class);
            }
        }
        let found = found.or_else(|| self.take_any(class));
        // Whatever was found, somebody should look after the class that was asked for, and after
        // the one that had to help. Only now, with interrupts enabled as they were: otherwise the
        // thread that is woken has to wait for the next tick.
        let helper = found.map_or(class, |(_, helper)| helper);
        if self.is_low(class) || self.is_low(helper) {
            self.doorbell.ring();
        }
        found
    }

    /// A slot of `class`, or of a larger one, for a mapping that nobody else can help: whatever there
    /// is, as soon as there is something.
    #[cold]
    #[inline(never)]
    pub(super) fn take_last(&self, class: SizeClass) -> Option<(FreeSlot, SizeClass)> {
        let mut wait = Wait::new(self, class, Patience::Long);
        loop {
            let found = self.take_any(class);
            if found.is_some() || !wait.go_on() {
                return found;
            }
        }
    }

    /// A slot of `class`, or one of a larger class that has too many.
    fn take_without_harm(&self, class: SizeClass) -> Option<(FreeSlot, SizeClass)> {
        // SAFETY: Nothing that is locked below outlives it.
        let irq = unsafe { IrqsOff::new() };
        let home = self.home();
        let own = self.take_from_depots(class, home, Depth::Ready, irq.token());
        own.or_else(|| self.take_larger(class, home, Depth::Surplus, irq.token()))
    }

    /// A slot of `class`, or of any larger class, down to the last one.
    fn take_any(&self, class: SizeClass) -> Option<(FreeSlot, SizeClass)> {
        // SAFETY: Nothing that is locked below outlives it.
        let irq = unsafe { IrqsOff::new() };
        let home = self.home();
        [Depth::Ready, Depth::Reserve]
            .into_iter()
            .find_map(|depth| {
                let own = self.take_from_depots(class, home, depth, irq.token());
                own.or_else(|| self.take_larger(class, home, depth, irq.token()))
            })
    }

    fn take_larger(
        &self,
        class: SizeClass,
        home: usize,
        depth: Depth,
        irq: &LocalInterruptDisabled,
    ) -> Option<(FreeSlot, SizeClass)> {
        core::iter::successors(class.larger(), |larger| larger.larger())
            .find_map(|larger| self.take_from_depots(larger, home, depth, irq))
    }

    fn is_low(&self, class: SizeClass) -> bool {
        self.depots.iter().any(|depot| depot.is_low(class))
    }

    /// Lets kccd know that `class` needs more than its watermark says.
    fn note_dry(&self, class: SizeClass) {
        if let Some(depot) = self.depot(self.home()) {
            depot.note_dry(class, true);
        }
    }

    fn take_from_depots(
        &self,
        class: SizeClass,
        home: usize,
        depth: Depth,
        irq: &LocalInterruptDisabled,
    ) -> Option<(FreeSlot, SizeClass)> {
        if let Some(slot) = self.caches.pop(class, irq) {
            return Some((slot, class));
        }
        for depot in self.depots_from(home) {
            if let Some(slot) = self.caches.pop_from(depot, class, depth, irq) {
                return Some((slot, class));
            }
        }
        None
    }

    /// Gives a slot back that was not used.
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
        if let Err(slot) = self.caches.push(class, slot, irq.token()) {
            self.put_slow(slot, class, irq.token());
        }
    }

    /// This CPU's magazines of `class` are full: one goes to a depot.
    #[cold]
    #[inline(never)]
    fn put_slow(&self, slot: FreeSlot, class: SizeClass, irq: &LocalInterruptDisabled) {
        // Where mappings are made on one node and end on another, the empty magazines gather at
        // the depot of the former.
        for depot in self.depots_over_again(self.home()) {
            if self.caches.push_via(depot, class, slot, irq).is_ok() {
                if depot.is_high(class) {
                    self.doorbell.ring();
                }
                return;
            }
        }
        self.lost(class);
    }

    /// All depots, again and again, for who needs an empty magazine: while somebody looks, it may
    /// move on to a depot that was looked at. See shelf.rs for why there is an end to it.
    pub(super) fn depots_over_again(&self, home: usize) -> impl Iterator<Item = &Depot> {
        (0..PASSES).flat_map(move |_| self.depots_from(home))
    }

    /// All depots, that of node `home` first.
    pub(super) fn depots_from(&self, home: usize) -> impl Iterator<Item = &Depot> {
        let near = self.depots.iter().skip(home).take(1);
        let far = self.depots.iter().enumerate();
        let far = far
            .filter(move |(node, _)| *node != home)
            .map(|(_, depot)| depot);
        Iterator::chain(near, far).map(|depot| &**depot)
    }

    /// The depot of this CPU's node.
    #[inline]
    pub(super) fn home(&self) -> usize {
        self.node_of(CpuId::current().as_u32())
    }

    /// The depot of a CPU's node.
    #[inline]
    pub(super) fn node_of(&self, cpu: u32) -> usize {
        if self.depots.len() == 1 {
            return 0;
        }
        memory::node_of_cpu(cpu)
    }

    /// No magazine has room for a slot: see shelf.rs for why that cannot be.
    #[cold]
    #[inline(never)]
    pub(super) fn lost(&self, class: SizeClass) {
        self.stats.note_lost(class);
        kernel::pr_err_once!("no room for a free slot, it is lost\n");
    }

    /// kccd has made slots: waiting for it is of use.
    pub(super) fn note_progress(&self) {
        self.waiting.note_progress();
    }
}

/// The wait of one mapping for a slot that kccd makes.
struct Wait<'a> {
    pool: &'a Pool,
    class: SizeClass,
    patience: Patience,
    /// When it began, and how often kccd had made slots then.
    since: Option<(Instant<Monotonic>, u32)>,
    /// The time was over, and the last look was taken.
    over: bool,
}

impl<'a> Wait<'a> {
    fn new(pool: &'a Pool, class: SizeClass, patience: Patience) -> Self {
        Self {
            pool,
            class,
            patience,
            since: None,
            over: false,
        }
    }

    /// Waits until there may be a slot. Returns whether it is worth another look.
    ///
    /// Spins, as who waits for a mutex does while its owner runs: sleeping is not allowed here. It
    /// ends at once if kccd is not at work, be it that the cap is reached or that memory is short.
    fn go_on(&mut self) -> bool {
        let pool = self.pool;
        let of_use = pool.waiting.is_of_use(self.class, self.patience);
        if !glue::may_wait() || !of_use || !pool.is_low(self.class) {
            return false;
        }
        // Others may have taken all that kccd has made.
        pool.doorbell.ring();
        if !pool.doorbell.is_at_work() {
            return false;
        }
        if self.since.is_none() && pool.waiting.grace.is_held_up(MAX_HOLD_UP_MS) {
            return false;
        }
        let begin = || (Instant::now(), pool.waiting.made());
        let (since, made) = *self.since.get_or_insert_with(begin);
        loop {
            let ready = pool.depots.iter().any(|depot| self.is_ready_in(depot));
            if since.elapsed().as_nanos() as u64 >= self.patience.ns() {
                if self.over {
                    if !ready {
                        pool.waiting.was_in_vain(self.class, self.patience, made);
                    }
                    return false;
                }
                // Somebody else may have had the CPU for all that time: look once more.
                self.over = true;
                return true;
            }
            if ready || !pool.doorbell.is_at_work() {
                return true;
            }
            cpu_relax();
        }
    }
}

impl Wait<'_> {
    /// Whether there is what the mapping would take.
    fn is_ready_in(&self, depot: &Depot) -> bool {
        match self.patience {
            Patience::Short => depot.is_ready(self.class),
            Patience::Long => core::iter::successors(Some(self.class), |class| class.larger())
                .any(|class| depot.free(class) > 0),
        }
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        if let Some((since, _)) = self.since {
            let ns = since.elapsed().as_nanos() as u64;
            self.pool.stats.note_wait(self.class, ns);
        }
    }
}

#[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
#[kunit_tests(cc_swiotlb_take)]
mod tests {
    use super::*;
    use crate::pool::gauge::Levels;

    #[test]
    fn a_wait_in_vain_is_the_last_of_its_kind_until_there_is_something() -> Result {
        let waiting = Waiting::new();
        let (small, large) = (SizeClass::new(2), SizeClass::new(9));
        let (small, large) = (small.ok_or(ERANGE)?, large.ok_or(ERANGE)?);
        assert!(waiting.is_of_use(small, Patience::Short));
        let begun = waiting.made();
        waiting.was_in_vain(small, Patience::Short, begun);
        assert!(!waiting.is_of_use(small, Patience::Short));
        // Whom nobody else can help may still be lucky, and so may others.
        assert!(waiting.is_of_use(small, Patience::Long));
        assert!(waiting.is_of_use(large, Patience::Short));
        waiting.note_progress();
        assert!(waiting.is_of_use(small, Patience::Short));
        // Others took what there was.
        waiting.was_in_vain(small, Patience::Short, begun);
        assert!(waiting.is_of_use(small, Patience::Short));
        Ok(())
    }

    #[test]
    fn others_help_with_what_they_can_do_without() -> Result {
        let pool = crate::glue::leak(KBox::pin_init(Pool::new(), GFP_KERNEL)?);
        // Of the large one a magazine holds one slot.
        let (small, large) = (SizeClass::new(7), SizeClass::new(8));
        let (small, large) = (small.ok_or(ERANGE)?, large.ok_or(ERANGE)?);
        pool.grow(large, 0).map_err(|_| ENOMEM)?;
        let depot = pool.depot(0).ok_or(ENOENT)?;
        let slots = depot.slots(large);
        let mut levels = Levels {
            low: slots,
            high: u32::MAX,
            reserve: 0,
        };
        depot.set_levels(large, levels);
        assert!(pool.take_without_harm(small).is_none());
        levels.low = slots - 1;
        depot.set_levels(large, levels);
        let (slot, class) = pool.take_without_harm(small).ok_or(ENOENT)?;
        assert!(class == large && pool.take_without_harm(small).is_none());
        // Nobody makes any more: all that is left, and nothing after that.
        for _ in 1..slots {
            assert!(pool.take(small).is_some_and(|(_, class)| class == large));
        }
        assert!(pool.take(small).is_none());
        pool.put(slot, class);
        assert!(pool.take(small).is_some());
        Ok(())
    }
}

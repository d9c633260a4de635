// SPDX-License-Identifier: GPL-2.0

//! Counters, and how they are shown in debugfs.
//!
//! What happens for each mapping is counted by the CPU caches; here is what is rare.

use super::{
    class::{
        SizeClass,
        CHUNK_BYTES,
        CLASSES, //
    },
    Misuse,
    Pool, //
};
use crate::{
    glue::memory,
    params, //
};
use kernel::{
    fmt,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
};

/// A number of events or bytes that any CPU may add to.
pub(crate) struct Counter(Atomic<u64>);

impl Counter {
    /// A counter at 0.
    pub(crate) const fn new() -> Self {
        Self(Atomic::new(0))
    }

    /// Adds to the counter.
    pub(crate) fn add(&self, count: u64) {
        self.0.add(count, Relaxed);
    }

    /// The count so far.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What is counted for each class.
struct ClassStats {
    fallback: Counter,
    refills: Counter,
    retired: Counter,
    refused: Counter,
    leaked: Counter,
    waits: Counter,
    waited_ns: Counter,
}

impl ClassStats {
    const fn new() -> Self {
        Self {
            fallback: Counter::new(),
            refills: Counter::new(),
            retired: Counter::new(),
            refused: Counter::new(),
            leaked: Counter::new(),
            waits: Counter::new(),
            waited_ns: Counter::new(),
        }
    }
}

/// The counters.
pub(crate) struct Stats {
    classes: [ClassStats; CLASSES],
    /// Stands in for a class that does not exist, so that nothing can panic.
    none: ClassStats,
    misuse_seen: [Atomic<u32>; 3],
    chunks: Atomic<u64>,
    spare_spans: Atomic<u64>,
    shared_peak_bytes: Atomic<u64>,
    /// Chunks that were shared.
    pub(super) conversions: Counter,
    /// Chunks that could not be shared.
    pub(super) conversion_failures: Counter,
    /// Chunks for which there was no memory.
    pub(super) allocation_failures: Counter,
    /// Chunks that were made private again.
    pub(super) given_back: Counter,
    /// Chunks that could not be made private again.
    pub(super) giveback_failures: Counter,
    /// Chunks that were emptied into what was spare elsewhere.
    pub(super) compactions: Counter,
    /// Spans that could not be retired: a slot was in use.
    pub(super) retire_failures: Counter,
    /// Bytes that nobody will use again.
    pub(super) leaked_bytes: Counter,
    /// Mappings that were left to the legacy pool for want of a slot.
    refused: Counter,
    /// Mappings that were left to the legacy pool because no slot can hold them.
    pub(super) oversize: Counter,
    /// Of those refused: the device could not reach the slot.
    pub(super) unreachable: Counter,
    /// Mappings that kccd made a slot for when the legacy pool could not serve them either.
    pub(super) late: Counter,
    /// Mappings that nobody could serve.
    pub(super) exhausted: Counter,
    /// Calls that no correct driver makes.
    pub(super) misuse: Counter,
}

impl Stats {
    /// All counters at 0.
    pub(super) const fn new() -> Self {
        Self {
            classes: [const { ClassStats::new() }; CLASSES],
            none: ClassStats::new(),
            misuse_seen: [const { Atomic::new(0) }; 3],
            chunks: Atomic::new(0),
            spare_spans: Atomic::new(0),
            shared_peak_bytes: Atomic::new(0),
            conversions: Counter::new(),
            conversion_failures: Counter::new(),
            allocation_failures: Counter::new(),
            given_back: Counter::new(),
            giveback_failures: Counter::new(),
            compactions: Counter::new(),
            retire_failures: Counter::new(),
            leaked_bytes: Counter::new(),
            refused: Counter::new(),
            oversize: Counter::new(),
            unreachable: Counter::new(),
            late: Counter::new(),
            exhausted: Counter::new(),
            misuse: Counter::new(),
        }
    }

    fn class(&self, class: SizeClass) -> &ClassStats {
        self.classes.get(class.index()).unwrap_or(&self.none)
    }

    /// Mappings of `class` that a larger one served.
    pub(super) fn fallback(&self, class: SizeClass) -> &Counter {
        &self.class(class).fallback
    }

    /// Spans that were made for `class`.
    pub(super) fn refill(&self, class: SizeClass) -> &Counter {
        &self.class(class).refills
    }

    /// Spans of `class` that were retired.
    pub(super) fn retired(&self, class: SizeClass) -> &Counter {
        &self.class(class).retired
    }

    /// A mapping of `class` was left to the legacy pool for want of a slot.
    pub(super) fn note_refused(&self, class: SizeClass) {
        self.refused.add(1);
        self.class(class).refused.add(1);
    }

    /// A slot of `class` is lost.
    pub(super) fn note_lost(&self, class: SizeClass) {
        self.leaked_bytes.add(class.slot_bytes() as u64);
        self.class(class).leaked.add(1);
    }

    /// A mapping of `class` has waited for kccd.
    pub(super) fn note_wait(&self, class: SizeClass, ns: u64) {
        self.class(class).waits.add(1);
        self.class(class).waited_ns.add(ns);
    }

    /// Spans that have no class, roughly: without the lock.
    pub(super) fn spare_spans(&self) -> u64 {
        self.spare_spans.load(Relaxed)
    }

    /// Whether this is the first misuse of its kind.
    pub(super) fn first_misuse(&self, what: Misuse) -> bool {
        self.misuse_seen
            .get(what as usize)
            .is_some_and(|seen| seen.xchg(1, Relaxed) == 0)
    }

    /// Notes what is in stock, so that a reader need not wait for a conversion. Called with the
    /// stock's lock held.
    pub(super) fn stock(&self, chunks: usize, spare_spans: usize) {
        self.chunks.store(chunks as u64, Relaxed);
        self.spare_spans.store(spare_spans as u64, Relaxed);
        let bytes = self.shared_bytes();
        if bytes > self.shared_peak_bytes.load(Relaxed) {
            self.shared_peak_bytes.store(bytes, Relaxed);
        }
    }

    fn shared_bytes(&self) -> u64 {
        self.chunks.load(Relaxed).saturating_mul(CHUNK_BYTES as u64)
    }
}

impl Pool {
    /// Writes the file `stats`.
    pub(crate) fn write_stats(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stats = &self.stats;
        let (mut taken, mut returned) = (0u64, 0u64);
        for class in SizeClass::all() {
            let totals = self.caches.totals(class);
            taken = taken.wrapping_add(totals.taken);
            returned = returned.wrapping_add(totals.returned);
        }
        // A slot that was taken for a device which does not reach it was put back unused.
        let unused = stats.unreachable.get();
        let left = stats.refused.get().saturating_add(stats.oversize.get());
        let (late, exhausted) = (stats.late.get(), stats.exhausted.get());
        let given_back = stats.given_back.get();
        let waits = |which: fn(&ClassStats) -> &Counter| -> u64 {
            stats.classes.iter().map(|class| which(class).get()).sum()
        };
        writeln!(out, "state: on")?;
        for (key, value) in [
            ("shared_bytes", stats.shared_bytes()),
            ("shared_peak_bytes", stats.shared_peak_bytes.load(Relaxed)),
            ("max_bytes", params::max_bytes()),
            ("legacy_bytes", memory::legacy_bytes()),
            ("chunks", stats.chunks.load(Relaxed)),
            ("free_spans", stats.spare_spans.load(Relaxed)),
            ("leaked_bytes", stats.leaked_bytes.get()),
            ("conversions", stats.conversions.get()),
            ("conversion_failures", stats.conversion_failures.get()),
            ("allocation_failures", stats.allocation_failures.get()),
            ("given_back", given_back),
            (
                "given_back_bytes",
                given_back.saturating_mul(CHUNK_BYTES as u64),
            ),
            ("giveback_failures", stats.giveback_failures.get()),
            ("compactions", stats.compactions.get()),
            ("retire_failures", stats.retire_failures.get()),
            ("waits", waits(|class| &class.waits)),
            ("waited_ns", waits(|class| &class.waited_ns)),
            ("bounced", taken.saturating_sub(unused)),
            ("unbounced", returned.saturating_sub(unused)),
            ("early", crate::early()),
            (
                "legacy",
                left.saturating_sub(late).saturating_sub(exhausted),
            ),
            ("late", late),
            ("unreachable", unused),
            ("oversize", stats.oversize.get()),
            ("exhausted", exhausted),
            ("misuse", stats.misuse.get()),
        ] {
            writeln!(out, "{key}: {value}")?;
        }
        Ok(())
    }

    /// Writes the file `nodes`: what `classes` has, for each NUMA node.
    pub(crate) fn write_nodes(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "node class    slots watermark    depot      out     peak   demand"
        )?;
        for (node, depot) in self.depots.iter().enumerate() {
            for class in SizeClass::all() {
                writeln!(
                    out,
                    "{:>4} {:>5} {:>8} {:>9} {:>8} {:>8} {:>8} {:>8}",
                    node,
                    class.name(),
                    depot.slots(class),
                    depot.low(class),
                    depot.free(class),
                    depot.out(class),
                    depot.peak(class),
                    depot.demand(class)
                )?;
            }
        }
        Ok(())
    }

    /// Writes the file `classes`.
    pub(crate) fn write_classes(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "class    slots watermark    depot   cached     used     peak      bounced fallback \
             refills   demand retired  refused  leaked    waits    waited_us"
        )?;
        let watermarks = params::watermark();
        for class in SizeClass::all() {
            let sum = |what: fn(&super::Depot, SizeClass) -> u32| -> u64 {
                self.depots
                    .iter()
                    .map(|depot| u64::from(what(depot, class)))
                    .sum()
            };
            let totals = self.caches.totals(class);
            let used = totals.taken.saturating_sub(totals.returned);
            let own = |depot: &super::Depot| {
                let (own, hand) = depot.own_and_in_hand(class);
                i64::from(own) - i64::from(hand)
            };
            let slots: i64 = self.depots.iter().map(|depot| own(depot)).sum();
            let slots = u64::try_from(slots).unwrap_or(0);
            let depot = sum(super::Depot::free);
            let cached = slots.saturating_sub(depot).saturating_sub(used);
            let stats = self.stats.class(class);
            writeln!(
                out,
                "{:>5} {:>8} {:>9} {:>8} {:>8} {:>8} {:>8} {:>12} {:>8} {:>7} {:>8} {:>7} {:>8} \
                 {:>7} {:>8} {:>12}",
                class.name(),
                slots,
                watermarks.slots(class),
                depot,
                cached,
                used,
                sum(super::Depot::peak),
                totals.taken,
                stats.fallback.get(),
                stats.refills.get(),
                sum(super::Depot::demand),
                stats.retired.get(),
                stats.refused.get(),
                stats.leaked.get(),
                stats.waits.get(),
                stats.waited_ns.get() / 1000
            )?;
        }
        Ok(())
    }
}

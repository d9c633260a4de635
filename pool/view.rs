// SPDX-License-Identifier: GPL-2.0

//! How the pool stands, for kccd, the shrinker and the files in debugfs. Takes no lock.

use super::{
    class::{
        SizeClass,
        SPAN_BYTES, //
    },
    depot::Depot,
    node::Node,
    stats::Counter,
    stock::Stock,
    Pool, //
};

impl Pool {
    /// The nodes, by number.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().map(|node| &**node)
    }

    /// The sum of `spans` over the stocks of all nodes, in bytes.
    pub(super) fn span_bytes(&self, spans: impl Fn(&Stock) -> u64) -> u64 {
        let spans = self.nodes().map(|node| spans(&node.stock));
        spans.sum::<u64>() * SPAN_BYTES as u64
    }

    /// The sum of `count` over the depots of `class` on all nodes.
    pub(super) fn slots(&self, class: SizeClass, count: fn(&Depot) -> &Counter) -> u64 {
        let depots = self.nodes().map(|node| node.depot(class));
        depots.map(|depot| count(depot).get()).sum()
    }

    /// Memory that is shared, in bytes.
    pub(crate) fn shared_bytes(&self) -> u64 {
        self.span_bytes(|stock| stock.spans.get())
    }

    /// Bytes that are beyond the watermark and could be given back. Any context.
    pub(crate) fn spare_bytes(&self) -> u64 {
        self.span_bytes(Stock::beyond_low)
    }

    /// Free slots of `class` that CPUs hold, roughly.
    pub(super) fn cached(&self, class: SizeClass) -> u64 {
        let slots = self.slots(class, |it| &it.slots);
        let away = slots.saturating_sub(self.slots(class, |it| &it.free));
        away.saturating_sub(self.caches.used(class))
    }

    /// Whether any span is bound to a class, since mappings, CPUs or a watermark have its slots.
    pub(crate) fn has_bound_slots(&self) -> bool {
        let mut classes = SizeClass::ALL.into_iter();
        classes.any(|class| self.slots(class, |it| &it.slots) > 0)
    }

    /// How many more spans would be unbound if CPUs held no slots, roughly; 0 if they hold none.
    pub(crate) fn cached_spans(&self) -> u64 {
        let of_class = |class: SizeClass| {
            let per_span = class.slots_per_span() as u64;
            let used = self.caches.used(class).div_ceil(per_span);
            let spans = self.slots(class, |it| &it.slots) / per_span;
            spans.saturating_sub(used).min(self.cached(class))
        };
        SizeClass::ALL.into_iter().map(of_class).sum()
    }
}

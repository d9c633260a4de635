// SPDX-License-Identifier: GPL-2.0

//! How the pool stands: what kccd, the shrinker and the files in debugfs look at. Takes no lock.

use super::{
    bell::Bell,
    class::{
        SizeClass,
        SPAN_BYTES, //
    },
    depot::Depot,
    node::Node,
    Pool, //
};
use kernel::page::PAGE_SIZE;

impl Pool {
    /// Memory that is shared, in bytes.
    pub(crate) fn shared_bytes(&self) -> u64 {
        let spans = self.nodes.iter().map(|node| {
            u64::from(node.stock().bound()) + u64::from(node.stock().unbound()) //
        });
        spans.sum::<u64>() * SPAN_BYTES as u64
    }

    /// Pages that are beyond the watermark and could be given back. Takes no lock. Any context.
    pub(crate) fn spare_pages(&self) -> usize {
        let spans = self.nodes().map(|node| node.stock().beyond_low() as usize);
        spans.sum::<usize>() * (SPAN_BYTES / PAGE_SIZE)
    }

    /// The nodes, by number.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().map(|node| &**node)
    }

    /// What kccd is woken by.
    pub(crate) fn bell(&self) -> &Bell {
        &self.bell
    }

    /// Spans that would be unbound if CPUs held no slots, roughly; 0 if they hold none.
    pub(crate) fn cached_spans(&self) -> u32 {
        let of_class = |class: SizeClass| {
            let sum = |count: fn(&Depot) -> u32| -> u64 {
                let depots = self.nodes().map(|node| node.depot(class));
                depots.map(|depot| u64::from(count(depot))).sum()
            };
            let (slots, used) = (sum(Depot::slots), self.caches.totals(class).used());
            let cached = slots.saturating_sub(sum(Depot::free)).saturating_sub(used);
            let per_span = class.slots_per_span() as u64;
            let unused = (slots / per_span).saturating_sub(used.div_ceil(per_span));
            unused.min(cached) as u32
        };
        SizeClass::ALL.into_iter().map(of_class).sum()
    }
}

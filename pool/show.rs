// SPDX-License-Identifier: GPL-2.0

//! What is shown in debugfs. Takes no lock and disturbs no mapping.

use super::{
    class::SizeClass,
    node::Node,
    Pool, //
};
use crate::{
    glue::memory,
    params, //
};
use kernel::fmt;

impl Pool {
    /// Writes the file `stats`.
    pub(crate) fn write_stats(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stats = &self.stats;
        let (mut taken, mut returned, mut in_use) = (0u64, 0u64, 0u64);
        for class in SizeClass::ALL {
            let totals = self.caches.totals(class);
            taken = taken.wrapping_add(totals.taken);
            returned = returned.wrapping_add(totals.returned);
            in_use += totals.used() << class.shift();
        }
        // A slot that was taken for a device which does not reach it was put back unused.
        let unused = stats.unreachable.get();
        let refused = self.refusals.count();
        let left = stats.sum(|class| &class.left) + stats.oversize.get();
        let unbound: u64 = self
            .nodes()
            .map(|node| u64::from(node.stock().unbound()))
            .sum();
        writeln!(out, "state: on")?;
        for (key, value) in [
            ("shared_bytes", self.shared_bytes()),
            ("peak_shared_bytes", stats.peak_shared_bytes.get()),
            ("in_use_bytes", in_use),
            ("max_bytes", params::max_bytes()),
            ("legacy_bytes", memory::legacy_bytes()),
            ("unbound_spans", unbound),
            ("leaked_bytes", stats.leaked_bytes.get()),
            ("conversions", stats.shared.done.get()),
            ("conversion_bytes", stats.shared.bytes.get()),
            ("conversion_ns", stats.shared.ns.get()),
            ("conversion_failures", stats.shared.failed.get()),
            ("allocation_failures", stats.allocation_failures.get()),
            ("single_spans", stats.single_spans.get()),
            ("give_backs", stats.given_back.done.get()),
            ("give_back_bytes", stats.given_back.bytes.get()),
            ("give_back_ns", stats.given_back.ns.get()),
            ("give_back_failures", stats.given_back.failed.get()),
            ("bounced", taken.saturating_sub(unused)),
            ("unbounced", returned.saturating_sub(unused)),
            ("early", crate::EARLY.get()),
            ("fallback", stats.sum(|class| &class.fallback)),
            ("legacy", left),
            ("unreachable", unused),
            ("oversize", stats.oversize.get()),
            ("refused", refused),
            ("misuse", stats.misuse.get()),
        ] {
            writeln!(out, "{key}: {value}")?;
        }
        Ok(())
    }

    /// Writes the file `nodes`.
    pub(crate) fn write_nodes(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "node    bound  unbound   demand ready_bytes")?;
        for (number, node) in self.nodes().enumerate() {
            let stock = node.stock();
            writeln!(
                out,
                "{:>4} {:>8} {:>8} {:>8} {:>11}",
                number,
                stock.bound(),
                stock.unbound(),
                stock.demand(),
                node.ready_bytes()
            )?;
        }
        writeln!(out, "node class    slots     keep    depot")?;
        for (number, node) in self.nodes().enumerate() {
            for class in SizeClass::ALL {
                let depot = node.depot(class);
                writeln!(
                    out,
                    "{:>4} {:>5} {:>8} {:>8} {:>8}",
                    number,
                    class.name(),
                    depot.slots(),
                    depot.keep(),
                    depot.free()
                )?;
            }
        }
        Ok(())
    }

    /// Writes the file `classes`.
    pub(crate) fn write_classes(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "class    slots watermark    depot   cached     used      bounced fallback   legacy  \
             refused"
        )?;
        for class in SizeClass::ALL {
            let sum = |count: fn(&Node, SizeClass) -> u32| -> u64 {
                self.nodes().map(|node| u64::from(count(node, class))).sum()
            };
            let slots = sum(|node, class| node.depot(class).slots());
            let depot = sum(|node, class| node.depot(class).free());
            let totals = self.caches.totals(class);
            let used = totals.used();
            let stats = self.stats.class(class);
            writeln!(
                out,
                "{:>5} {:>8} {:>9} {:>8} {:>8} {:>8} {:>12} {:>8} {:>8} {:>8}",
                class.name(),
                slots,
                sum(|node, class| node.depot(class).keep()),
                depot,
                slots.saturating_sub(depot).saturating_sub(used),
                used,
                totals.taken,
                stats.fallback.get(),
                stats.left.get(),
                stats.refused.get()
            )?;
        }
        Ok(())
    }
}

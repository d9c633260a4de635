// SPDX-License-Identifier: GPL-2.0

//! The values that users see: one for each file in sysfs, and the same values as tables in debugfs.
//! Takes no lock and disturbs no mapping.
//!
//! Documentation/ABI/testing/sysfs-kernel-mm-cc_swiotlb says what each value is.

use super::{
    class::{
        SizeClass,
        CLASSES,
        SPAN_BYTES, //
    },
    node::Node,
    stock::Stock,
    Pool, //
};
use crate::{
    glue::{
        memory,
        sysfs::File, //
    },
    params, //
};
use kernel::{
    fmt,
    prelude::*, //
};

/// A value that is shown.
pub(crate) enum Value {
    /// A word about the whole pool.
    Word(fn(&Pool) -> &'static str),
    /// A number about the whole pool.
    Number(fn(&Pool) -> u64),
    /// A number about one class.
    OfClass(OfClass, SizeClass),
}

impl fmt::Display for Value {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(pool) = crate::pool() else {
            // Without a pool there is no other file than `STATE`.
            return out.write_str("off");
        };
        match self {
            Self::Word(word) => word(pool).fmt(out),
            Self::Number(number) => number(pool).fmt(out),
            Self::OfClass(number, class) => number(pool, *class).fmt(out),
        }
    }
}

/// A number about one class.
type OfClass = fn(&Pool, SizeClass) -> u64;

/// The numbers in the files about one class; some of the files about the whole pool sum them up.
const SLOTS: OfClass = |it, class| it.slots(class, |of| &of.slots);
const SLOT_BYTES: OfClass = |it, class| SLOTS(it, class) << class.shift();
const KEEP: OfClass = |it, class| it.slots(class, |of| &of.keep);
const KEEP_BYTES: OfClass = |it, class| KEEP(it, class) << class.shift();
const FREE: OfClass = |it, class| it.slots(class, |of| &of.free);
const USED: OfClass = |it, class| it.caches.used(class);
const USED_BYTES: OfClass = |it, class| USED(it, class) << class.shift();
const TAKEN: OfClass = |it, class| it.caches.sum(class, |of| &of.taken);
const TAKEN_BYTES: OfClass = |it, class| TAKEN(it, class) << class.shift();
const RETURNED: OfClass = |it, class| it.caches.sum(class, |of| &of.returned);
const RETURNED_BYTES: OfClass = |it, class| RETURNED(it, class) << class.shift();
const FALLBACK: OfClass = |it, class| it.stats.classes[class].fallback.get();
const LEFT: OfClass = |it, class| it.stats.classes[class].left.get();
const REFUSED: OfClass = |it, class| it.stats.classes[class].refused.get();

/// The file that exists without a pool as well.
pub(crate) static STATE: [File; 1] = [File::new(c"state", Value::Word(|_| "on"))];

const fn number(name: &'static CStr, value: fn(&Pool) -> u64) -> File {
    File::new(name, Value::Number(value))
}

/// The files about the whole pool.
pub(crate) static TOTALS: [File; 38] = [
    number(c"shared_bytes", Pool::shared_bytes),
    number(c"peak_shared_bytes", |it| it.stats.peak_shared_bytes.get()),
    number(c"max_bytes", |_| params::max_bytes()),
    number(c"watermark_bytes", |it| {
        it.span_bytes(|of| of.low.get()) + it.sum(KEEP_BYTES)
    }),
    number(c"legacy_bytes", |_| memory::legacy_bytes()),
    number(c"bound_bytes", |it| it.span_bytes(|of| of.bound())),
    number(c"peak_bound_bytes", |it| it.span_bytes(|of| of.peak.get())),
    number(c"demand_bytes", |it| it.span_bytes(Stock::demand)),
    number(c"unbound_bytes", |it| it.span_bytes(|of| of.unbound.get())),
    number(c"in_use_bytes", |it| it.sum(USED_BYTES)),
    number(c"lent_bytes", Pool::lent_bytes),
    number(c"lent_span_bytes", |it| {
        it.nodes().map(Node::lent_span_bytes).sum()
    }),
    number(c"leaked_bytes", |it| it.stats.leaked_bytes.get()),
    // Less the slots that were taken for a device which does not reach them, and put back unused.
    number(c"mapped", |it| {
        it.sum(TAKEN).saturating_sub(it.stats.unreachable.get())
    }),
    number(c"unmapped", |it| {
        it.sum(RETURNED).saturating_sub(it.stats.unreachable.get())
    }),
    number(c"mapped_bytes", |it| it.sum(TAKEN_BYTES)),
    number(c"unmapped_bytes", |it| it.sum(RETURNED_BYTES)),
    number(c"fallback_larger", |it| it.sum(FALLBACK)),
    number(c"fallback_legacy", |it| {
        it.sum(LEFT) + it.stats.oversize.get()
    }),
    number(c"fallback_unreachable", |it| it.stats.unreachable.get()),
    number(c"fallback_oversize", |it| it.stats.oversize.get()),
    number(c"fallback_early", |_| crate::EARLY.get()),
    number(c"refused", |it| it.refusals.count.get()),
    File::new(c"refused_reason", Value::Word(|it| it.refusals.reason())),
    number(c"conversions", |it| it.stats.shared.done.get()),
    number(c"conversion_bytes", |it| it.stats.shared.bytes.get()),
    number(c"conversion_ns", |it| it.stats.shared.ns.get()),
    number(c"conversion_failures", |it| it.stats.shared.failed.get()),
    number(c"give_backs", |it| it.stats.given_back.done.get()),
    number(c"give_back_bytes", |it| it.stats.given_back.bytes.get()),
    number(c"give_back_ns", |it| it.stats.given_back.ns.get()),
    number(c"give_back_failures", |it| it.stats.given_back.failed.get()),
    number(c"allocation_failures", |it| {
        it.stats.allocation_failures.get()
    }),
    number(c"single_spans", |it| it.stats.single_spans.get()),
    number(c"lend_refused", |it| it.stats.lend_refused.get()),
    number(c"lend_oversize", |it| it.stats.lend_oversize.get()),
    number(c"lend_deferred", |it| it.stats.lend_deferred.get()),
    number(c"misuse", |it| it.stats.misuse.get()),
];

/// The files about one class.
const fn of_class(class: SizeClass) -> [File; 13] {
    const fn file(name: &'static CStr, class: SizeClass, value: OfClass) -> File {
        File::new(name, Value::OfClass(value, class))
    }
    [
        file(c"slots", class, SLOTS),
        file(c"watermark", class, KEEP),
        file(c"free", class, FREE),
        file(c"cached", class, Pool::cached),
        file(c"in_use", class, USED),
        file(c"bound_bytes", class, SLOT_BYTES),
        file(c"mapped", class, TAKEN),
        file(c"unmapped", class, RETURNED),
        file(c"mapped_bytes", class, TAKEN_BYTES),
        file(c"unmapped_bytes", class, RETURNED_BYTES),
        file(c"fallback_larger", class, FALLBACK),
        file(c"fallback_legacy", class, LEFT),
        file(c"refused", class, REFUSED),
    ]
}

/// A folder for each class.
pub(crate) static CLASS_FOLDERS: [(&CStr, [File; 13]); CLASSES] = [
    (c"slots-512B", of_class(SizeClass::B512)),
    (c"slots-2kB", of_class(SizeClass::K2)),
    (c"slots-4kB", of_class(SizeClass::K4)),
    (c"slots-8kB", of_class(SizeClass::K8)),
    (c"slots-16kB", of_class(SizeClass::K16)),
    (c"slots-32kB", of_class(SizeClass::K32)),
    (c"slots-64kB", of_class(SizeClass::K64)),
    (c"slots-128kB", of_class(SizeClass::K128)),
    (c"slots-256kB", of_class(SizeClass::K256)),
    (c"slots-512kB", of_class(SizeClass::K512)),
];

impl Pool {
    /// The sum of `number` over all classes.
    fn sum(&self, number: OfClass) -> u64 {
        let classes = SizeClass::ALL.into_iter();
        classes.map(|class| number(self, class)).sum()
    }

    /// Writes the file `stats`, which exists without a pool as well.
    pub(crate) fn write_stats(pool: &Option<&Self>, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let totals = pool.map_or(&[][..], |_| &TOTALS);
        [&STATE, totals].into_iter().flatten().try_for_each(|file| {
            out.write_fmt(fmt!("{}: {}\n", file.name, file.value)) //
        })
    }

    /// Writes the file `classes`.
    pub(crate) fn write_classes(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "class")?;
        for file in &CLASS_FOLDERS[0].1 {
            out.write_fmt(fmt!(" {:>15}", file.name))?;
        }
        for (class, (_, files)) in SizeClass::ALL.into_iter().zip(&CLASS_FOLDERS) {
            write!(out, "\n{:>5}", class.name())?;
            for file in files {
                out.write_fmt(fmt!(" {:>15}", file.value))?;
            }
        }
        writeln!(out)
    }

    /// Writes the file `nodes`.
    pub(crate) fn write_nodes(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "node    bound  unbound   demand ready_bytes     lent")?;
        for (number, node) in self.nodes().enumerate() {
            let stock = &node.stock;
            let (bound, unbound, demand) = (stock.bound(), stock.unbound.get(), stock.demand());
            let ready = node.ready_bytes();
            let lent = node.lent_span_bytes() / SPAN_BYTES as u64;
            writeln!(
                out,
                "{number:>4} {bound:>8} {unbound:>8} {demand:>8} {ready:>11} {lent:>8}"
            )?;
        }
        writeln!(out, "node class    slots     keep     free")?;
        for (number, node) in self.nodes().enumerate() {
            for class in SizeClass::ALL {
                let (class, depot) = (class.name(), node.depot(class));
                let (slots, keep, free) = (depot.slots.get(), depot.keep.get(), depot.free.get());
                writeln!(out, "{number:>4} {class:>5} {slots:>8} {keep:>8} {free:>8}")?;
            }
        }
        Ok(())
    }
}

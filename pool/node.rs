// SPDX-License-Identifier: GPL-2.0

//! A NUMA node: a depot for each class and one for pages that are lent, and the stock behind them.

use super::{
    class::{
        SizeClass,
        CLASSES,
        SPAN_BYTES, //
    },
    depot::Depot,
    span::Use,
    stock::Stock, //
};
use kernel::prelude::*;
use pin_init::pin_init_array_from_fn;

/// A node.
#[pin_data]
pub(crate) struct Node {
    #[pin]
    depots: [Depot; CLASSES],
    /// The depot of pages that are lent.
    #[pin]
    pub(crate) lent: Depot,
    #[pin]
    pub(crate) stock: Stock,
}

impl Node {
    /// A node without memory.
    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            depots <- pin_init_array_from_fn(|index| Depot::new(Use::Slots(SizeClass::ALL[index]))),
            lent <- Depot::new(Use::Lent),
            stock <- Stock::new(),
        })
    }

    /// The depot of `class`.
    pub(crate) fn depot(&self, class: SizeClass) -> &Depot {
        &self.depots[class as usize]
    }

    /// Bytes of spans that are bound to [`Use::Lent`].
    pub(crate) fn lent_span_bytes(&self) -> u64 {
        self.lent.slots.get() << Use::Lent.class().shift()
    }

    /// Bytes of slots and spans that nobody uses, and that no watermark list keeps for a class.
    pub(crate) fn ready_bytes(&self) -> u64 {
        let slots = SizeClass::ALL.into_iter().map(|class| {
            let depot = self.depot(class);
            depot.free.get().saturating_sub(depot.keep.get()) << class.shift()
        });
        slots.sum::<u64>() + self.stock.unbound.get() * SPAN_BYTES as u64
    }
}

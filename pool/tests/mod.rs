// SPDX-License-Identifier: GPL-2.0

//! Tests of the supply: spans and slots without memory, which are only counted.

mod deferred;
mod depot;
mod help;
mod lender;
mod shortage;
mod span;
mod stock;

use super::{
    address::Phys,
    cache::{
        CpuCaches,
        Stack, //
    },
    chunk::Chunk,
    class::{
        SizeClass,
        CHUNK_BYTES,
        SPANS_PER_CHUNK, //
    },
    help::Found,
    node::Node,
    Pool, //
};
use kernel::{
    interrupt::local_interrupt_disable,
    prelude::*, //
};

/// A pool whose memory does not exist.
struct Bench {
    pool: Pin<KBox<Pool>>,
    chunks: usize,
}

impl Bench {
    /// A pool for `nodes` nodes, without memory.
    fn new(nodes: usize) -> Result<Self> {
        Ok(Self {
            pool: KBox::pin_init(Pool::new(nodes), GFP_KERNEL)?,
            chunks: 0,
        })
    }

    fn node(&self, number: usize) -> &Node {
        &self.pool.nodes[number]
    }

    /// Gives chunks to a node, as kccd does. All of them together must lie below 1 GiB.
    fn give(&mut self, node: usize, chunks: usize) -> Result {
        for _ in 0..chunks {
            let base = Phys::new((self.chunks * CHUNK_BYTES) as u64);
            self.pool.directory.prepare(base, CHUNK_BYTES)?;
            let chunk = Chunk::for_test(base, SPANS_PER_CHUNK, node)?;
            for span in chunk.spans() {
                self.pool.directory.set(span.base(), Some(span));
            }
            self.node(node).stock.add(chunk);
            self.chunks += 1;
        }
        Ok(())
    }

    /// Spans of a node that are unbound.
    fn unbound(&self, node: usize) -> u64 {
        self.node(node).stock.unbound.get()
    }

    /// Slots of `class` that are home, on all nodes.
    fn free(&self, class: SizeClass) -> u64 {
        self.pool
            .nodes()
            .map(|node| node.depot(class).free.get())
            .sum()
    }

    /// Slots of `class` that are not home, on all nodes.
    fn away(&self, class: SizeClass) -> u64 {
        let slots = self.pool.nodes().map(|node| node.depot(class).slots.get());
        slots.sum::<u64>() - self.free(class)
    }
}

/// A CPU that a test simulates: the stacks that it holds while it does not run.
struct Cpu(KVec<(SizeClass, Stack)>);

impl Cpu {
    /// A CPU that uses no other classes than these.
    fn new(classes: &[SizeClass]) -> Result<Self> {
        Ok(Self(CpuCaches::stacks(classes)?))
    }

    /// Runs `f` on this CPU. `f` must neither sleep nor assert.
    fn run<R>(&mut self, bench: &Bench, f: impl FnOnce(&Pool) -> R) -> R {
        // So that we are not moved to a CPU that is not simulated.
        let irq = local_interrupt_disable();
        bench.pool.caches.exchange(&mut self.0, &irq);
        let result = f(&bench.pool);
        bench.pool.caches.exchange(&mut self.0, &irq);
        result
    }
}

/// Takes slots until there is none left, but at most `most`.
fn take_all(bench: &Bench, cpu: &mut Cpu, class: SizeClass, most: usize) -> Result<KVec<Found>> {
    let mut found = KVec::with_capacity(most, GFP_KERNEL)?;
    cpu.run(bench, |pool| {
        while found.len() < most {
            let Ok(slot) = pool.take(class) else {
                return;
            };
            let _ = found.push_within_capacity(slot);
        }
    });
    Ok(found)
}

fn put_all(bench: &Bench, cpu: &mut Cpu, found: &[Found]) {
    cpu.run(bench, |pool| {
        for (slot, class) in found {
            pool.put(*slot, *class);
        }
    });
}

// SPDX-License-Identifier: GPL-2.0

//! The life of a chunk: how memory is shared, becomes part of the pool, and is made private again.
//!
//! Memory that the host refuses to share is kept and tried again before any other. Its state is
//! unknown until a conversion succeeds, so it counts as shared. Memory that the host refuses to
//! make private is shared once more and used again; if that is refused too it is kept in the same
//! way, and nothing else is given back before it is shared. So at most one chunk is in an unknown
//! state, and none is lost.
//!
//! A chunk that leaves has no slot in use. But a driver may be in the middle of a sync of a mapping
//! that is over, so the memory is given up only after an RCU grace period, which nobody waits for.
//!
//! kccd's own allocations never wait: small ones that must not start I/O would be retried for ever.
//! Those of page tables, when a part of a large page is converted, are not its own.

use super::Kccd;
use crate::{
    glue::{
        grace::GracePeriod,
        memory::{
            PrivateMemory,
            UnsureMemory, //
        },
    },
    pool::{
        chunk::Chunk,
        class::{
            CHUNK_BYTES,
            SPAN_BYTES, //
        },
        refusal::Obstacle, //
    },
    trace, //
};
use kernel::{
    prelude::*,
    time::{
        Instant,
        Monotonic, //
    },
};

/// Memory that the host has refused to share.
struct Refused {
    memory: UnsureMemory,
    /// The node that it is for.
    node: usize,
    /// Whether it was shared before, and the host refused to make it private.
    was_shared: bool,
}

/// Memory and descriptions that kccd holds outside the pool.
#[derive(Default)]
pub(super) struct Holdings {
    /// Memory that the host has refused to share.
    refused: Option<Refused>,
    /// Descriptions of chunks, without memory.
    vacant: KVec<&'static Chunk>,
    /// Chunks on their way out, and the grace periods that they have to wait for.
    pub(super) leaving: KVec<(&'static Chunk, GracePeriod)>,
}

impl Holdings {
    /// Bytes that are in no stock and count as shared: chunks on their way out, and refused memory.
    pub(super) fn bytes(&self) -> u64 {
        let spans = self.leaving.iter().map(|(chunk, _)| chunk.span_count());
        let refused = self.refused.as_ref().map_or(0, |it| it.memory.bytes());
        (spans.sum::<usize>() * SPAN_BYTES + refused) as u64
    }

    /// Shared bytes that the host has refused both to make private and to share again.
    pub(super) fn leaked_bytes(&self) -> u64 {
        let leaked = self.refused.as_ref().filter(|it| it.was_shared);
        leaked.map_or(0, |it| it.memory.bytes() as u64)
    }

    /// Keeps memory for `node` that the host has refused to convert.
    pub(super) fn refuse(&mut self, memory: UnsureMemory, node: usize, was_shared: bool) {
        self.refused = Some(Refused {
            memory,
            node,
            was_shared,
        });
    }

    /// Whether `node` can grow by memory that counts as shared already.
    pub(super) fn has_counted(&self, node: usize) -> bool {
        let mut leaving = self.leaving.iter();
        self.refused.is_some() || leaving.any(|(chunk, _)| chunk.node() == node)
    }

    /// Whether a chunk has left and nobody can use it any more.
    pub(super) fn has_left(&self) -> bool {
        let is_over = self.leaving.first().map(|(_, grace)| grace.is_over());
        if is_over == Some(false) {
            // Where normal and expedited grace periods overlap, the end of one may go unnoticed:
            // the end of the next one is noticed then.
            GracePeriod::start();
        }
        is_over.unwrap_or(false)
    }
}

impl Kccd {
    /// Adds memory to the stock of `node`: a chunk on its way out, or else memory that it shares.
    ///
    /// May sleep, and takes long. An error says what is in the way.
    pub(super) fn grow_node(&mut self, node: usize) -> Result<(), Obstacle> {
        let leaving = &mut self.holdings.leaving;
        let place = leaving.iter().position(|(chunk, _)| chunk.node() == node);
        if let Some(Ok((chunk, _))) = place.map(|place| leaving.remove(place)) {
            self.enlist(chunk);
            return Ok(());
        }
        self.share_one(node)
    }

    /// Shares the memory that was refused last time, or else new memory for `node`, and adds it to
    /// the stock of its node, see [`Self::grow_node`].
    fn share_one(&mut self, node: usize) -> Result<(), Obstacle> {
        // First everything that can fail without losing memory.
        let chunk = self.vacant_chunk().or_else(|_| {
            // Where memory can be compacted for a chunk, there is room for its description as well.
            drop(self.private_memory(node)?);
            self.vacant_chunk().map_err(|_| Obstacle::NoMemory)
        })?;
        let (memory, node, was_shared) = match self.holdings.refused.take() {
            Some(it) => (it.memory, it.node, it.was_shared),
            None => (self.private_memory(node)?.into(), node, false),
        };
        let stats = &self.pool.stats;
        let begun = Instant::<Monotonic>::now();
        let shared = memory.share();
        let ns = begun.elapsed().as_nanos().max(0) as u64;
        let memory = shared.map_err(|memory| {
            self.holdings.refuse(memory, node, was_shared);
            stats.shared.failed.add(1);
            kernel::pr_warn_once!("the host refused to share memory, trying again\n");
            Obstacle::Host
        })?;
        let bytes = memory.bytes();
        // This is `chunk`, which is on top.
        self.holdings.vacant.pop();
        chunk.place(memory, node);
        self.enlist(chunk);
        if !was_shared {
            stats.shared.ns.add(ns);
            stats.shared.done.add(1);
            stats.shared.bytes.add(bytes as u64);
            stats.single_spans.add(u64::from(chunk.is_single()));
            let shared_bytes = self.pool.shared_bytes() + self.holdings.bytes();
            stats.peak_shared_bytes.raise_to(shared_bytes);
            trace::refill(node, bytes, shared_bytes);
        }
        self.state.chunk_ns = per_chunk(ns, bytes);
        Ok(())
    }

    /// Lets mappings use a chunk that has memory.
    fn enlist(&self, chunk: &'static Chunk) {
        for span in chunk.spans() {
            self.pool.directory.set(span.base(), Some(span));
        }
        if let Some(node) = self.pool.nodes().nth(chunk.node()) {
            node.stock.add(chunk);
        }
    }

    /// The description for the next chunk, with all its records, left on top of the vacant ones.
    fn vacant_chunk(&mut self) -> Result<&'static Chunk> {
        let vacant = &mut self.holdings.vacant;
        let chunk = match vacant.last() {
            Some(chunk) => *chunk,
            None => {
                vacant.reserve(1, GFP_NOWAIT)?;
                let chunk = crate::glue::leak(KBox::pin_init(Chunk::new(), GFP_NOWAIT)?);
                // There is room.
                let _ = vacant.push_within_capacity(chunk);
                chunk
            }
        };
        chunk.make_records()?;
        Ok(chunk)
    }

    /// Memory for a chunk, or for a single span if there is no more.
    fn private_memory(&self, node: usize) -> Result<PrivateMemory, Obstacle> {
        let sizes = [CHUNK_BYTES, SPAN_BYTES];
        let found = sizes.into_iter().find_map(|bytes| {
            let memory = PrivateMemory::new(node, bytes)?;
            self.pool.directory.prepare(memory.base(), bytes).ok()?;
            Some(memory)
        });
        found.ok_or_else(|| {
            self.pool.stats.allocation_failures.add(1);
            Obstacle::NoMemory
        })
    }

    /// Takes an unbound chunk of `node` out of the pool, to be given back soon. Returns its size in
    /// bytes, [`None`] if there is none. May sleep.
    pub(super) fn remove(&mut self, node: usize) -> Option<usize> {
        let Holdings {
            leaving, vacant, ..
        } = &mut self.holdings;
        // Nothing may fail once the chunk is out.
        leaving.reserve(1, GFP_NOWAIT).ok()?;
        vacant.reserve(leaving.len() + 2, GFP_NOWAIT).ok()?;
        let chunk = self.pool.nodes().nth(node)?.stock.remove()?;
        for span in chunk.spans() {
            self.pool.directory.set(span.base(), None);
        }
        // There is room.
        let _ = leaving.push_within_capacity((chunk, GracePeriod::start()));
        Some(chunk.span_count() * SPAN_BYTES)
    }

    /// Makes the chunk that left first private, see [`Holdings::has_left`]. Returns whether the
    /// host did.
    ///
    /// May sleep, and takes long.
    pub(super) fn make_one_private(&mut self) -> Option<bool> {
        // A host that has refused memory gets no more to refuse. The cap comes no closer by this:
        // refused memory counts already.
        if let Some(Refused { node, .. }) = self.holdings.refused {
            return Some(self.share_one(node).is_ok());
        }
        let (chunk, _) = self.holdings.leaving.remove(0).ok()?;
        let memory = chunk.take_memory()?;
        let (node, bytes) = (chunk.node(), memory.bytes());
        let begun = Instant::<Monotonic>::now();
        // SAFETY: No slot of the chunk was in use when it left, and none was handed out since: it
        // is in no stock. Syncs of mappings that were over ran in RCU read-side critical sections
        // that have ended.
        let refused = unsafe { memory.make_private() }.err();
        // There is room: `remove()` made it.
        let _ = self.holdings.vacant.push_within_capacity(chunk);
        let given_back = &self.pool.stats.given_back;
        let is_private = refused.is_none();
        if let Some(memory) = refused {
            given_back.failed.add(1);
            self.holdings.refuse(memory, node, true);
            // All or a part of it may be private by now. If the host shares it, it is used again.
            let _ = self.share_one(node);
        }
        let ns = begun.elapsed().as_nanos().max(0) as u64;
        self.state.chunk_ns = self.state.chunk_ns.max(per_chunk(ns, bytes));
        if is_private {
            given_back.done.add(1);
            given_back.bytes.add(bytes as u64);
            given_back.ns.add(ns);
            trace::giveback(node, bytes, self.pool.shared_bytes());
        }
        Some(is_private)
    }
}

/// How long a chunk would take, in nanoseconds, if `bytes` bytes took `ns`.
fn per_chunk(ns: u64, bytes: usize) -> u64 {
    ns.saturating_mul((CHUNK_BYTES / bytes.max(1)) as u64)
}

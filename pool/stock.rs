// SPDX-License-Identifier: GPL-2.0

//! The stock: the shared memory that the slots are made of. Only kccd changes it.

use super::{
    address::Phys,
    class::{
        SizeClass,
        CHUNK_BYTES,
        SPANS_PER_CHUNK,
        SPAN_BYTES, //
    },
    depot::Depot,
    magazine::Magazine,
    span::Span,
    Pool, //
};
use crate::{
    glue::memory::{
        NotShared,
        PrivateChunk,
        SharedChunk, //
    },
    params,
    trace, //
};
use kernel::prelude::*;

/// Shared memory, and what of it has no class yet.
pub(crate) struct Stock {
    chunks: KVec<SharedChunk>,
    spare: KVec<SpareSpan>,
}

/// A span of shared memory that has no class.
struct SpareSpan {
    base: Phys,
    node: usize,
}

/// Why there are no more slots than before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum GrowError {
    /// `cc_swiotlb.max=` is reached.
    AtMax,
    /// No private memory for a chunk, or for the records of its slots.
    NoMemory,
    /// The conversion failed; the chunk is lost.
    Conversion,
}

impl From<kernel::alloc::AllocError> for GrowError {
    fn from(_: kernel::alloc::AllocError) -> Self {
        Self::NoMemory
    }
}

impl Stock {
    /// Nothing in stock.
    pub(super) fn new() -> Self {
        Self {
            chunks: KVec::new(),
            spare: KVec::new(),
        }
    }

    fn shared_bytes(&self) -> u64 {
        (self.chunks.len() as u64).saturating_mul(CHUNK_BYTES as u64)
    }
}

impl Pool {
    /// Makes a span of slots of `class` on `node`, out of spare memory or of a new chunk.
    ///
    /// May sleep, and takes long where a chunk is converted.
    pub(crate) fn grow(&self, class: SizeClass, node: usize) -> Result<(), GrowError> {
        let depot = self.depots.get(node).ok_or(GrowError::NoMemory)?;
        let mut stock = self.stock.lock();
        // Room for it in case that it has to be put back.
        stock.spare.reserve(1, GFP_KERNEL)?;
        let place = stock.spare.iter().position(|spare| spare.node == node);
        let spare = match place {
            Some(place) => stock.spare.remove(place).map_err(|_| GrowError::NoMemory)?,
            None => self.convert(&mut stock, node)?,
        };
        if let Err(error) = self.cut(depot, class, spare.base) {
            stock.spare.push(spare, GFP_KERNEL)?;
            return Err(error);
        }
        self.stats.stock(stock.chunks.len(), stock.spare.len());
        let shared = stock.shared_bytes();
        drop(stock);
        trace::refill(node, class, class.slots_per_span(), shared);
        self.stats.refill(class).add(1);
        Ok(())
    }

    /// Cuts the span at `base` into slots of `class`.
    fn cut(&self, depot: &Depot, class: SizeClass, base: Phys) -> Result<(), GrowError> {
        // First all that can fail: a span stays for ever once it is made.
        let magazines = Magazine::for_span(class)?;
        depot.make_room(class, magazines.len())?;
        let span = Span::new(class, base)?;
        // A slot must be found again before anybody can map it. Cannot fail: the directory covers
        // all chunks in stock.
        self.directory
            .insert(span)
            .map_err(|_| GrowError::NoMemory)?;
        depot.add(class, span.fill(magazines));
        Ok(())
    }

    /// Shares one more chunk; returns one of its spans and leaves the others in stock.
    fn convert(&self, stock: &mut Stock, node: usize) -> Result<SpareSpan, GrowError> {
        // What was lost counts: a host that refuses conversions does not get more than the rest.
        let taken = stock
            .shared_bytes()
            .saturating_add(self.stats.leaked_bytes.get());
        if taken.saturating_add(CHUNK_BYTES as u64) > params::max_bytes() {
            return Err(GrowError::AtMax);
        }
        // First all that can fail without loss.
        stock.chunks.reserve(1, GFP_KERNEL)?;
        stock.spare.reserve(SPANS_PER_CHUNK, GFP_KERNEL)?;
        let chunk = match PrivateChunk::new(node) {
            Some(chunk) => chunk,
            None => {
                self.stats.allocation_failures.add(1);
                return Err(GrowError::NoMemory);
            }
        };
        let base = chunk.base();
        if !base.is_chunk_aligned() || !self.directory.covers(base, CHUNK_BYTES) {
            return Err(GrowError::NoMemory);
        }
        let chunk = chunk.share().map_err(|reason| {
            self.stats.conversion_failures.add(1);
            if let NotShared::Leaked(error) = reason {
                self.stats.leaked_bytes.add(CHUNK_BYTES as u64);
                pr_warn!("a chunk could not be shared ({error:?}), its memory is lost\n");
            }
            GrowError::Conversion
        })?;
        self.stats.conversions.add(1);
        stock.chunks.push(chunk, GFP_KERNEL)?;
        // The lowest span is the first to be used.
        for index in (1..SPANS_PER_CHUNK).rev() {
            let base = base.add(index * SPAN_BYTES);
            stock.spare.push(SpareSpan { base, node }, GFP_KERNEL)?;
        }
        self.stats.stock(stock.chunks.len(), stock.spare.len());
        Ok(SpareSpan { base, node })
    }

    /// Number of NUMA nodes that slots are kept for.
    pub(crate) fn nodes(&self) -> usize {
        self.depots.len()
    }

    /// Slots of `class` that are ready on `node`.
    pub(crate) fn ready(&self, node: usize, class: SizeClass) -> u32 {
        self.depots.get(node).map_or(0, |depot| depot.free(class))
    }

    /// Sets how many slots of `class` are kept ready on `node`, and how many of them in reserve.
    pub(crate) fn set_levels(&self, node: usize, class: SizeClass, low: u32, reserve: u32) {
        if let Some(depot) = self.depots.get(node) {
            depot.set_levels(class, low, reserve);
        }
    }
}

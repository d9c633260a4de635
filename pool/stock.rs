// SPDX-License-Identifier: GPL-2.0

//! The stock: the shared memory that the slots are made of. Only kccd changes it.

use super::{
    address::Phys,
    class::{
        SizeClass,
        CHUNK_BYTES,
        CLASSES,
        SPANS_PER_CHUNK,
        SPAN_BYTES, //
    },
    depot::Depot,
    magazine::Magazine,
    spare::{
        IdleSpans,
        SpareSpan, //
    },
    Pool, //
};
use crate::{
    glue::{
        grace::GracePeriod,
        memory::{
            NotShared,
            PrivateChunk,
            SharedChunk, //
        }, //
    },
    kccd::policy,
    params,
    trace, //
};
use kernel::{
    alloc::AllocError,
    prelude::*,
    time::{
        Instant,
        Monotonic, //
    },
};

/// How many spans are tried at a time that turn out to be in use.
pub(super) const STUCK: usize = 8;

/// Shared memory, and what of it has no class.
pub(crate) struct Stock {
    /// The oldest first.
    pub(super) chunks: KVec<Chunk>,
    /// There is room for all spans of all chunks.
    pub(super) spare: KVec<SpareSpan>,
    pub(super) idle: [IdleSpans; CLASSES],
    /// Spans that looked idle and were not: not to be tried again soon.
    pub(super) stuck: [Option<Phys>; STUCK],
    pub(super) failures: Failures,
}

/// Failures to make a chunk private, in a row.
pub(super) struct Failures {
    count: u32,
    last: Option<Instant<Monotonic>>,
}

impl Failures {
    /// Whether it is too early to try again. Each failure loses a chunk, and a host that refuses one
    /// will refuse the next.
    pub(super) fn too_early(&self) -> bool {
        self.last.is_some_and(|last| {
            last.elapsed().as_millis() < i64::from(policy::pause_ms(self.count))
        })
    }

    /// Notes how it went.
    pub(super) fn note(&mut self, success: bool) {
        self.count = if success { 0 } else { self.count + 1 };
        self.last = (!success).then(Instant::now);
    }
}

/// A chunk, and the node that it was made for: its memory is there, if there was any.
pub(super) struct Chunk {
    pub(super) shared: SharedChunk,
    pub(super) node: usize,
}

impl Chunk {
    /// Where its spans start.
    pub(super) fn spans(&self) -> impl Iterator<Item = Phys> {
        let base = self.shared.base();
        (0..SPANS_PER_CHUNK).map(move |index| base.add(index * SPAN_BYTES))
    }
}

/// Why there are no more slots than before, the worst last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum GrowError {
    /// `cc_swiotlb.max=` is reached, and nothing is spare on any node.
    AtMax,
    /// No private memory for a chunk, on any node, or for the records of its slots.
    NoMemory,
    /// The conversion failed; the chunk is lost.
    Conversion,
}

impl From<AllocError> for GrowError {
    fn from(_: AllocError) -> Self {
        Self::NoMemory
    }
}

impl Stock {
    /// Nothing in stock.
    pub(super) fn new() -> Self {
        Self {
            chunks: KVec::new(),
            spare: KVec::new(),
            idle: [const { IdleSpans::new() }; CLASSES],
            stuck: [None; STUCK],
            failures: Failures {
                count: 0,
                last: None,
            },
        }
    }

    /// Notes that the span at `base` could not be retired.
    pub(super) fn note_stuck(&mut self, base: Phys) {
        self.stuck.rotate_right(1);
        if let Some(first) = self.stuck.first_mut() {
            *first = Some(base);
        }
    }

    pub(super) fn shared_bytes(&self) -> u64 {
        (self.chunks.len() as u64).saturating_mul(CHUNK_BYTES as u64)
    }
}

impl Pool {
    /// Makes a span of slots of `class` on `node`, out of spare memory or of a new chunk.
    ///
    /// May sleep, and takes long where a chunk is converted.
    pub(crate) fn grow(&self, class: SizeClass, node: usize) -> Result<(), GrowError> {
        let mut stock = self.stock.lock();
        let spare = match self.take_spare(&mut stock, |it| it.node == node) {
            Some(spare) => spare,
            None => match self.convert(&mut stock, node) {
                // Far memory is better than none. Not if a conversion failed: kccd has to pause.
                Err(error @ (GrowError::AtMax | GrowError::NoMemory)) => {
                    self.take_spare(&mut stock, |_| true).ok_or(error)?
                }
                converted => converted?,
            },
        };
        if let Err(error) = self.cut(&mut stock, node, class, spare.base) {
            // There is room: it was on the list, or the list had room for it.
            let _ = stock.spare.push_within_capacity(spare);
            return Err(error);
        }
        self.stats.stock(stock.chunks.len(), stock.spare.len());
        let shared = stock.shared_bytes();
        drop(stock);
        self.note_progress();
        trace::refill(node, class, class.slots_per_span(), shared);
        self.stats.refill(class).add(1);
        Ok(())
    }

    /// Takes the spare span out of stock, of those that are `wanted`, in whose chunk most is in use
    /// already: what is spare as a whole can be given back.
    pub(super) fn take_spare(
        &self,
        stock: &mut Stock,
        wanted: impl Fn(&SpareSpan) -> bool,
    ) -> Option<SpareSpan> {
        let spare = stock.spare.iter().enumerate();
        let (place, _) = spare
            .filter(|(_, it)| !it.awaits_grace() && wanted(it))
            .max_by_key(|(_, it)| self.chunk_users(it.base))?;
        stock.spare.remove(place).ok()
    }

    /// Number of spans with a class in the chunk that `base` lies in.
    pub(super) fn chunk_users(&self, base: Phys) -> usize {
        let start = Phys::new(base.raw() & !(CHUNK_BYTES as u64 - 1));
        (0..SPANS_PER_CHUNK)
            .filter(|index| self.directory.get(start.add(index * SPAN_BYTES)).is_some())
            .count()
    }

    /// Cuts the span at `base` into slots of `class` for `node`.
    pub(super) fn cut(
        &self,
        stock: &mut Stock,
        node: usize,
        class: SizeClass,
        base: Phys,
    ) -> Result<(), GrowError> {
        let depot = self.depot(node).ok_or(GrowError::NoMemory)?;
        // First all that can fail: a span stays for ever once it is made.
        let magazines = Magazine::for_span(class)?;
        depot.make_room(class, magazines.len())?;
        let idle = stock
            .idle
            .get_mut(class.index())
            .ok_or(GrowError::NoMemory)?;
        let span = idle.take(class, base)?;
        span.set_node(node);
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
        let spans = (stock.chunks.len() + 1) * SPANS_PER_CHUNK;
        let more = spans.saturating_sub(stock.spare.len());
        stock.spare.reserve(more, GFP_KERNEL)?;
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
        let chunk = Chunk {
            shared: chunk,
            node,
        };
        // There is room, on either list.
        for base in chunk.spans().skip(1) {
            // INVARIANT: Nobody has ever had a slot in it.
            let _ = stock.spare.push_within_capacity(SpareSpan {
                base,
                node,
                since: None,
            });
        }
        let _ = stock.chunks.push_within_capacity(chunk);
        self.stats.stock(stock.chunks.len(), stock.spare.len());
        // INVARIANT: Nobody has ever had a slot in it.
        Ok(SpareSpan {
            base,
            node,
            since: None,
        })
    }

    /// Number of NUMA nodes that slots are kept for.
    pub(crate) fn nodes(&self) -> usize {
        self.depots.len()
    }

    /// Whether a span of a chunk of `node` has no class, and can be used. To be called by kccd only.
    pub(crate) fn has_spare(&self, node: usize) -> bool {
        let stock = self.stock.lock();
        let mut spare = stock.spare.iter();
        spare.any(|it| it.node == node && !it.awaits_grace())
    }

    /// Spans that have no class. Takes no lock.
    pub(crate) fn spare_spans(&self) -> usize {
        self.stats.spare_spans() as usize
    }

    /// Whether a chunk is spare as a whole. Takes no lock that anybody else holds for long.
    pub(crate) fn has_spare_chunk(&self) -> bool {
        if self.spare_spans() < SPANS_PER_CHUNK {
            return false;
        }
        let stock = self.stock.lock();
        let mut chunks = stock.chunks.iter();
        chunks.any(|chunk| self.chunk_users(chunk.shared.base()) == 0)
    }

    /// Whether there is a spare span that cannot be used yet, but before long. Takes no lock that
    /// anybody else holds for long.
    pub(crate) fn awaits_grace(&self) -> bool {
        if self.spare_spans() == 0 || !self.stock.lock().spare.iter().any(|it| it.awaits_grace()) {
            return false;
        }
        // Where normal and expedited ones overlap, one may end unnoticed: then the next one is.
        GracePeriod::start();
        true
    }

    /// The depot of a node.
    pub(crate) fn depot(&self, node: usize) -> Option<&Depot> {
        self.depots.get(node).map(|depot| &**depot)
    }
}

#[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
#[kunit_tests(cc_swiotlb_stock)]
mod tests {
    use super::*;

    #[test]
    fn after_a_failure_it_takes_longer_and_longer() {
        let mut failures = Stock::new().failures;
        assert!(!failures.too_early());
        for _ in 0..10 {
            failures.note(false);
        }
        // Ten in a row: seconds.
        assert!(failures.too_early());
        failures.note(true);
        assert!(!failures.too_early());
        failures.note(false);
        failures.last = failures
            .last
            .map(|last| last + kernel::time::Delta::from_millis(-20));
        assert!(!failures.too_early());
    }
}

// SPDX-License-Identifier: GPL-2.0

//! What is left of a span that was retired: its memory, and the records of its slots. Both are used
//! again, for other spans, when nobody is still at the old one: see the top of retire.rs.

use super::{
    address::Phys,
    class::SizeClass,
    span::Span, //
};
use crate::glue::grace::GracePeriod;
use kernel::{
    alloc::AllocError,
    prelude::*, //
};

/// A span of shared memory that has no class.
///
/// # Invariants
///
/// There is no slot in it, neither in a magazine nor in use, nor will there be while there is this.
pub(super) struct SpareSpan {
    pub(super) base: Phys,
    pub(super) node: usize,
    /// Since it left the directory; [`None`] if it never was in it.
    pub(super) since: Option<GracePeriod>,
}

impl SpareSpan {
    /// Whether somebody who has found it in the directory may still be at it: see the top of
    /// retire.rs.
    pub(super) fn awaits_grace(&self) -> bool {
        self.since.is_some_and(|since| !since.is_over())
    }
}

/// The spans of one class that were retired, to be bound to other memory.
///
/// # Invariants
///
/// There is room for all spans of the class that were ever made.
pub(super) struct IdleSpans {
    spans: KVec<(&'static Span, GracePeriod)>,
    made: usize,
}

impl IdleSpans {
    /// None.
    pub(super) const fn new() -> Self {
        Self {
            spans: KVec::new(),
            made: 0,
        }
    }

    /// A span of `class` at `base`: one that idles, or a new one.
    ///
    /// May sleep.
    pub(super) fn take(
        &mut self,
        class: SizeClass,
        base: Phys,
    ) -> Result<&'static Span, AllocError> {
        let usable = self.spans.iter().position(|(_, since)| since.is_over());
        if let Some(Ok((span, _))) = usable.map(|place| self.spans.remove(place)) {
            span.rebind(base);
            return Ok(span);
        }
        let more = (self.made + 1).saturating_sub(self.spans.len());
        self.spans.reserve(more, GFP_KERNEL)?;
        let span = Span::new(class, base)?;
        // INVARIANT: Just made room for it.
        self.made += 1;
        Ok(span)
    }

    /// Keeps a span that was retired, and left the directory when `since` began.
    pub(super) fn put(&mut self, span: &'static Span, since: GracePeriod) {
        // There is room by the type invariant.
        let _ = self.spans.push_within_capacity((span, since));
    }
}

#[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
#[kunit_tests(cc_swiotlb_spare)]
pub(super) mod tests {
    use super::*;
    use crate::{
        glue::{
            grace::GraceWatch,
            thread::{
                Thread,
                Work, //
            }, //
        },
        pool::{
            class::{
                CLASSES,
                SPANS_PER_CHUNK, //
            },
            Pool, //
        }, //
    };
    use kernel::{
        cpu::nr_cpu_ids,
        processor::cpu_relax,
        sync::{
            atomic::{
                Atomic,
                Relaxed, //
            },
            rcu, //
        },
        time::{
            msecs_to_jiffies,
            Instant,
            Monotonic, //
        },
    };

    /// Waits until what was retired can be used.
    pub(crate) fn pass_grace(pool: &Pool) {
        for _ in 0..10_000 {
            if !pool.awaits_grace() {
                return;
            }
            pool.doorbell.pause(msecs_to_jiffies(1));
        }
    }

    /// A thread that is in an RCU read section until it is stopped, on a CPU of its own: it spins.
    struct Reader {
        reading: Atomic<u32>,
    }

    impl Work for Reader {
        fn run(&'static self) {
            let begun = Instant::<Monotonic>::now();
            let reader = rcu::read_lock();
            self.reading.store(1, Relaxed);
            while self.reading.load(Relaxed) == 1 && begun.elapsed().as_millis() < 5000 {
                cpu_relax();
            }
            self.reading.store(2, Relaxed);
            drop(reader);
        }

        fn stop(&self) {
            self.reading.store(2, Relaxed);
        }
    }

    #[test]
    fn nothing_is_used_again_while_somebody_may_be_at_it() -> Result {
        let class = SizeClass::for_bytes(65536).ok_or(ERANGE)?;
        let pool = crate::glue::leak(KBox::pin_init(Pool::new(), GFP_KERNEL)?);
        for _ in 0..SPANS_PER_CHUNK {
            pool.grow(class, 0).map_err(|_| ENOMEM)?;
        }
        let mut bases = KVec::new();
        for base in pool.stock.lock().chunks.iter().flat_map(|it| it.spans()) {
            bases.push(base, GFP_KERNEL)?;
        }
        let idle = || {
            let stock = pool.stock.lock();
            stock.idle.get(class.index()).map(|idle| idle.spans.len())
        };

        let reader = crate::glue::leak(KBox::into_pin(KBox::new(
            Reader {
                reading: Atomic::new(0),
            },
            GFP_KERNEL,
        )?));
        let thread = Thread::spawn(c"kccd_test", reader)?;
        let watch = GraceWatch::new();
        while reader.reading.load(Relaxed) == 0 {
            pool.doorbell.pause(msecs_to_jiffies(1));
        }
        assert!(pool.retire(0, &[1; CLASSES]));
        let gone = bases.iter().find(|base| !pool.owns(**base));
        let gone = *gone.ok_or(ENOENT)?;
        // Longer than a grace period takes that nobody holds up.
        pool.doorbell.pause(msecs_to_jiffies(200));
        if nr_cpu_ids() == 1 {
            // It had the only CPU, and is through: there is nothing to see here.
            kernel::pr_warn!("one CPU: not tested while somebody reads\n");
            return Ok(());
        }
        assert!(pool.awaits_grace());
        assert!(watch.is_held_up(100));
        // So it is other memory, with other records.
        pool.grow(class, 0).map_err(|_| ENOMEM)?;
        assert!(!pool.owns(gone));
        assert_eq!(pool.stock.lock().chunks.len(), 2);
        assert_eq!(idle(), Some(1));

        thread.stop();
        pass_grace(pool);
        let over = (0..1000).any(|_| {
            pool.doorbell.pause(msecs_to_jiffies(1));
            !watch.is_held_up(100)
        });
        assert!(over);
        pool.grow(class, 0).map_err(|_| ENOMEM)?;
        assert!(pool.owns(gone));
        assert_eq!(idle(), Some(0));
        Ok(())
    }
}

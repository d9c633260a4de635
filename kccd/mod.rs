// SPDX-License-Identifier: GPL-2.0

//! kccd: the kernel thread that converts memory, so that no mapping ever has to.
//!
//! It keeps each class above its watermark, on each NUMA node: one span at a time, the class that
//! is worst off first, and never a span more than the watermark needs. What it cannot do now it
//! tries again, with growing pauses: a failed allocation or conversion does not make it spin. When
//! there is enough it gives back what idles.
//!
//! [`policy`] decides, in plain numbers; this file and [`giveback`] carry out.

pub(crate) mod doorbell;
mod giveback;
pub(crate) mod policy;
pub(crate) mod watermark;

use crate::{
    glue::{
        self,
        thread::Work, //
    },
    pool::{
        class::{
            SizeClass,
            CLASSES, //
        },
        GrowError,
        Pool, //
    },
};
use doorbell::Wake;
use giveback::{
    Cause,
    Keeper, //
};
use kernel::{
    prelude::*,
    time::msecs_to_jiffies, //
};
use policy::Level;

/// The thread's name.
pub(crate) const NAME: &CStr = c"kccd";

/// How a round of growing ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Round {
    /// Every class is above its watermark.
    Enough,
    /// Something failed; try again after a pause.
    Failed(GrowError),
    /// The thread has to stop.
    Stopped,
}

impl Work for Pool {
    fn run(&'static self) {
        glue::no_io();
        let mut failures = 0;
        let mut keeper = Keeper::new();
        loop {
            let failed = match self.grow_to_watermarks() {
                Round::Enough => None,
                Round::Failed(error) => Some(error),
                Round::Stopped => return,
            };
            let cause = match failed {
                Some(_) => Cause::Growth,
                None if self.doorbell.take_pressed() => Cause::Pressure,
                None => Cause::Idle,
            };
            let outcome = keeper.round(self, cause);
            let again = outcome.again_ms.map(msecs_to_jiffies);
            let wake = match failed {
                None => {
                    failures = 0;
                    self.doorbell.wait(again)
                }
                // There will be a span for the class that could not grow.
                Some(error) if outcome.retired => {
                    failures += u32::from(error != GrowError::AtMax);
                    self.pass_grace()
                }
                Some(GrowError::AtMax) => {
                    // Only an unmap can help, or a new cap. Not at once: each mapping would wake us.
                    failures = 0;
                    match self
                        .doorbell
                        .pause(msecs_to_jiffies(policy::AT_MAX_PAUSE_MS))
                    {
                        Wake::Work => self.doorbell.wait(again),
                        Wake::Stop => Wake::Stop,
                    }
                }
                Some(GrowError::NoMemory | GrowError::Conversion) => {
                    failures += 1;
                    let pause = policy::pause_ms(failures);
                    self.doorbell.pause(msecs_to_jiffies(pause))
                }
            };
            if wake == Wake::Stop {
                return;
            }
        }
    }

    fn stop(&self) {
        self.doorbell.stop();
    }
}

impl Pool {
    /// Pauses until what was retired can be used: nobody shall wait for that in an RCU read section.
    /// For a second at most: if somebody else holds it up there may be other ways by then.
    fn pass_grace(&self) -> Wake {
        let pause = msecs_to_jiffies(policy::GRACE_PAUSE_MS);
        for _ in 0..1000 / policy::GRACE_PAUSE_MS {
            let wake = self.doorbell.pause(pause);
            if wake == Wake::Stop || !self.awaits_grace() {
                return wake;
            }
        }
        Wake::Work
    }

    /// Grows until every class is above its watermark on every node.
    ///
    /// May sleep. To be called by kccd, and once before it is started.
    pub(crate) fn grow_to_watermarks(&self) -> Round {
        self.apply_levels(false);
        let round = self.grow_all(|class, node| self.grow(class, node));
        for depot in (0..self.nodes()).filter_map(|node| self.depot(node)) {
            for class in SizeClass::all() {
                depot.note_dry(class, false);
                depot.note_failed(class, false);
            }
        }
        round
    }

    /// Makes span after span with `grow`, as long as there is a class that lacks one and could have
    /// it. What fails is not tried again; what fails elsewhere is no reason to go without.
    fn grow_all(&self, grow: impl Fn(SizeClass, usize) -> Result<(), GrowError>) -> Round {
        let (mut failed, mut no_chunks) = (None, false);
        loop {
            if self.doorbell.stopped() {
                return Round::Stopped;
            }
            let Some((node, class)) = self.worst_off(no_chunks) else {
                return failed.map_or(Round::Enough, Round::Failed);
            };
            let Err(error) = grow(class, node) else {
                continue;
            };
            if let Some(depot) = self.depot(node) {
                depot.note_failed(class, true);
            }
            // The cap is for all nodes, and the host that refuses a conversion is the same.
            no_chunks |= error != GrowError::NoMemory;
            failed = failed.max(Some(error));
        }
    }

    /// The class that is furthest below its watermark, and the node where it is, of those that have
    /// not failed. If there are `no_chunks`, and on nodes where another class has failed, only what
    /// the node has spare counts.
    fn worst_off(&self, no_chunks: bool) -> Option<(usize, SizeClass)> {
        (0..self.nodes())
            .filter_map(|node| {
                let depot = self.depot(node)?;
                let failed = |class| depot.has_failed(class);
                if (no_chunks || SizeClass::all().any(failed)) && !self.has_spare(node) {
                    return None;
                }
                let mut levels = [Level::default(); CLASSES];
                for (level, class) in levels.iter_mut().zip(SizeClass::all()) {
                    if failed(class) {
                        continue;
                    }
                    level.ready = depot.free(class);
                    level.watermark = policy::wanted(depot.low(class), depot.is_dry(class));
                }
                policy::worst_off(&levels).map(|(class, missing)| (missing, node, class))
            })
            .max_by_key(|(missing, _, _)| *missing)
            .map(|(_, node, class)| (node, class))
    }
}

#[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
#[kunit_tests(cc_swiotlb_kccd)]
mod tests {
    use super::*;
    use crate::pool::{
        class::SPANS_PER_CHUNK,
        gauge::Levels, //
    };
    use core::cell::Cell;

    /// Wants `spans` spans of `class` on `node`.
    fn want(pool: &Pool, class: SizeClass, node: usize, spans: usize) -> Result {
        let levels = Levels {
            low: (spans * class.slots_per_span()) as u32,
            high: u32::MAX,
            reserve: 0,
        };
        let depot = pool.depot(node).ok_or(ENOENT)?;
        depot.set_levels(class, levels);
        Ok(())
    }

    #[test]
    fn what_fails_does_not_keep_others_from_growing() -> Result {
        use GrowError::*;
        let small = SizeClass::new(2).ok_or(ERANGE)?;
        let large = SizeClass::new(9).ok_or(ERANGE)?;
        // What node 0 meets, the spans that node 1 has in a chunk of its own, and whether it gets
        // the one more that it wants.
        for (error, spans, grown) in [
            (NoMemory, SPANS_PER_CHUNK, true),
            (NoMemory, SPANS_PER_CHUNK - 1, true),
            (AtMax, SPANS_PER_CHUNK, false),
            (AtMax, SPANS_PER_CHUNK - 1, true),
            (Conversion, SPANS_PER_CHUNK, false),
            (Conversion, SPANS_PER_CHUNK - 1, true),
        ] {
            let pool = crate::glue::leak(KBox::pin_init(Pool::with_nodes(2), GFP_KERNEL)?);
            for _ in 0..spans {
                pool.grow(small, 1).map_err(|_| ENOMEM)?;
            }
            // Node 0 is worse off.
            want(pool, small, 0, 1)?;
            want(pool, large, 0, 1)?;
            want(pool, small, 1, spans + 1)?;
            let tries = Cell::new(0);
            let round = pool.grow_all(|class, node| {
                if node == 1 {
                    return pool.grow(class, node);
                }
                tries.set(tries.get() + 1);
                Err(error)
            });
            assert!(round == Round::Failed(error) && tries.get() == 1);
            let depot = pool.depot(1).ok_or(ENOENT)?;
            let had = spans + usize::from(grown);
            assert_eq!(depot.free(small) as usize, had * small.slots_per_span());
        }
        Ok(())
    }

    #[test]
    fn a_class_without_records_leaves_the_spare_spans_to_others() -> Result {
        let small = SizeClass::new(2).ok_or(ERANGE)?;
        let large = SizeClass::new(9).ok_or(ERANGE)?;
        let pool = crate::glue::leak(KBox::pin_init(Pool::with_nodes(1), GFP_KERNEL)?);
        // Leaves some of the chunk.
        pool.grow(large, 0).map_err(|_| ENOMEM)?;
        want(pool, small, 0, 1)?;
        want(pool, large, 0, 2)?;
        let round = pool.grow_all(|class, node| match class == small {
            true => Err(GrowError::NoMemory),
            false => pool.grow(class, node),
        });
        assert!(round == Round::Failed(GrowError::NoMemory));
        assert_eq!(pool.depot(0).ok_or(ENOENT)?.free(large), 2);
        Ok(())
    }
}

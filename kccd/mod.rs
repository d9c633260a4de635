// SPDX-License-Identifier: GPL-2.0

//! kccd: the kernel thread that converts memory, so that no mapping ever has to.
//!
//! It keeps each class above its watermark, on each NUMA node: one span at a time, the class that
//! is worst off first, and never a span more than the watermark needs. What it cannot do now it
//! tries again, with growing pauses: a failed allocation or conversion does not make it spin.
//!
//! [`policy`] decides, in plain numbers; this file carries out.

pub(crate) mod doorbell;
pub(crate) mod policy;
pub(crate) mod watermark;

use crate::{
    glue::{
        memory,
        thread::Work, //
    },
    params,
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
        let mut failures = 0;
        loop {
            let wake = match self.grow_to_watermarks() {
                Round::Enough => {
                    failures = 0;
                    self.doorbell.wait()
                }
                Round::Failed(GrowError::AtMax) => {
                    // Only an unmap can help, or a new cap. Not at once: each mapping would wake us.
                    failures = 0;
                    match self
                        .doorbell
                        .pause(msecs_to_jiffies(policy::AT_MAX_PAUSE_MS))
                    {
                        Wake::Work => self.doorbell.wait(),
                        Wake::Stop => Wake::Stop,
                    }
                }
                Round::Failed(GrowError::NoMemory | GrowError::Conversion) => {
                    failures += 1;
                    let pause = policy::pause_ms(failures);
                    self.doorbell.pause(msecs_to_jiffies(pause))
                }
                Round::Stopped => return,
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
    /// Grows until every class is above its watermark on every node.
    ///
    /// May sleep. To be called by kccd, and once before it is started.
    pub(crate) fn grow_to_watermarks(&self) -> Round {
        self.apply_watermarks();
        loop {
            if self.doorbell.stopped() {
                return Round::Stopped;
            }
            let Some((node, class)) = self.worst_off() else {
                return Round::Enough;
            };
            if let Err(error) = self.grow(class, node) {
                return Round::Failed(error);
            }
        }
    }

    /// Tells the depots when to ring, and what to hold back.
    fn apply_watermarks(&self) {
        let watermarks = params::watermark();
        for node in 0..self.nodes() {
            for class in SizeClass::all() {
                let level = self.level(node, watermarks.slots(class));
                self.set_levels(node, class, level, policy::reserve(level));
            }
        }
    }

    /// The share of one node of a watermark: only nodes with CPUs have one.
    fn level(&self, node: usize, watermark: u32) -> u32 {
        let sharers = (0..self.nodes()).filter(|node| memory::node_has_cpus(*node));
        if memory::node_has_cpus(node) {
            policy::level(watermark, sharers.count())
        } else {
            0
        }
    }

    /// The class that is furthest below its watermark, and the node where it is.
    fn worst_off(&self) -> Option<(usize, SizeClass)> {
        let watermarks = params::watermark();
        (0..self.nodes())
            .filter_map(|node| {
                let mut levels = [Level::default(); CLASSES];
                for (level, class) in levels.iter_mut().zip(SizeClass::all()) {
                    level.ready = self.ready(node, class);
                    level.watermark = self.level(node, watermarks.slots(class));
                }
                policy::worst_off(&levels).map(|(class, missing)| (missing, node, class))
            })
            .max_by_key(|(missing, _, _)| *missing)
            .map(|(_, node, class)| (node, class))
    }
}

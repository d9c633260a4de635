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
    glue::thread::Work,
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
                // There will be a span for the class that could not grow. Nobody shall wait for it
                // in an RCU read section.
                Some(_) if outcome.retired => self
                    .doorbell
                    .pause(msecs_to_jiffies(policy::GRACE_PAUSE_MS)),
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
    /// Grows until every class is above its watermark on every node.
    ///
    /// May sleep. To be called by kccd, and once before it is started.
    pub(crate) fn grow_to_watermarks(&self) -> Round {
        self.apply_levels(false);
        let round = loop {
            if self.doorbell.stopped() {
                break Round::Stopped;
            }
            let Some((node, class)) = self.worst_off() else {
                break Round::Enough;
            };
            if let Err(error) = self.grow(class, node) {
                break Round::Failed(error);
            }
        };
        for depot in (0..self.nodes()).filter_map(|node| self.depot(node)) {
            for class in SizeClass::all() {
                depot.note_dry(class, false);
            }
        }
        round
    }

    /// The class that is furthest below its watermark, and the node where it is.
    fn worst_off(&self) -> Option<(usize, SizeClass)> {
        let watermarks = params::watermark();
        (0..self.nodes())
            .filter_map(|node| {
                let depot = self.depot(node)?;
                let mut levels = [Level::default(); CLASSES];
                for (level, class) in levels.iter_mut().zip(SizeClass::all()) {
                    level.ready = depot.free(class);
                    let watermark = self.level(node, watermarks.slots(class));
                    level.watermark = policy::wanted(watermark, depot.is_dry(class));
                }
                policy::worst_off(&levels).map(|(class, missing)| (missing, node, class))
            })
            .max_by_key(|(missing, _, _)| *missing)
            .map(|(_, node, class)| (node, class))
    }
}

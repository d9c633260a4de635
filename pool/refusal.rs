// SPDX-License-Identifier: GPL-2.0

//! Messages about refused mappings: a line once in a while that says the class, the reason, how
//! many mappings were refused, and which parameter helps.

use super::{
    class::SizeClass,
    request::Request,
    stats::Counter,
    NotMade,
    Pool, //
};
use crate::{
    glue::memory,
    trace, //
};
use kernel::prelude::*;

/// The shortest time between two lines in the log, in milliseconds.
const QUIET_MS: u64 = 5000;

/// An obstacle that keeps kccd from making more slots, other than the time that it takes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Obstacle {
    /// `cc_swiotlb.max=` is reached.
    AtMax,
    /// No private memory for a chunk or its records.
    NoMemory,
    /// The host refuses to convert memory.
    Host,
}

/// The reason and the remedy: first where only time is in the way, then for each obstacle.
const TEXTS: [&str; 4] = [
    "kccd is still converting memory; a larger cc_swiotlb.watermark= keeps more ready",
    "cc_swiotlb.max= is reached; a larger cc_swiotlb.max= allows more",
    "there is no memory to convert; a larger cc_swiotlb.watermark= takes it while there is some",
    "the host refuses to convert memory; no parameter helps, look at the host",
];

/// The same reasons as words in sysfs. The first one says that nothing was refused yet, the last
/// one that no slot holds the mapping.
const REASONS: [&str; 6] = ["none", "slow", "max", "memory", "host", "oversize"];
const OVERSIZE: u64 = REASONS.len() as u64 - 1;

/// Refused mappings, and the messages about them.
#[derive(Default)]
pub(crate) struct Refusals {
    pub(crate) count: Counter,
    /// How many there were since the last line, and when that was.
    untold: Counter,
    told_ms: Counter,
    /// The index in [`TEXTS`] for the obstacle, 0 if there is none.
    obstacle: Counter,
    /// The index in [`REASONS`] for the mapping that was refused last.
    reason: Counter,
}

impl Refusals {
    /// The obstacle that keeps kccd from making more slots, in words.
    pub(crate) fn obstacle(&self) -> Option<&'static str> {
        (self.obstacle.get() > 0).then(|| self.text())
    }

    /// Sets the obstacle; to be called by kccd.
    pub(crate) fn set_obstacle(&self, obstacle: Option<Obstacle>) {
        let place = obstacle.map_or(0, |obstacle| obstacle as u64 + 1);
        self.obstacle.set(place);
    }

    /// The reason why the last mapping was refused, in a word.
    pub(super) fn reason(&self) -> &'static str {
        REASONS[self.reason.get() as usize % REASONS.len()]
    }

    /// Counts a refused mapping. If it `fits` a slot, none was free.
    fn note(&self, fits: bool) {
        let place = match fits {
            true => self.obstacle.get() + 1,
            false => OVERSIZE,
        };
        self.reason.set(place);
        self.count.add(1);
        self.untold.add(1);
    }

    fn text(&self) -> &'static str {
        TEXTS[self.obstacle.get() as usize % TEXTS.len()]
    }

    /// How many were refused since the last line, if there should be a line now.
    fn to_tell(&self, now_ms: u64) -> Option<u64> {
        let told_ms = self.told_ms.get();
        let is_due = told_ms == 0 || now_ms.saturating_sub(told_ms) >= QUIET_MS;
        // Only one of several CPUs prints it.
        let tells = is_due && self.told_ms.replace(told_ms, now_ms.max(1));
        tells.then(|| self.untold.take())
    }
}

impl Pool {
    /// Refuses a mapping that nobody can serve: counts and reports it. Without a class, no slot
    /// holds it.
    #[cold]
    #[inline(never)]
    pub(super) fn refuse(&self, request: &Request<'_>, class: Option<SizeClass>) -> NotMade {
        let (dev, size) = (request.dev, request.size);
        trace::refused(dev, size);
        if let Some(class) = class {
            self.stats.classes[class].refused.add(1);
        }
        self.refusals.note(class.is_some());
        let why = self.refusals.text();
        let to_tell = || self.refusals.to_tell(memory::now_ms());
        match ((!request.quiet).then(to_tell).flatten(), class) {
            (Some(count), Some(class)) => dev_warn!(
                dev.device(),
                "cc_swiotlb: {count} mappings refused since the last message, this one of {size} \
                 bytes for want of slots of {}: {why}\n",
                class.name()
            ),
            (Some(_), None) => dev_warn!(
                dev.device(),
                "cc_swiotlb: a mapping of {size} bytes refused: it fits no slot at its alignment\n"
            ),
            (None, _) => (),
        }
        NotMade::Refused
    }
}

#[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
#[kunit_tests(cc_swiotlb_refusal)]
mod tests {
    use super::*;

    #[test]
    fn one_line_at_a_time_counts_all_since_the_last() {
        let refusals = Refusals::default();
        // Refused since the last look, milliseconds since boot, the number in the line.
        for (refused, now_ms, told) in [
            (1, 0, Some(1)),
            (1, 1, None),
            (7, QUIET_MS, None),
            (2, 1 + QUIET_MS, Some(10)),
            (1, 2 + QUIET_MS, None),
            (0, 2 * QUIET_MS, None),
            (4, 1 << 40, Some(5)),
        ] {
            (0..refused).for_each(|_| refusals.note(true));
            assert_eq!(refusals.to_tell(now_ms), told);
        }
        assert_eq!(refusals.count.get(), 16);
    }

    #[test]
    fn obstacle_is_the_last_one_noted() {
        let refusals = Refusals::default();
        assert_eq!(refusals.obstacle(), None);
        for (obstacle, word) in [
            (Obstacle::AtMax, "cc_swiotlb.max="),
            (Obstacle::NoMemory, "there is no memory"),
            (Obstacle::Host, "the host"),
        ] {
            refusals.set_obstacle(Some(obstacle));
            assert!(refusals.obstacle().is_some_and(|why| why.starts_with(word)));
        }
        refusals.set_obstacle(None);
        assert_eq!(refusals.obstacle(), None);
    }

    #[test]
    fn reason_is_that_of_the_last_one_refused() {
        let refusals = Refusals::default();
        assert_eq!(refusals.reason(), "none");
        for (obstacle, fits, reason) in [
            (None, true, "slow"),
            (Some(Obstacle::AtMax), true, "max"),
            (Some(Obstacle::NoMemory), true, "memory"),
            (Some(Obstacle::Host), true, "host"),
            (Some(Obstacle::Host), false, "oversize"),
        ] {
            refusals.set_obstacle(obstacle);
            refusals.note(fits);
            assert_eq!(refusals.reason(), reason);
        }
        assert_eq!(refusals.count.get(), 5);
    }

    #[test]
    fn each_obstacle_names_cause_and_remedy() -> Result {
        let refusals = Refusals::default();
        let mut seen = KVec::new();
        for (obstacle, remedy) in [
            (None, "a larger cc_swiotlb.watermark="),
            (Some(Obstacle::AtMax), "a larger cc_swiotlb.max="),
            (Some(Obstacle::NoMemory), "a larger cc_swiotlb.watermark="),
            (Some(Obstacle::Host), "no parameter helps"),
        ] {
            refusals.set_obstacle(obstacle);
            let (why, help) = refusals.text().split_once("; ").ok_or(EINVAL)?;
            assert!(!why.is_empty() && help.starts_with(remedy));
            assert!(!seen.contains(&why));
            seen.push(why, GFP_KERNEL)?;
        }
        Ok(())
    }
}

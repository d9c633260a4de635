// SPDX-License-Identifier: GPL-2.0

//! How much to keep ready, what to give back, and when: pure functions over plain numbers.

use crate::pool::class::{
    SizeClass,
    CLASSES, //
};
#[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
use kernel::prelude::*;

/// How a class stands on one node, in slots.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Level {
    /// Slots in the depot.
    pub(crate) ready: u32,
    /// Slots that should be there.
    pub(crate) watermark: u32,
}

impl Level {
    /// What is missing, in thousandths of the watermark; 0 at and above it.
    fn missing(self) -> u32 {
        let missing = u64::from(self.watermark.saturating_sub(self.ready));
        // At least 1 where anything is missing: below a thousandth counts as well.
        (missing * 1000).div_ceil(u64::from(self.watermark.max(1))) as u32
    }
}

/// The watermark of one node, when `watermark` slots are to be ready on `nodes` nodes.
pub(crate) fn level(watermark: u32, nodes: usize) -> u32 {
    watermark.div_ceil((nodes as u32).max(1))
}

/// How many of `level` slots are held back for when kccd is outrun: an eighth.
pub(crate) fn reserve(level: u32) -> u32 {
    level / 8
}

/// The class that most is missing of, and how much in thousandths of its watermark.
///
/// Among equals the largest class: it can help all others, and none of them can help it. [`None`] if
/// nothing is missing.
pub(crate) fn worst_off(levels: &[Level; CLASSES]) -> Option<(SizeClass, u32)> {
    SizeClass::all()
        .zip(levels)
        .map(|(class, level)| (class, level.missing()))
        .filter(|(_, missing)| *missing > 0)
        .reduce(|worst, next| if next.1 >= worst.1 { next } else { worst })
}

/// How long nobody can wake kccd when the cap is reached, in milliseconds.
pub(crate) const AT_MAX_PAUSE_MS: u32 = 200;

/// How long to pause where all that is missing is the end of a grace period of RCU, in milliseconds.
pub(crate) const GRACE_PAUSE_MS: u32 = 10;

/// How long to wait after `failures` failures in a row, in milliseconds: 10, doubled with each
/// failure, up to 10,000.
pub(crate) fn pause_ms(failures: u32) -> u32 {
    const FIRST: u32 = 10;
    const LAST: u32 = 10_000;
    let doublings = failures.saturating_sub(1).min(10);
    (FIRST << doublings).min(LAST)
}

/// How many slots to make ready of a class: its watermark, or twice that if a mapping has found
/// none of it. What runs dry once is going to do so again before long.
pub(crate) fn wanted(watermark: u32, is_dry: bool) -> u32 {
    watermark.saturating_mul(1 + u32::from(is_dry))
}

/// Windows of time in which demand is measured. Together they are the idle time.
pub(crate) const WINDOWS: usize = 8;

/// How long a window is, where `idle_ms` is the idle time.
pub(crate) fn window_ms(idle_ms: u32) -> u32 {
    (idle_ms / WINDOWS as u32).max(1)
}

/// For how long what idles is given back, so that all of it is within twice the idle time: a peak is
/// remembered for the idle time and a window at most, and two windows are left to move together
/// what is scattered.
pub(crate) fn giveback_ms(idle_ms: u32) -> u32 {
    idle_ms / 8 * 5
}

/// The shortest pause between two steps, in milliseconds.
pub(crate) fn shortest_pause_ms(window_ms: u32) -> u32 {
    (window_ms / 16).max(1)
}

/// How many of its spans a class can do without that has `slots` slots, `per_span` in a span.
///
/// What stays is the watermark on top of `demand`, the most that was out of the depot at any time in
/// the windows. That is what would have been made for it, so that nothing is given back that has to
/// be converted again unless the load grows beyond what it was. The last span stays: what drivers
/// were told of the largest mapping has to remain true.
pub(crate) fn surplus_spans(slots: u32, demand: u32, watermark: u32, per_span: u32) -> u32 {
    let per_span = per_span.max(1);
    let needed = demand.saturating_add(watermark).div_ceil(per_span).max(1);
    (slots / per_span).saturating_sub(needed)
}

/// The number of slots in the depot from which on a class has a span too many.
pub(crate) fn high(watermark: u32, per_span: u32) -> u32 {
    watermark.max(1).saturating_add(per_span)
}

/// How many spans to give back now, and for how long to pause then, in milliseconds: so that
/// `surplus` spans are gone in `left_ms`, evenly.
pub(crate) fn pace(surplus: u32, left_ms: u32, window_ms: u32) -> (u32, u32) {
    let longest = window_ms.max(1);
    let shortest = shortest_pause_ms(window_ms);
    let pause_ms = (left_ms / surplus.max(1)).min(longest).max(shortest);
    let rounds = left_ms
        .checked_div(pause_ms)
        .map_or(1, |rounds| rounds.max(1));
    (surplus.div_ceil(rounds), pause_ms)
}

#[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
#[kunit_tests(cc_swiotlb_policy)]
mod tests {
    use super::*;

    /// The class that is chosen, by index, for classes with `(ready, watermark)`.
    fn chosen(given: &[(u32, u32)]) -> Option<usize> {
        let mut levels = [Level::default(); CLASSES];
        for (level, (ready, watermark)) in levels.iter_mut().zip(given) {
            level.ready = *ready;
            level.watermark = *watermark;
        }
        worst_off(&levels).map(|(class, _)| class.index())
    }

    #[test]
    fn grows_only_below_the_watermark() {
        assert_eq!(chosen(&[]), None);
        assert_eq!(chosen(&[(10, 10), (11, 10), (5, 0)]), None);
        assert_eq!(chosen(&[(10, 10), (9, 10)]), Some(1));
        assert_eq!(chosen(&[(9999, 10000)]), Some(0));
    }

    #[test]
    fn the_emptiest_class_comes_first() {
        assert_eq!(chosen(&[(5, 10), (1, 4), (90, 100)]), Some(1));
        assert_eq!(chosen(&[(0, 1), (0, 1000), (1, 2)]), Some(1));
        assert_eq!(chosen(&[(u32::MAX, 1), (0, u32::MAX)]), Some(1));
    }

    #[test]
    fn growing_ends_less_than_a_span_above_the_watermark() {
        for class in SizeClass::all() {
            let per_span = class.slots_per_span() as u32;
            for watermark in [1, per_span - 1, per_span, per_span + 1, 5 * per_span + 3] {
                let mut levels = [Level::default(); CLASSES];
                let mut ready = 0;
                loop {
                    levels[class.index()] = Level { ready, watermark };
                    if worst_off(&levels).is_none() {
                        break;
                    }
                    ready += per_span;
                }
                assert!(ready >= watermark && ready - watermark < per_span);
            }
        }
    }

    #[test]
    fn nodes_share_a_watermark() {
        assert_eq!(level(100, 1), 100);
        assert_eq!(level(100, 3), 34);
        assert_eq!(level(0, 4), 0);
        assert_eq!(level(7, 0), 7);
    }

    #[test]
    fn pauses_grow_to_an_end() {
        let mut last = 0;
        for failures in 1..100 {
            let pause = pause_ms(failures);
            assert!(pause >= last && pause <= 10_000);
            last = pause;
        }
        assert_eq!(last, 10_000);
        assert_eq!(pause_ms(1), 10);
        assert_eq!(pause_ms(0), 10);
    }

    #[test]
    fn what_ran_dry_gets_twice_as_much() {
        assert_eq!(wanted(100, false), 100);
        assert_eq!(wanted(100, true), 200);
        assert_eq!(wanted(0, true), 0);
        assert_eq!(wanted(u32::MAX, true), u32::MAX);
    }

    #[test]
    fn surplus_is_above_watermark_and_demand_by_whole_spans() {
        // Slots, most in use, watermark, slots in a span; spans too many.
        for (slots, demand, watermark, per_span, surplus) in [
            (1280, 0, 1280, 128, 0),
            (1280, 0, 1153, 128, 0),
            (1280, 0, 1152, 128, 1),
            (1280, 1, 1152, 128, 0),
            (1280, 128, 1024, 128, 1),
            (1280, 1280, 0, 128, 0),
            (1280, 0, 0, 128, 9),
            (128, 0, 0, 128, 0),
            (0, 0, 100, 128, 0),
            (0, 0, 0, 128, 0),
            (29, 0, 28, 1, 1),
            (28, 0, 28, 1, 0),
            (u32::MAX, u32::MAX, u32::MAX, 1, 0),
        ] {
            assert_eq!(surplus_spans(slots, demand, watermark, per_span), surplus);
        }
    }

    #[test]
    fn what_is_grown_is_no_surplus_and_what_is_left_need_not_grow() {
        for class in SizeClass::all() {
            let per_span = class.slots_per_span() as u32;
            for watermark in [1, per_span, 3 * per_span + 1] {
                for used in [0, 1, per_span, 5 * per_span - 1] {
                    // As many as growing makes.
                    let slots = (used + watermark).next_multiple_of(per_span);
                    assert_eq!(surplus_spans(slots, used, watermark, per_span), 0);
                    // After a load of 40 spans more.
                    let slots = slots + 40 * per_span;
                    let spans = surplus_spans(slots, used, watermark, per_span);
                    assert_eq!(spans, 40);
                    assert!(slots - used >= high(watermark, per_span));
                    let ready = slots - spans * per_span - used;
                    assert!(ready >= watermark && ready < high(watermark, per_span));
                }
            }
        }
    }

    #[test]
    fn all_is_given_back_in_time_and_not_at_once() {
        for idle_ms in [100, 400, 10_000, 3_600_000] {
            let (window, total) = (window_ms(idle_ms), giveback_ms(idle_ms));
            assert!((WINDOWS as u32 + 3) * window + total <= 2 * idle_ms);
            for surplus in [1u32, 2, 13, 320, 100_000] {
                let (mut left, mut spent) = (surplus, 0);
                while left > 0 {
                    let (spans, pause) = pace(left, total.saturating_sub(spent), window);
                    assert!(spans > 0 && spans <= left && pause > 0 && pause <= window.max(1));
                    assert!(spans <= surplus.div_ceil(4));
                    left -= spans;
                    spent += pause;
                }
                assert!(spent <= total + window);
            }
        }
        // The time is over: all that is left.
        assert_eq!(pace(7, 0, 100).0, 7);
    }
}

// SPDX-License-Identifier: GPL-2.0

//! How much to keep ready, and when to try again: pure functions over plain numbers.

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

/// How long to wait after `failures` failures in a row, in milliseconds: 10, doubled with each
/// failure, up to 10,000.
pub(crate) fn pause_ms(failures: u32) -> u32 {
    const FIRST: u32 = 10;
    const LAST: u32 = 10_000;
    let doublings = failures.saturating_sub(1).min(10);
    (FIRST << doublings).min(LAST)
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
}

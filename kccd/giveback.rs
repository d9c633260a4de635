// SPDX-License-Identifier: GPL-2.0

//! What kccd does when there is enough: it gives back what idles, a little at a time.
//!
//! Demand is measured in windows of time. While there is anything that may turn out to be too much,
//! kccd looks once in a window, and has the CPUs that were active return what they hold, which would
//! be in the way. Otherwise it sleeps, until a depot gets low, or high: a CPU that leaves a magazine
//! there tells it so.

use super::policy;
use crate::{
    glue::memory,
    params,
    pool::{
        class::{
            SizeClass,
            CLASSES,
            SPANS_PER_CHUNK,
            SPAN_BYTES, //
        },
        gauge::Levels,
        Pool, //
    },
};
use kernel::{
    page::PAGE_SIZE,
    time::{
        Delta,
        Instant,
        Monotonic, //
    },
};

/// Why something is given back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cause {
    /// It idles.
    Idle,
    /// Memory is short: all that is not needed now, at once.
    Pressure,
    /// A class could not grow: spans for it that others do not need now.
    Growth,
}

/// What came of it.
pub(super) struct Outcome {
    /// A span was retired, by this or by an earlier round, and can be used before long.
    pub(super) retired: bool,
    /// In how many milliseconds to look again, if nothing else happens; [`None`] for never.
    pub(super) again_ms: Option<u32>,
}

/// What is to be done at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pressed {
    /// Nothing.
    No,
    /// Retire all that nobody uses now.
    Retire,
    /// Make private what was retired.
    Unshare,
}

/// How many steps are taken at a time when memory is short, before kccd sleeps for a moment.
const BATCH: usize = 64;

/// What kccd remembers from one round to the next.
pub(super) struct Keeper {
    /// When the windows were turned.
    turned: Instant<Monotonic>,
    /// How often.
    turns: usize,
    /// What is left to do of a time when memory was short.
    pressed: Pressed,
    /// When all that is too much has to be gone.
    until: Option<Instant<Monotonic>>,
}

impl Keeper {
    pub(super) fn new() -> Self {
        Self {
            turned: Instant::now(),
            turns: 0,
            pressed: Pressed::No,
            until: None,
        }
    }

    /// Gives back what is due.
    ///
    /// May sleep, and takes long where a chunk is converted.
    pub(super) fn round(&mut self, pool: &Pool, cause: Cause) -> Outcome {
        let idle_ms = params::idle_ms();
        let window_ms = policy::window_ms(idle_ms);
        let now = cause != Cause::Idle;
        let window_is_over = self.turned.elapsed().as_millis() >= i64::from(window_ms);
        let active = (window_is_over || now) && pool.drain_cpus();
        if window_is_over {
            // One, however long it was: when in it the peak was nobody knows.
            pool.turn_windows(self.turns);
            self.turns = self.turns.wrapping_add(1);
            self.turned = Instant::now();
        }

        if cause == Cause::Pressure {
            self.pressed = Pressed::Retire;
        }
        if cause != Cause::Growth {
            self.relieve(pool);
        }
        let retired = cause == Cause::Growth && (pool.awaits_grace() || pool.retire_one(true));
        let again_ms = match (self.pressed, cause) {
            (Pressed::No, _) => None,
            // First there has to be enough.
            (_, Cause::Growth) => Some(policy::AT_MAX_PAUSE_MS),
            _ => Some(policy::GRACE_PAUSE_MS),
        };
        if again_ms.is_some() || idle_ms == 0 {
            return Outcome { retired, again_ms };
        }
        let again_ms = match self.give_back_idle(pool, cause, idle_ms) {
            Some(pause_ms) => Some(pause_ms),
            // Something may be too much before long: what is remembered will be forgotten.
            None if active || pool.surplus(true) > 0 => Some(window_ms),
            None => {
                pool.apply_levels(true);
                // What came back before a CPU could see that we want to hear of it.
                (pool.surplus(true) > 0).then_some(window_ms)
            }
        };
        Outcome { retired, again_ms }
    }

    /// Does what has to be done at once, or a part of it.
    fn relieve(&mut self, pool: &Pool) {
        for _ in 0..BATCH {
            let done = match self.pressed {
                Pressed::No => return,
                // The rest when kccd has done what it was rung for.
                _ if pool.doorbell.is_rung() => return,
                Pressed::Retire => pool.give_back_one(true),
                Pressed::Unshare => pool.unshare(),
            };
            if !done && !pool.compact_one() {
                self.pressed = if pool.awaits_grace() {
                    Pressed::Unshare
                } else {
                    Pressed::No
                };
                return;
            }
        }
    }

    /// Gives back what idles; returns how long to pause, [`None`] if there is nothing.
    fn give_back_idle(&mut self, pool: &Pool, cause: Cause, idle_ms: u32) -> Option<u32> {
        let window_ms = policy::window_ms(idle_ms);
        let surplus = pool.surplus(false);
        let is_due = surplus > 0 || pool.has_spare_chunk();
        if cause != Cause::Idle {
            return is_due.then_some(window_ms);
        }
        if !is_due {
            self.until = None;
            return (pool.compact_one() || pool.awaits_grace())
                .then(|| policy::shortest_pause_ms(window_ms));
        }
        let total = Delta::from_millis(i64::from(policy::giveback_ms(idle_ms)));
        let until = *self.until.get_or_insert_with(|| Instant::now() + total);
        let left_ms = u32::try_from((until - Instant::now()).as_millis()).unwrap_or(0);
        let (spans, pause_ms) = policy::pace(surplus, left_ms, window_ms);
        for _ in 0..spans.max(1) {
            if pool.doorbell.is_rung() {
                break;
            }
            if !pool.give_back_one(false) {
                if pool.awaits_grace() {
                    return Some(policy::shortest_pause_ms(window_ms));
                }
                // What is too much is in use here and there.
                self.until = None;
                return Some(window_ms);
            }
        }
        Some(pause_ms)
    }
}

impl Pool {
    /// Tells the depots when to ring, and what to hold back. They ring for what is too much only if
    /// `high` says so: it is nothing new to a kccd that looks at it anyway.
    pub(super) fn apply_levels(&self, high: bool) {
        let watermarks = params::watermark();
        for node in 0..self.nodes() {
            let Some(depot) = self.depot(node) else {
                continue;
            };
            for class in SizeClass::all() {
                let low = self.level(node, watermarks.slots(class));
                let levels = Levels {
                    low,
                    high: if high && params::idle_ms() != 0 {
                        policy::high(low, class.slots_per_span() as u32)
                    } else {
                        u32::MAX
                    },
                    reserve: policy::reserve(low),
                };
                depot.set_levels(class, levels);
            }
        }
    }

    /// The share of one node of a watermark: only nodes with CPUs have one.
    pub(super) fn level(&self, node: usize, watermark: u32) -> u32 {
        let sharers = (0..self.nodes()).filter(|node| memory::node_has_cpus(*node));
        if memory::node_has_cpus(node) {
            policy::level(watermark, sharers.count())
        } else {
            0
        }
    }

    /// How many spans each class has too many on `node`: by what is in use `now`, or by what was at
    /// any time in the windows.
    fn surplus_of(&self, node: usize, now: bool) -> [u32; CLASSES] {
        let mut surplus = [0; CLASSES];
        let Some(depot) = self.depot(node) else {
            return surplus;
        };
        let watermarks = params::watermark();
        for (spans, class) in surplus.iter_mut().zip(SizeClass::all()) {
            *spans = policy::surplus_spans(
                depot.slots(class),
                if now {
                    depot.out(class)
                } else {
                    depot.demand(class)
                },
                self.level(node, watermarks.slots(class)),
                class.slots_per_span() as u32,
            );
        }
        surplus
    }

    /// How many spans are too many in all.
    fn surplus(&self, now: bool) -> u32 {
        (0..self.nodes())
            .flat_map(|node| self.surplus_of(node, now))
            .fold(0, u32::saturating_add)
    }

    /// Pages that could be given back at once, if they can be found together.
    ///
    /// Takes no lock. Any context.
    pub(crate) fn surplus_pages(&self) -> usize {
        let spans = self.surplus(true) as usize + self.spare_spans();
        if spans < SPANS_PER_CHUNK {
            return 0;
        }
        spans.saturating_mul(SPAN_BYTES / PAGE_SIZE)
    }

    /// Retires a span, or makes a chunk private. Returns whether it did either.
    fn give_back_one(&self, now: bool) -> bool {
        // One after the other: what is retired may have been the last of its chunk.
        let retired = self.retire_one(now);
        let unshared = self.unshare();
        retired || unshared
    }

    /// Moves together what is scattered, until that makes a chunk spare, which is made private.
    /// Returns whether it was.
    fn compact_one(&self) -> bool {
        (0..self.nodes()).any(|node| self.compact(node)) && self.unshare()
    }

    fn retire_one(&self, now: bool) -> bool {
        (0..self.nodes()).any(|node| {
            let surplus = self.surplus_of(node, now);
            surplus.iter().any(|spans| *spans > 0) && self.retire(node, &surplus)
        })
    }

    fn turn_windows(&self, index: usize) {
        self.forget_stuck();
        for node in 0..self.nodes() {
            for class in SizeClass::all() {
                if let Some(depot) = self.depot(node) {
                    depot.turn_window(class, index);
                }
            }
        }
    }
}

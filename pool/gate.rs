// SPDX-License-Identifier: GPL-2.0

//! Admission to slots that are short: they go to a few whole requests, not to parts of many.
//!
//! A block request of 1 MiB can have 256 mappings. If many requests took the last slots at the same
//! time, each would be refused at one of its last pages, after the others were copied in vain, and
//! all would try again. So a class that has refused a mapping is *closed*. While it is closed, a
//! CPU may take slots only after it was admitted, and only about as many as a request needs; and
//! only as many CPUs are admitted as there are slots for. All others are refused before anything is
//! copied; the block layer tries again later, asleep.
//!
//! An admission ends when it is used up or not used for a moment; nobody has to end it. How many
//! slots a request needs is learned: a request that was admitted and then refused needed more.
//!
//! Mappings in interrupts, most of them of network packets, come one at a time and need no
//! admission. But any mapping that finds the class closed opens it, if there is plenty again.
//!
//! # Locking
//!
//! A gate's lock is taken with interrupts disabled, for a short, bounded time, and no lock inside
//! it. Only CPUs whose stack is empty get here, and only while the class is closed or closes.

use super::class::{
    SizeClass,
    CLASSES, //
};
use crate::glue::once::read_once;
use kernel::{
    new_spinlock_irq,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        SpinLockIrq, //
    },
};
use pin_init::pin_init_array_from_fn;

/// CPUs that can be admitted at a time.
const ADMISSIONS: usize = 8;

/// How long an admission lasts without being used, in milliseconds: a mapping takes microseconds,
/// but the host may take the CPU away for a moment.
const UNUSED_MS: u64 = 4;

/// The largest request that is planned for, and the one that is assumed at first, in bytes.
const MOST_BYTES: usize = 2 << 20;
const FIRST_BYTES: usize = 256 << 10;

/// One CPU's permission to take slots.
#[derive(Clone, Copy, Default)]
struct Admission {
    cpu: u32,
    until_ms: u64,
    /// Slots that are set aside for the CPU, and slots that it took.
    left: u32,
    took: u32,
}

impl Admission {
    fn is_valid(&self, now_ms: u64) -> bool {
        now_ms < self.until_ms
    }
}

struct State {
    /// Slots that a request is thought to need.
    need: u32,
    admissions: [Admission; ADMISSIONS],
}

/// The gates of all classes.
#[pin_data]
pub(super) struct Gates {
    /// Which classes are closed. They are apart from the gates, as every unmap reads them. Each is
    /// changed with its gate's lock held.
    closed: [Atomic<bool>; CLASSES],
    #[pin]
    gates: [SpinLockIrq<State>; CLASSES],
}

/// The situation in which a gate is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// The CPU that asks.
    pub(super) cpu: u32,
    /// Milliseconds since boot.
    pub(super) now_ms: u64,
    /// Slots that could be taken.
    pub(super) available: u64,
    /// From this many available slots on the class is not short any more.
    pub(super) plenty: u64,
}

/// The number of slots of `class` that `bytes` bytes need.
fn slots(class: SizeClass, bytes: usize) -> u32 {
    bytes.div_ceil(class.slot_bytes()) as u32
}

/// The slots that a request is thought to need, after one that took `took` slots needed more.
fn learned(class: SizeClass, need: u32, took: u32) -> u32 {
    let most = slots(class, MOST_BYTES);
    took.saturating_mul(2).min(most).max(need)
}

impl Gates {
    /// Open gates.
    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            closed: [const { Atomic::new(false) }; CLASSES],
            gates <- pin_init_array_from_fn(|index| new_spinlock_irq!(State {
                need: slots(SizeClass::ALL[index], FIRST_BYTES),
                admissions: [Admission::default(); ADMISSIONS],
            })),
        })
    }

    /// Whether `class` has refused a mapping and is still short.
    #[inline]
    pub(super) fn is_closed(&self, class: SizeClass) -> bool {
        read_once(&self.closed[class as usize])
    }

    /// Opens `class` if there is plenty of it again. Returns whether it is open.
    pub(super) fn reopen(&self, class: SizeClass, at: Moment) -> bool {
        if at.available < at.plenty {
            return false;
        }
        let mut state = self.gates[class as usize].lock();
        if self.is_closed(class) {
            state.need = slots(class, FIRST_BYTES);
            state.admissions = [Admission::default(); ADMISSIONS];
            self.closed[class as usize].store(false, Relaxed);
        }
        true
    }

    /// Asks for one slot of a class that is closed. Returns whether the CPU may look for it.
    pub(super) fn admit(&self, class: SizeClass, at: Moment) -> bool {
        let mut state = self.gates[class as usize].lock();
        if !self.is_closed(class) {
            return true;
        }
        let State { need, admissions } = &mut *state;
        let mut set_aside = 0u64;
        let (mut own, mut free, mut alone) = (None, None, true);
        for admission in admissions {
            if !admission.is_valid(at.now_ms) {
                free = Some(admission);
            } else if admission.cpu == at.cpu {
                own = Some(admission);
            } else {
                set_aside += u64::from(admission.left);
                alone = false;
            }
        }
        let until_ms = at.now_ms + UNUSED_MS;
        let most = slots(class, MOST_BYTES);
        match (own, free) {
            // It may go on beyond the plan if that takes nothing from others, but not for ever.
            (Some(own), _) if own.took < most && (own.left > 0 || at.available > set_aside) => {
                own.left = own.left.saturating_sub(1);
                own.took += 1;
                own.until_ms = until_ms;
                true
            }
            // Until this admission expires, others come first.
            (Some(own), _) if own.took >= most => false,
            (Some(own), _) => {
                *need = learned(class, *need, own.took);
                *own = Admission::default();
                false
            }
            // The last slots are for one CPU at a time.
            (None, Some(free)) if alone || at.available >= set_aside + u64::from(*need) => {
                *free = Admission {
                    cpu: at.cpu,
                    until_ms,
                    left: need.saturating_sub(1),
                    took: 1,
                };
                true
            }
            _ => false,
        }
    }

    /// Closes the class, since a mapping found nothing. If its CPU was admitted, that is over.
    pub(super) fn close(&self, class: SizeClass, at: Moment) {
        let mut state = self.gates[class as usize].lock();
        self.closed[class as usize].store(true, Relaxed);
        let mut admissions = state.admissions.iter_mut();
        let own = admissions.find(|it| it.is_valid(at.now_ms) && it.cpu == at.cpu);
        if let Some(admission) = own {
            let took = core::mem::take(admission).took;
            state.need = learned(class, state.need, took);
        }
    }
}

#[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
#[kunit_tests(cc_swiotlb_gate)]
mod tests {
    use super::*;
    use SizeClass::*;

    /// From this many slots on a class is not short in these tests.
    const PLENTY: u64 = 1000;

    fn gates() -> Result<Pin<KBox<Gates>>> {
        KBox::pin_init(Gates::new(), GFP_KERNEL)
    }

    fn at(cpu: u32, now_ms: u64, available: u64) -> Moment {
        Moment {
            cpu,
            now_ms,
            available,
            plenty: PLENTY,
        }
    }

    fn admit(gates: &Gates, at: Moment) -> bool {
        gates.reopen(K4, at) || gates.admit(K4, at)
    }

    /// The slots that a request is thought to need at first.
    fn first_need() -> u64 {
        slots(K4, FIRST_BYTES).into()
    }

    fn close(gates: &Gates, class: SizeClass, at: Moment) {
        gates.close(class, at);
    }

    #[test]
    fn a_refusal_closes_its_class_alone() -> Result {
        let gates = gates()?;
        assert!(SizeClass::ALL
            .into_iter()
            .all(|class| !gates.is_closed(class)));
        assert!(admit(&gates, at(0, 0, 0)));
        close(&gates, K4, at(0, 0, 0));
        close(&gates, K512, at(0, 0, 0));
        close(&gates, K4, at(1, 0, 0));
        for class in SizeClass::ALL {
            assert_eq!(gates.is_closed(class), class == K4 || class == K512);
        }
        Ok(())
    }

    #[test]
    fn plenty_opens_the_class_again() -> Result {
        let gates = gates()?;
        close(&gates, B512, at(0, 0, 0));
        close(&gates, K4, at(0, 0, 0));
        close(&gates, K512, at(0, 0, 0));
        admit(&gates, at(0, 1, PLENTY - 1));
        assert!(gates.is_closed(K4));
        assert!(admit(&gates, at(0, 1, PLENTY)));
        assert!(!gates.is_closed(K4) && gates.is_closed(B512) && gates.is_closed(K512));
        Ok(())
    }

    #[test]
    fn as_many_cpus_as_there_are_slots_for() -> Result {
        let gates = gates()?;
        close(&gates, K4, at(9, 0, 0));
        let need = first_need();
        // Enough for three requests less one slot: each admission takes one at once.
        let mut available = 3 * need - 1;
        for (cpu, admitted) in [(0, true), (1, true), (2, false), (3, false)] {
            assert_eq!(admit(&gates, at(cpu, 0, available)), admitted);
            available -= u64::from(admitted);
        }
        // CPUs that were admitted get all that they need, whichever others ask.
        for _ in 1..need {
            for (cpu, admitted) in [(0, true), (2, false), (1, true)] {
                assert_eq!(admit(&gates, at(cpu, 1, available)), admitted);
                available -= u64::from(admitted);
            }
        }
        assert_eq!(available, need - 1);
        Ok(())
    }

    #[test]
    fn unused_admissions_end() -> Result {
        let gates = gates()?;
        close(&gates, K4, at(9, 0, 0));
        let need = first_need();
        assert!(admit(&gates, at(0, 10, need)));
        assert!(!admit(&gates, at(1, 10, need - 1)));
        assert!(!admit(&gates, at(1, 10 + UNUSED_MS - 1, need)));
        // CPU 0 used its admission meanwhile.
        assert!(admit(&gates, at(0, 10 + UNUSED_MS - 1, need)));
        assert!(!admit(&gates, at(1, 10 + UNUSED_MS, need)));
        assert!(admit(&gates, at(1, 10 + 2 * UNUSED_MS, need)));
        Ok(())
    }

    #[test]
    fn no_more_cpus_than_admissions() -> Result {
        let gates = gates()?;
        close(&gates, K4, at(99, 0, 0));
        let cpus = (0..2 * ADMISSIONS as u32).filter(|cpu| admit(&gates, at(*cpu, 0, PLENTY - 1)));
        assert_eq!(cpus.count(), ADMISSIONS);
        Ok(())
    }

    #[test]
    fn a_request_that_was_too_large_is_planned_for() {
        let (first, most) = (slots(K4, FIRST_BYTES), slots(K4, MOST_BYTES));
        for (need, took, learnt) in [
            (first, 1, first),
            (first, first / 2, first),
            (first, first, 2 * first),
            (2 * first, first, 2 * first),
            (first, most, most),
            (most, u32::MAX, most),
        ] {
            assert_eq!(learned(K4, need, took), learnt);
        }
        // A request needs at least one of the largest slots.
        assert!(slots(K512, FIRST_BYTES) == 1 && learned(K512, 1, 1) == 2);
    }

    #[test]
    fn a_refused_request_is_admitted_when_there_is_enough_for_it() -> Result {
        let gates = gates()?;
        close(&gates, K4, at(9, 0, 0));
        let need = first_need();
        // It takes all that was planned for, and finds no more.
        for left in (0..need).rev() {
            assert!(admit(&gates, at(0, 0, left + 1)));
        }
        assert!(!admit(&gates, at(0, 0, 0)));
        // Beside another request it has to wait for twice as much.
        assert!(admit(&gates, at(1, 0, 2 * need)));
        assert!(!admit(&gates, at(0, 0, 2 * need + 2 * need - 2)));
        assert!(admit(&gates, at(0, 0, 2 * need + 2 * need - 1)));
        Ok(())
    }

    #[test]
    fn nobody_goes_on_for_ever() -> Result {
        let gates = gates()?;
        close(&gates, K4, at(9, 0, 0));
        // However much there is, a CPU has to ask again after a request of the largest size.
        let taken = (0..10_000).take_while(|_| admit(&gates, at(0, 0, PLENTY - 1)));
        assert_eq!(taken.count() as u32, slots(K4, MOST_BYTES));
        // And others come first.
        assert!(!admit(&gates, at(0, UNUSED_MS - 1, PLENTY - 1)));
        assert!(admit(&gates, at(1, UNUSED_MS - 1, PLENTY - 1)));
        assert!(admit(&gates, at(0, UNUSED_MS, PLENTY - 1)));
        Ok(())
    }

    #[test]
    fn somebody_is_always_admitted_when_there_is_a_slot() -> Result {
        let gates = gates()?;
        close(&gates, K4, at(9, 0, 0));
        // Whatever was learned: the pool may never have as many slots.
        for round in 0..10 {
            let now_ms = 100 * round;
            let took = (0..50).take_while(|took| admit(&gates, at(0, now_ms, 50 - *took)));
            assert_eq!(took.count(), 50);
            close(&gates, K4, at(0, now_ms, 0));
            // One at a time.
            assert!(admit(&gates, at(1, now_ms, 1)));
            assert!(!admit(&gates, at(2, now_ms, 1)));
        }
        Ok(())
    }
}

// SPDX-License-Identifier: GPL-2.0

//! How kccd sleeps, and is woken from any context.
//!
//! # Locking
//!
//! `state` is taken with interrupts disabled and held for a few instructions; nothing else is
//! taken while it is held. `quiet`, written with it held, saves the mapping path from taking it when
//! there is nothing to say. A ring that a stale `quiet` swallows is not missed: kccd, once awake,
//! takes the lock of every depot before it looks (`Depot::set_levels()`), and the slots that the
//! ring was about were taken out under that lock.

use kernel::{
    new_condvar,
    new_spinlock_irq,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        CondVar,
        SpinLockIrq, //
    },
    time::Jiffies, //
};

/// Why kccd goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wake {
    /// There is, or may be, something to do.
    Work,
    /// It has to return.
    Stop,
}

struct State {
    rung: bool,
    /// Not even a pause may swallow it.
    urgent: bool,
    /// Memory is short: give back what can be given back.
    pressed: bool,
    stopped: bool,
}

/// The doorbell.
#[pin_data]
pub(crate) struct Doorbell {
    #[pin]
    state: SpinLockIrq<State>,
    #[pin]
    rang: CondVar,
    /// 1 while a ring changes nothing: it has been rung, or kccd is in a pause.
    quiet: Atomic<u32>,
    /// 1 from a ring until kccd goes to sleep: slots will come. A hint for those who wait for them,
    /// written with the lock held.
    at_work: Atomic<u32>,
}

impl Doorbell {
    /// A doorbell that has not been rung.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            state <- new_spinlock_irq!(State {
                rung: false,
                urgent: false,
                pressed: false,
                stopped: false,
            }),
            rang <- new_condvar!(),
            quiet: Atomic::new(0),
            at_work: Atomic::new(0),
        })
    }

    /// Wakes kccd. Any context but NMI.
    pub(crate) fn ring(&self) {
        if self.quiet.load(Relaxed) == 0 {
            self.wake(|_| ());
        }
    }

    /// Wakes kccd even from a pause. Any context but NMI.
    ///
    /// For what kccd reads without the lock of a depot, a parameter: `quiet` says nothing about that.
    pub(crate) fn ring_anyway(&self) {
        self.wake(|state| state.urgent = true);
    }

    /// Wakes kccd, though not from a pause, to give back what can be given back. Any context but NMI.
    ///
    /// When memory is short kccd itself gets here, from its own allocation: it must not end the
    /// pause that it is about to make when that fails.
    pub(crate) fn press(&self) {
        self.state.lock().pressed = true;
        self.ring();
    }

    fn wake(&self, why: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        if state.stopped {
            return;
        }
        state.rung = true;
        why(&mut state);
        self.quiet.store(1, Relaxed);
        self.at_work.store(1, Relaxed);
        drop(state);
        self.rang.notify_one();
    }

    /// Whether kccd has been rung and has not gone to sleep since.
    pub(crate) fn is_at_work(&self) -> bool {
        self.at_work.load(Relaxed) != 0
    }

    /// Whether kccd has something else to do: it has been rung since it woke up, or has to return.
    pub(crate) fn is_rung(&self) -> bool {
        let state = self.state.lock();
        state.rung || state.stopped
    }

    /// Whether [`Self::press`] has been called since the last time.
    pub(crate) fn take_pressed(&self) -> bool {
        core::mem::take(&mut self.state.lock().pressed)
    }

    /// Makes kccd return, now and for ever. Any context but NMI.
    pub(crate) fn stop(&self) {
        let mut state = self.state.lock();
        state.stopped = true;
        self.at_work.store(0, Relaxed);
        drop(state);
        self.rang.notify_one();
    }

    /// Whether kccd has to return.
    pub(crate) fn stopped(&self) -> bool {
        self.state.lock().stopped
    }

    /// Waits until somebody rings, or for `timeout` if there is one. May sleep.
    pub(crate) fn wait(&self, timeout: Option<Jiffies>) -> Wake {
        let mut state = self.state.lock();
        while !state.rung && !state.stopped {
            self.at_work.store(0, Relaxed);
            // A kernel thread has no signals.
            match timeout {
                None => {
                    let _ = self.rang.wait_interruptible(&mut state);
                }
                Some(timeout) => {
                    // Too early by whatever woke us is no harm: it is time for another look.
                    let _ = self.rang.wait_interruptible_timeout(&mut state, timeout);
                    break;
                }
            }
        }
        state.urgent = false;
        self.awake(&mut state, false)
    }

    /// Waits for `timeout`, deaf to [`Self::ring`]. May sleep.
    pub(crate) fn pause(&self, timeout: Jiffies) -> Wake {
        let mut state = self.state.lock();
        self.quiet.store(1, Relaxed);
        self.at_work.store(0, Relaxed);
        if !state.stopped && !state.urgent {
            let _ = self.rang.wait_interruptible_timeout(&mut state, timeout);
        }
        // What was urgent ends a pause, and the wait that may follow.
        let urgent = core::mem::take(&mut state.urgent);
        self.awake(&mut state, urgent)
    }

    /// Hears rings again; `rung` says whether there is one that has not been served yet.
    fn awake(&self, state: &mut State, rung: bool) -> Wake {
        state.rung = rung;
        self.quiet.store(0, Relaxed);
        if state.stopped {
            Wake::Stop
        } else {
            Wake::Work
        }
    }
}

#[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
#[kunit_tests(cc_swiotlb_doorbell)]
mod tests {
    use super::*;
    use crate::glue::thread::{
        Thread,
        Work, //
    };
    use kernel::time::msecs_to_jiffies;

    #[pin_data]
    struct Sleeper {
        #[pin]
        bell: Doorbell,
        rounds: Atomic<u32>,
    }

    impl Work for Sleeper {
        fn run(&'static self) {
            while self.bell.wait(None) == Wake::Work {
                self.rounds.add(1, Relaxed);
            }
        }

        fn stop(&self) {
            self.bell.stop();
        }
    }

    #[test]
    fn a_ring_is_never_lost_and_a_stop_ends_it() -> Result {
        let sleeper = KBox::pin_init(
            pin_init!(Sleeper {
                bell <- Doorbell::new(),
                rounds: Atomic::new(0),
            }),
            GFP_KERNEL,
        )?;
        let sleeper: &'static Sleeper = crate::glue::leak(sleeper);
        let thread = Thread::spawn(c"kccd_test", sleeper)?;
        for round in 1..=20 {
            sleeper.bell.ring();
            let mut tries = 0;
            while sleeper.rounds.load(Relaxed) < round && tries < 500 {
                let other = KBox::pin_init(Doorbell::new(), GFP_KERNEL)?;
                other.pause(msecs_to_jiffies(10));
                tries += 1;
            }
            assert!(sleeper.rounds.load(Relaxed) >= round);
        }
        thread.stop();
        Ok(())
    }

    #[test]
    fn a_pause_ends_by_itself_and_by_a_stop() -> Result {
        let bell = KBox::pin_init(Doorbell::new(), GFP_KERNEL)?;
        bell.ring();
        assert!(bell.pause(msecs_to_jiffies(1)) == Wake::Work);
        // Urgent: neither the pause nor the wait behind it lasts, the next pause does again.
        bell.ring_anyway();
        assert!(bell.pause(msecs_to_jiffies(600_000)) == Wake::Work);
        assert!(bell.wait(None) == Wake::Work);
        assert!(bell.pause(msecs_to_jiffies(1)) == Wake::Work);
        bell.stop();
        assert!(bell.pause(msecs_to_jiffies(600_000)) == Wake::Stop);
        assert!(bell.wait(None) == Wake::Stop);
        Ok(())
    }

    #[test]
    fn a_wait_ends_by_a_ring_or_by_its_time() -> Result {
        let bell = KBox::pin_init(Doorbell::new(), GFP_KERNEL)?;
        assert!(!bell.is_at_work() && !bell.is_rung());
        bell.ring();
        assert!(bell.is_at_work() && bell.is_rung());
        assert!(bell.wait(Some(msecs_to_jiffies(600_000))) == Wake::Work);
        // It has been heard, and is worked on.
        assert!(bell.is_at_work() && !bell.is_rung());
        assert!(bell.wait(Some(msecs_to_jiffies(1))) == Wake::Work);
        assert!(!bell.is_at_work());
        bell.press();
        assert!(bell.is_at_work() && bell.take_pressed() && !bell.take_pressed());
        bell.stop();
        assert!(bell.wait(Some(msecs_to_jiffies(600_000))) == Wake::Stop);
        // Nobody waits for who does not come back.
        bell.ring();
        bell.ring_anyway();
        assert!(!bell.is_at_work());
        Ok(())
    }
}

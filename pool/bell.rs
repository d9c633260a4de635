// SPDX-License-Identifier: GPL-2.0

//! How kccd sleeps, and is woken from any context.
//!
//! # Locking
//!
//! `rung` is taken with interrupts disabled and held for a few instructions; no lock is taken
//! inside it. `quiet`, written with it held, saves the mapping path from taking the lock when there
//! is nothing to tell: kccd was rung already, and looks at everything when it wakes up. If a
//! mapping sees `quiet` set a moment too long, the next miss rings in its place.

use super::stats::Counter;
use kernel::{
    new_condvar, new_spinlock_irq,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        CondVar,
        SpinLockIrq, //
    },
    time::{
        msecs_to_jiffies,
        Jiffies, //
    },
};

/// The bell.
#[pin_data]
pub(crate) struct Bell {
    #[pin]
    rung: SpinLockIrq<bool>,
    #[pin]
    rang: CondVar,
    /// Never notified.
    #[pin]
    silence: CondVar,
    quiet: Atomic<bool>,
    /// Pages that the kernel asked to have back since kccd last took the number.
    pub(crate) wanted_pages: Counter,
    /// Mappings that were about to be refused since kccd last took the number.
    pub(crate) cries: Counter,
    stopped: Atomic<bool>,
}

impl Bell {
    /// A bell that was not rung.
    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            rung <- new_spinlock_irq!(false),
            rang <- new_condvar!(),
            silence <- new_condvar!(),
            quiet: Atomic::new(false),
            wanted_pages: Counter::default(),
            cries: Counter::default(),
            stopped: Atomic::new(false),
        })
    }

    /// Wakes kccd. Any context but NMI.
    pub(crate) fn ring(&self) {
        if !self.quiet.load(Relaxed) {
            self.ring_anyway();
        }
    }

    /// Wakes kccd even if `quiet` is set, for a change that it may not look at before it sleeps,
    /// such as that of a parameter. Any context but NMI.
    pub(crate) fn ring_anyway(&self) {
        let mut rung = self.rung.lock();
        *rung = true;
        self.quiet.store(true, Relaxed);
        drop(rung);
        self.rang.notify_one();
    }

    /// Wakes kccd to give `pages` pages back. Any context but NMI.
    pub(crate) fn want_pages(&self, pages: u64) {
        self.wanted_pages.add(pages);
        self.ring();
    }

    /// Makes kccd return, now and for ever. Any context but NMI.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Relaxed);
        self.ring_anyway();
    }

    /// Whether kccd has to return.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Relaxed)
    }

    /// Sleeps for `deaf_ms` milliseconds, and then until somebody rings, or until `timeout_ms`
    /// milliseconds are over. May sleep.
    pub(crate) fn wait(&self, deaf_ms: u32, timeout_ms: Option<u32>) {
        let mut rung = self.rung.lock();
        if deaf_ms > 0 && !self.is_stopped() {
            // Interruptible, as below: an uninterruptible sleep would count as load.
            let jiffies = msecs_to_jiffies(deaf_ms);
            let _ = self.silence.wait_interruptible_timeout(&mut rung, jiffies);
        }
        if !*rung && !self.is_stopped() {
            // From here on every ring is heard.
            self.quiet.store(false, Relaxed);
            let jiffies = timeout_ms.map_or(Jiffies::MAX, msecs_to_jiffies);
            // A kernel thread gets no signals. To wake up too early does no harm: kccd looks again.
            let _ = self.rang.wait_interruptible_timeout(&mut rung, jiffies);
        }
        *rung = false;
        self.quiet.store(false, Relaxed);
    }
}

#[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
#[kunit_tests(cc_swiotlb_bell)]
mod tests {
    use super::*;
    use kernel::time::{
        Instant,
        Monotonic, //
    };

    /// A sleep, and the least that remains of it if ticks are lost, in milliseconds.
    const LONG: u32 = 300;
    const LATE: i64 = 100;

    fn bell() -> Result<Pin<KBox<Bell>>> {
        KBox::pin_init(Bell::new(), GFP_KERNEL)
    }

    /// How long a wait takes, in milliseconds.
    fn wait(bell: &Bell, deaf_ms: u32, timeout_ms: Option<u32>) -> i64 {
        let begun = Instant::<Monotonic>::now();
        bell.wait(deaf_ms, timeout_ms);
        begun.elapsed().as_millis()
    }

    #[test]
    fn a_ring_is_heard_once() -> Result {
        let bell = bell()?;
        bell.ring();
        bell.ring();
        // Would not return otherwise.
        wait(&bell, 0, None);
        assert!(wait(&bell, 0, Some(LONG)) >= LATE);
        bell.ring_anyway();
        wait(&bell, 0, None);
        Ok(())
    }

    #[test]
    fn timeouts_end_the_sleep() -> Result {
        let bell = bell()?;
        assert!(wait(&bell, 0, Some(LONG)) >= LATE);
        assert!(wait(&bell, LONG, Some(LONG)) >= i64::from(LONG) + LATE);
        Ok(())
    }

    #[test]
    fn rings_do_not_shorten_the_deaf_time() -> Result {
        let bell = bell()?;
        bell.ring();
        assert!(wait(&bell, LONG, None) >= LATE);
        Ok(())
    }

    #[test]
    fn wanted_pages_add_up_and_ring() -> Result {
        let bell = bell()?;
        bell.want_pages(128);
        bell.want_pages(512);
        wait(&bell, 0, None);
        assert_eq!(bell.wanted_pages.take(), 640);
        assert_eq!(bell.wanted_pages.take(), 0);
        Ok(())
    }

    #[test]
    fn a_stopped_bell_never_sleeps() -> Result {
        let bell = bell()?;
        assert!(!bell.is_stopped());
        bell.stop();
        for _ in 0..2 {
            assert!(wait(&bell, 10_000, None) < 5_000);
        }
        assert!(bell.is_stopped());
        Ok(())
    }
}

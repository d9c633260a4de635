// SPDX-License-Identifier: GPL-2.0

//! Lent memory is given back while others refer to it, and kccd looks for it.

use super::{
    class::SPAN_BYTES, mapping::at, slot::Slot, span::Span, Bell, Deferred, Directory, Phys, Pool,
    Stats,
};
use loom::{
    model,
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc,
    },
    thread,
};

const BYTES: usize = 4096;

fn addr(number: usize) -> Phys {
    at(number * SPAN_BYTES / 2)
}

/// Both slots are lent; kccd is awake, so that no thread has to ring.
fn pool() -> Arc<Pool> {
    let slots: &'static [Slot; 2] = Box::leak(Box::new([Slot::new(), Slot::new()]));
    for (number, slot) in slots.iter().enumerate() {
        // Create both of its atomics.
        slot.set_next(0);
        slot.lend(addr(number), BYTES);
    }
    let pool = Pool {
        directory: Directory(Span(slots)),
        deferred: Deferred::new(),
        stats: Stats::default(),
        bell: Bell {
            quiet: AtomicBool::new(true),
            rung: AtomicBool::new(false),
        },
    };
    assert!(!pool.has_deferred());
    Arc::new(pool)
}

/// The number of slots that are still lent.
fn lent(pool: &Pool) -> usize {
    let is_lent = |number: &usize| {
        let slot = &pool.directory.0 .0[*number];
        slot.lent_from(addr(*number)).is_some()
    };
    (0..2).filter(is_lent).count()
}

fn give_back(pool: &Pool, number: usize) {
    assert!(pool.take_back_unused(addr(number), BYTES, |_, _| true));
}

#[test]
fn nothing_is_lost_between_two_who_push() {
    model(|| {
        let pool = pool();
        let other = pool.clone();
        let pushes = thread::spawn(move || give_back(&other, 0));
        give_back(&pool, 1);
        pushes.join().unwrap();
        assert_eq!(lent(&pool), 2);
        pool.retry_deferred(|_, _| false);
        assert_eq!(lent(&pool), 0);
        assert!(!pool.has_deferred());
    });
}

#[test]
fn nothing_is_lost_while_kccd_looks() {
    model(|| {
        let pool = pool();
        give_back(&pool, 0);
        let other = pool.clone();
        let pushes = thread::spawn(move || give_back(&other, 1));
        // One is still used, and is pushed again.
        pool.retry_deferred(|at, _| at == addr(0));
        pushes.join().unwrap();
        pool.retry_deferred(|_, _| false);
        assert_eq!(lent(&pool), 0);
    });
}

#[test]
fn who_pushes_is_heard() {
    model(|| {
        let pool = pool();
        let other = pool.clone();
        let pushes = thread::spawn(move || give_back(&other, 0));
        // As `Bell::wait()` does at its end, whose lock is no barrier to rely on.
        pool.bell.quiet.store(false, Ordering::Relaxed);
        pool.retry_deferred(|_, _| false);
        pushes.join().unwrap();
        let heard = pool.bell.rung.load(Ordering::Relaxed);
        assert!(heard || lent(&pool) == 1);
    });
}

#[test]
fn of_two_who_give_it_back_one_does() {
    model(|| {
        let pool = pool();
        let other = pool.clone();
        let gives = thread::spawn(move || other.try_take_back(addr(0), BYTES));
        give_back(&pool, 0);
        let there = gives.join().unwrap();
        pool.retry_deferred(|_, _| false);
        assert_eq!(lent(&pool), 1);
        assert!(there || !pool.has_deferred());
    });
}

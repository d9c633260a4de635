// SPDX-License-Identifier: GPL-2.0

//! A mapping begins, is synced, and ends, on several CPUs.

use super::{
    address::Phys,
    class::SPAN_SHIFT,
    slot::{Mapping, Slot},
};
use loom::{
    model,
    sync::{
        atomic::{AtomicU64, Ordering},
        Arc,
    },
    thread,
};

pub(super) const SPAN: usize = 3;
const BYTES: usize = 1500;

pub(super) fn at(offset: usize) -> Phys {
    Phys::new((SPAN << SPAN_SHIFT) as u64).add(offset)
}

fn mapping(orig: u64, bytes: usize) -> Mapping {
    // SAFETY: Nothing is done with the buffer.
    unsafe { Mapping::new(at(64), Phys::new(orig), bytes) }
}

/// A slot with a mapping, which was handed over.
fn mapped(first: &Mapping) -> Arc<Slot> {
    let slot = Slot::new();
    slot.begin(first);
    Arc::new(slot)
}

#[test]
fn what_is_begun_is_found_by_its_address() {
    model(|| {
        let slot = Arc::new(Slot::new());
        // Create both of its atomics.
        slot.begin(&mapping(0x1000, 1));
        slot.free();
        let handed = Arc::new(AtomicU64::new(0));
        let (ours, to) = (slot.clone(), handed.clone());
        let driver = thread::spawn(move || {
            ours.begin(&mapping(0x2000, BYTES));
            to.store(at(64).raw(), Ordering::Relaxed);
        });
        // Acquire stands in for the dependency on the address.
        let addr = handed.load(Ordering::Acquire);
        if addr != 0 {
            let addr = Phys::new(addr);
            assert_eq!(slot.mapping(addr), Some(mapping(0x2000, BYTES)));
            assert_eq!(slot.claim(addr, BYTES), Some(mapping(0x2000, BYTES)));
        }
        driver.join().unwrap();
    });
}

/// Another mapping follows in the same slot, of so many bytes, while somebody syncs.
fn synced_while_it_ends(bytes: usize) {
    model(move || {
        let (first, second) = (mapping(0x1000, BYTES), mapping(0x2000, bytes));
        let slot = mapped(&first);
        let ours = slot.clone();
        let unmaps = thread::spawn(move || {
            assert_eq!(ours.claim(at(64), BYTES), Some(first));
            ours.free();
            ours.begin(&second);
        });
        // One of them or none, but no mixture.
        if let Some(found) = slot.mapping(at(100)) {
            assert!(found == first || found == second, "{found:?}");
        }
        unmaps.join().unwrap();
    });
}

#[test]
fn a_sync_never_sees_half_a_mapping() {
    // The second mapping has the size of the first, so that its word is the same, or another one.
    synced_while_it_ends(BYTES);
    synced_while_it_ends(64);
}

#[test]
fn one_of_two_unmaps_has_it() {
    model(|| {
        let first = mapping(0x1000, BYTES);
        let slot = mapped(&first);
        let ours = slot.clone();
        let other = thread::spawn(move || ours.claim(at(64), BYTES));
        // One unmap knows the size, the other one does not.
        let here = slot.claim_any(at(64)).ok();
        let there = other.join().unwrap();
        assert!(here.is_some() != there.is_some());
        assert_eq!(here.or(there), Some(first));
    });
}

/// A driver unmaps twice: the same address and size, but of the next mapping.
fn unmapped_late(claim: fn(&Slot) -> Option<Mapping>) {
    model(move || {
        let (first, second) = (mapping(0x1000, BYTES), mapping(0x2000, BYTES));
        let slot = mapped(&first);
        let ours = slot.clone();
        let other = thread::spawn(move || {
            let claimed = ours.claim(at(64), BYTES);
            if claimed.is_some() {
                ours.free();
                ours.begin(&second);
            }
            claimed
        });
        let here = claim(&slot);
        match other.join().unwrap() {
            Some(there) => assert!(there == first && here.is_none_or(|it| it == second)),
            None => assert_eq!(here, Some(first)),
        }
    });
}

#[test]
fn a_late_unmap_has_all_of_the_next() {
    unmapped_late(|slot| slot.claim(at(64), BYTES));
    unmapped_late(|slot| slot.claim_any(at(64)).ok());
}

#[test]
fn what_is_lent_is_found_by_its_address() {
    model(|| {
        let slot = Arc::new(Slot::new());
        // Create both of its atomics.
        slot.set_next(0);
        slot.free();
        let handed = Arc::new(AtomicU64::new(0));
        let (ours, to) = (slot.clone(), handed.clone());
        let lender = thread::spawn(move || {
            ours.lend(at(64), BYTES);
            to.store(at(64).raw(), Ordering::Relaxed);
        });
        // Acquire stands in for the dependency on the address.
        let addr = handed.load(Ordering::Acquire);
        if addr != 0 {
            let addr = Phys::new(addr);
            assert_eq!(slot.lent_from(addr), Some(BYTES));
            assert!(slot.take_back(addr, BYTES));
        }
        lender.join().unwrap();
    });
}

#[test]
fn what_was_lent_is_mapped_as_a_whole() {
    model(|| {
        let second = mapping(0x2000, BYTES);
        let slot = Arc::new(Slot::new());
        slot.set_next(1);
        slot.lend(at(64), BYTES);
        let ours = slot.clone();
        let owner = thread::spawn(move || {
            assert!(ours.take_back(at(64), BYTES));
            ours.begin(&second);
        });
        assert!(slot.mapping(at(100)).is_none_or(|found| found == second));
        owner.join().unwrap();
        assert_eq!(slot.claim(at(64), BYTES), Some(second));
    });
}

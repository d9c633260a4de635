// SPDX-License-Identifier: GPL-2.0

//! What becomes of mappings, slots and caches while a class is closed.

use super::{
    put_all,
    take_all,
    Bench,
    Cpu, //
};
use crate::{
    glue::memory,
    pool::{
        address::Phys,
        class::SizeClass::*,
        gate::Moment,
        help::Found,
        request::Request,
        stock::Reach,
        NotMade,
        Pool, //
    },
};
use kernel::{
    device::{
        Bound,
        Device, //
    },
    faux,
    prelude::*, //
};

/// A pool that is out of slots of 4 KiB and has refused one, the CPU that took them, and the slots.
fn short() -> Result<(Bench, Cpu, KVec<Found>)> {
    let mut bench = Bench::new(1)?;
    let mut cpu = Cpu::new(&[K4])?;
    bench.give(0, 1)?;
    bench.node(0).stock.set_levels(4, 0, 0);
    let found = take_all(&bench, &mut cpu, K4, 1000)?;
    match cpu.run(&bench, |pool| pool.take_last(K4)) {
        None => Ok((bench, cpu, found)),
        Some(_) => Err(EINVAL),
    }
}

#[kunit_tests(cc_swiotlb_shortage)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_class_keeps_nothing_in_caches_and_reopens() -> Result {
        let (bench, mut cpu, found) = short()?;
        assert_eq!(found.len(), 512);
        assert!(bench.pool.gates.is_closed(K4) && !bench.pool.gates.is_closed(K8));
        // A slot that comes back is home at once, for any CPU that is admitted.
        for (count, slot) in found.iter().enumerate() {
            assert_eq!(
                bench.away(K4) as usize,
                if count < 512 { 512 - count } else { 0 }
            );
            put_all(&bench, &mut cpu, core::slice::from_ref(slot));
        }
        assert_eq!(bench.unbound(0), 4);
        assert!(cpu.run(&bench, |pool| pool.take(K4)).is_ok());
        assert!(!bench.pool.gates.is_closed(K4));
        Ok(())
    }

    #[test]
    fn whoever_finds_plenty_opens_the_class() -> Result {
        let (bench, mut cpu, found) = short()?;
        // A caller that can do without is not admitted, and leaves a slot of a class that is short.
        let spare = |pool: &Pool| pool.take_within(K4, Reach::Ready).ok();
        let (first, rest) = found.split_at(1);
        put_all(&bench, &mut cpu, first);
        assert!(cpu.run(&bench, spare).is_none() && bench.pool.gates.is_closed(K4));
        put_all(&bench, &mut cpu, rest);
        assert!(cpu.run(&bench, spare).is_some() && !bench.pool.gates.is_closed(K4));
        Ok(())
    }

    #[test]
    fn a_device_that_reaches_no_slot_is_not_refused_for_them() -> Result {
        // It has no DMA mask.
        let registration = faux::Registration::new(c"cc_swiotlb_test", None)?;
        let device: &faux::Device<Bound> = registration.as_ref();
        let device: &Device<Bound> = device.as_ref();
        let (bench, mut cpu, found) = short()?;
        let another = Moment {
            cpu: u32::MAX,
            now_ms: memory::now_ms() + 60_000,
            available: 1,
            plenty: 2,
        };
        assert!(bench.pool.gates.admit(K4, another));
        let refused = cpu.run(&bench, |pool| pool.take(K4).err());
        assert_eq!(refused, Some(NotMade::Refused));
        let request = Request {
            dev: (&**device).into(),
            orig: Phys::new(0),
            size: 4096,
            alloc_align_mask: 0,
            from_device: false,
            quiet: true,
        };
        let left = cpu.run(&bench, |pool| pool.map(&request).err());
        assert_eq!(left, Some(NotMade::Legacy));
        put_all(&bench, &mut cpu, &found);
        Ok(())
    }
}

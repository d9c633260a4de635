// SPDX-License-Identifier: GPL-2.0

//! The watermarks: how many slots of each class are kept ready, and how users write them.

use crate::{
    params::parse::{
        bytes,
        number, //
    },
    pool::class::{
        SizeClass,
        CLASSES, //
    },
};
use kernel::{
    fmt,
    prelude::*, //
};

/// How a total is shared out, in 64ths of the bytes.
///
/// Most goes to the two classes that block I/O asks for in bursts: pages by the thousand, and the
/// largest slots, which writeback takes by the dozen and which no other class can stand in for.
const SHARES: [u64; CLASSES] = [1, 3, 11, 1, 1, 1, 1, 2, 3, 40];
const SHARES_SUM: u64 = 64;

/// The largest number of slots that one class may be asked to keep ready: 16 TiB of the largest.
const MAX_SLOTS: u64 = 1 << 25;

/// The right form, shown to whoever got it wrong.
pub(crate) const FORM: &str =
    "a total (64M) or slots for some classes (512:256,2K:1024,4K:512,16K:96,512K:4)";

/// Slots to keep ready, by class.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Watermarks([u32; CLASSES]);

impl Watermarks {
    /// As many slots as `slots` says for each class.
    pub(crate) fn from_fn(mut slots: impl FnMut(SizeClass) -> u32) -> Self {
        let mut watermarks = [0; CLASSES];
        for (watermark, class) in watermarks.iter_mut().zip(SizeClass::all()) {
            *watermark = slots(class);
        }
        Self(watermarks)
    }

    /// Slots of `class` to keep ready.
    pub(crate) fn slots(&self, class: SizeClass) -> u32 {
        self.0.get(class.index()).copied().unwrap_or(0)
    }

    /// A total of `bytes`, shared out; but for 0, at least one slot of each class.
    pub(crate) fn from_total(bytes: u64) -> Self {
        Self::from_fn(|class| {
            let share = SHARES.get(class.index()).copied().unwrap_or(0);
            let slots = (bytes / SHARES_SUM).saturating_mul(share) >> class.shift();
            slots.clamp(bytes.min(1), MAX_SLOTS) as u32
        })
    }

    /// What a guest with `ram_bytes` of memory keeps ready when nobody says anything: a 32nd of
    /// its memory, from 2 MiB to 20 MiB. What a load needs beyond that grows with it.
    ///
    /// 20 MiB are 44 spans when each class has whole ones. The mappings that the drivers of 8 CPUs
    /// hold after boot make that 12 chunks: with the legacy pool, 28 MiB.
    pub(crate) fn for_guest(ram_bytes: u64) -> Self {
        Self::from_total((ram_bytes / 32).clamp(2 << 20, 20 << 20))
    }

    /// What `text` says; classes it does not name are as in `others`.
    ///
    /// Fails with [`EINVAL`] if `text` is neither a total nor a list.
    pub(crate) fn parse(text: &[u8], others: &Self) -> Result<Self> {
        if !text.contains(&b':') {
            return Ok(Self::from_total(bytes(text)?));
        }
        let mut watermarks = *others;
        let mut named = [false; CLASSES];
        for item in text.split(|byte| *byte == b',') {
            let mut parts = item.splitn(2, |byte| *byte == b':');
            let (Some(size), Some(count)) = (parts.next(), parts.next()) else {
                return Err(EINVAL);
            };
            let size = usize::try_from(bytes(size)?).map_err(|_| EINVAL)?;
            let class = SizeClass::of_slot_bytes(size).ok_or(EINVAL)?;
            let count = number(count)?;
            if count > MAX_SLOTS {
                return Err(EINVAL);
            }
            // Naming a class twice is a slip: which one is meant?
            let seen = named.get_mut(class.index()).ok_or(EINVAL)?;
            if core::mem::replace(seen, true) {
                return Err(EINVAL);
            }
            *watermarks.0.get_mut(class.index()).ok_or(EINVAL)? = count as u32;
        }
        Ok(watermarks)
    }
}

impl fmt::Display for Watermarks {
    /// As a list of all classes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for class in SizeClass::all() {
            let comma = if class.index() == 0 { "" } else { "," };
            write!(f, "{}{}:{}", comma, class.name(), self.slots(class))?;
        }
        Ok(())
    }
}

#[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
#[kunit_tests(cc_swiotlb_watermark)]
mod tests {
    use super::*;
    use kernel::str::Formatter;

    const NONE: Watermarks = Watermarks([0; CLASSES]);

    #[test]
    fn lists_name_classes_by_their_size() -> Result {
        let parsed = Watermarks::parse(b"512:256,2K:16384,4096:8192,16k:1024,512K:32", &NONE)?;
        assert!(parsed == Watermarks([256, 16384, 8192, 0, 1024, 0, 0, 0, 0, 32]));
        let others = Watermarks([7; CLASSES]);
        let parsed = Watermarks::parse(b"4K:0", &others)?;
        assert!(parsed == Watermarks([7, 7, 0, 7, 7, 7, 7, 7, 7, 7]));
        Ok(())
    }

    #[test]
    fn totals_are_shared_out() -> Result {
        for (text, total) in [("64M", 64u64 << 20), ("1G", 1 << 30), ("8388608", 8 << 20)] {
            let parsed = Watermarks::parse(text.as_bytes(), &NONE)?;
            let sum: u64 = SizeClass::all()
                .map(|class| u64::from(parsed.slots(class)) << class.shift())
                .sum();
            assert!(sum <= total && sum > total * 9 / 10);
            assert!(SizeClass::all().all(|class| parsed.slots(class) > 0));
        }
        assert_eq!(SHARES.iter().sum::<u64>(), SHARES_SUM);
        Ok(())
    }

    #[test]
    fn what_is_wrong_is_refused() {
        for text in [
            "",
            "banana",
            "-1",
            "64X",
            "64MM",
            "M",
            "512:",
            ":256",
            "512:256,",
            ",512:256",
            "3K:100",
            "7Q:3",
            "512:256;2K:1",
            "512:256:1",
            "512:-1",
            "512:1K",
            "512:1,512:2",
            "512:99999999999",
            "99999999999999999999",
            "17179869184G",
            "512 :1",
            "1M:1",
            "0x",
        ] {
            assert!(Watermarks::parse(text.as_bytes(), &NONE).is_err());
        }
    }

    #[test]
    fn what_is_printed_can_be_parsed() -> Result {
        let watermarks = Watermarks([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        let mut page = [0u8; 256];
        let mut out = Formatter::new(&mut page);
        fmt::Write::write_fmt(&mut out, fmt!("{watermarks}")).map_err(|_| ENOSPC)?;
        let len = out.bytes_written();
        let text = page.get(..len).ok_or(ERANGE)?;
        assert!(Watermarks::parse(text, &NONE)? == watermarks);
        Ok(())
    }

    #[test]
    fn guests_of_all_sizes_have_some_of_everything() {
        for ram in [64u64 << 20, 512 << 20, 1 << 30, 32 << 30, 1 << 42] {
            let watermarks = Watermarks::for_guest(ram);
            let classes = || SizeClass::all().map(|class| (class, watermarks.slots(class)));
            assert!(classes().all(|(_, slots)| slots > 0));
            let bytes: u64 = classes()
                .map(|(class, slots)| u64::from(slots) << class.shift())
                .sum();
            assert!(bytes <= 20 << 20);
            let spans: u64 = classes()
                .map(|(class, slots)| u64::from(slots).div_ceil(class.slots_per_span() as u64))
                .sum();
            assert!(spans <= 48);
        }
    }
}

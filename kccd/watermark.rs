// SPDX-License-Identifier: GPL-2.0

//! The watermark: how much is kept ready, and how users write it.

use crate::{
    params::parse::{
        bytes,
        number, //
    },
    pool::class::{
        PerClass,
        SizeClass,
        CHUNK_BYTES, //
    },
};
use kernel::{
    fmt,
    prelude::*, //
};

/// The largest number of slots that one class may be asked to keep ready: 16 TiB of the largest.
const MAX_SLOTS: u64 = 1 << 25;

/// The right form, shown with an error.
pub(crate) const FORM: &str =
    "a total (64M) or slots for some classes (512:256,2K:1024,4K:512,16K:96,512K:4)";

/// How much is kept ready.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Watermark {
    /// This many bytes, for mappings of any class.
    Total(u64),
    /// This many slots of each class that is named, and a little for mappings of any class.
    Slots(PerClass<Option<u64>>),
}

impl Watermark {
    /// The default of a guest: a 32nd of its memory, at least 2 MiB and at most 12 MiB plus 1 MiB
    /// for each CPU, which is 20 MiB at 8 CPUs. Beyond that, the pool grows with the load.
    pub(crate) fn for_guest(ram_bytes: u64, cpus: usize) -> Self {
        let most = (12 + cpus as u64) << 20;
        Self::Total((ram_bytes / 32).min(most).max(CHUNK_BYTES as u64))
    }

    /// Slots of `class` to keep bound, on all nodes together.
    pub(crate) fn slots(&self, class: SizeClass) -> u64 {
        match self {
            Self::Total(_) => 0,
            Self::Slots(slots) => slots[class].unwrap_or(0),
        }
    }

    /// Bytes to keep ready for mappings of any class, on all nodes together: beside a list, what it
    /// leaves of `default`, but at least a chunk.
    pub(crate) fn bytes(&self, default: u64) -> u64 {
        match self {
            Self::Total(bytes) => *bytes,
            Self::Slots(_) => {
                let classes = SizeClass::ALL.into_iter();
                let named = classes.map(|class| self.slots(class) << class.shift());
                default.saturating_sub(named.sum()).max(CHUNK_BYTES as u64)
            }
        }
    }

    /// Parses `text`.
    ///
    /// Fails with [`EINVAL`] if `text` is neither a total nor a list.
    pub(crate) fn parse(text: &[u8]) -> Result<Self> {
        if !text.contains(&b':') {
            let total = bytes(text)?;
            let fits = total >> SizeClass::K512.shift() <= MAX_SLOTS;
            return fits.then_some(Self::Total(total)).ok_or(EINVAL);
        }
        let mut slots = PerClass::<Option<u64>>::default();
        for item in core::str::from_utf8(text)?.split(',') {
            let (size, count) = item.split_once(':').ok_or(EINVAL)?;
            let (size, count) = (bytes(size.as_bytes())?, number(count.as_bytes())?);
            let mut classes = SizeClass::ALL.into_iter();
            let class = classes.find(|class| class.slot_bytes() as u64 == size);
            let class = class.ok_or(EINVAL)?;
            // Naming a class twice is a slip: which one is meant?
            if count > MAX_SLOTS || slots[class].replace(count).is_some() {
                return Err(EINVAL);
            }
        }
        Ok(Self::Slots(slots))
    }
}

impl fmt::Display for Watermark {
    /// As users write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Total(total) => match total.trailing_zeros() {
                u64::BITS => write!(f, "0"),
                30.. => write!(f, "{}G", total >> 30),
                20.. => write!(f, "{}M", total >> 20),
                10.. => write!(f, "{}K", total >> 10),
                _ => write!(f, "{total}"),
            },
            Self::Slots(slots) => {
                let mut comma = "";
                for (class, slots) in slots.iter() {
                    if let Some(slots) = slots {
                        write!(f, "{comma}{}:{slots}", class.name())?;
                        comma = ",";
                    }
                }
                Ok(())
            }
        }
    }
}

#[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
#[kunit_tests(cc_swiotlb_watermark)]
mod tests {
    use super::*;
    use kernel::str::Formatter;

    #[test]
    fn lists_name_classes_by_their_size() -> Result {
        let parsed = Watermark::parse(b"512:256,2K:16384,4096:8192,16k:1024,512K:32")?;
        let slots = SizeClass::ALL.map(|class| parsed.slots(class));
        assert!(slots == [256, 16384, 8192, 0, 1024, 0, 0, 0, 0, 32]);
        Ok(())
    }

    #[test]
    fn totals_bind_nothing() -> Result {
        for (text, total) in [
            ("64M", 64u64 << 20),
            ("1G", 1 << 30),
            ("8388608", 8 << 20),
            ("0", 0),
        ] {
            let parsed = Watermark::parse(text.as_bytes())?;
            assert_eq!(parsed.bytes(1), total);
            assert!(SizeClass::ALL
                .into_iter()
                .all(|class| parsed.slots(class) == 0));
        }
        Ok(())
    }

    #[test]
    fn lists_leave_something_for_whatever_comes() -> Result {
        let parsed = Watermark::parse(b"4K:256")?;
        assert_eq!(parsed.bytes(20 << 20), 19 << 20);
        let parsed = Watermark::parse(b"4K:8192")?;
        assert_eq!(parsed.bytes(20 << 20), CHUNK_BYTES as u64);
        Ok(())
    }

    #[test]
    fn wrong_text_is_refused() {
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
            assert!(Watermark::parse(text.as_bytes()).is_err());
        }
    }

    #[test]
    fn printed_as_written() -> Result {
        for text in [
            "64M",
            "2G",
            "1536K",
            "1000",
            "0",
            "512:1,2K:2,512K:10",
            "4K:0",
        ] {
            let mut page = [0u8; 256];
            let mut out = Formatter::new(&mut page);
            let parsed = Watermark::parse(text.as_bytes())?;
            fmt::Write::write_fmt(&mut out, fmt!("{parsed}")).map_err(|_| ENOSPC)?;
            let len = out.bytes_written();
            assert!(page.get(..len) == Some(text.as_bytes()));
        }
        Ok(())
    }

    #[test]
    fn default_follows_memory_and_cpus() {
        for (ram, cpus, total) in [
            (32u64 << 20, 1, 2u64 << 20),
            (512 << 20, 2, 14 << 20),
            (256 << 20, 2, 8 << 20),
            (32 << 30, 8, 20 << 20),
            (1 << 42, 256, 268 << 20),
        ] {
            assert_eq!(Watermark::for_guest(ram, cpus), Watermark::Total(total));
        }
    }
}

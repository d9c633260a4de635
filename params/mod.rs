// SPDX-License-Identifier: GPL-2.0

//! The parameters `cc_swiotlb.watermark=`, `.max=`, `.idle_ms=` and `.from_device=`.
//!
//! They are set from the command line before memory can be allocated, and from sysfs at any time.
//! Whoever reads them gets the value of this moment; kccd is woken when one changes.

pub(crate) mod parse;

use crate::{
    glue::memory,
    kccd::watermark::{
        Watermarks,
        FORM, //
    },
    pool::class::{
        SizeClass,
        CHUNK_BYTES,
        CLASSES, //
    },
};
use kernel::{
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
};

/// The shortest and the longest idle time: a tenth of a second, an hour.
const MIN_IDLE_MS: u32 = 100;
const MAX_IDLE_MS: u32 = 3_600_000;

/// Not set: the default for the guest's size counts.
const UNSET: u32 = u32::MAX;

static WATERMARKS: [Atomic<u32>; CLASSES] = [const { Atomic::new(UNSET) }; CLASSES];
static MAX_BYTES: Atomic<u64> = Atomic::new(0);
static IDLE_MS: Atomic<u32> = Atomic::new(10_000);
static ZERO_FROM_DEVICE: Atomic<u32> = Atomic::new(0);

/// Slots to keep ready, by class.
pub(crate) fn watermark() -> Watermarks {
    let default = Watermarks::for_guest(memory::ram_bytes());
    Watermarks::from_fn(|class| match set(class).map(|slots| slots.load(Relaxed)) {
        None | Some(UNSET) => default.slots(class),
        Some(slots) => slots,
    })
}

fn set(class: SizeClass) -> Option<&'static Atomic<u32>> {
    WATERMARKS.get(class.index())
}

/// Sets the watermarks to what `text` says. [`EINVAL`] if that is not clear; nothing changes then.
pub(crate) fn set_watermark(text: &[u8]) -> Result {
    // What is not named keeps what it has, be that set or not: so merge before the default.
    let unset = Watermarks::from_fn(|class| set(class).map_or(UNSET, |slots| slots.load(Relaxed)));
    let watermarks = Watermarks::parse(text, &unset).inspect_err(|_| {
        refused("watermark", text, FORM);
    })?;
    for class in SizeClass::all() {
        if let Some(slots) = set(class) {
            slots.store(watermarks.slots(class), Relaxed);
        }
    }
    changed();
    Ok(())
}

/// Most memory that is ever shared, in bytes: what was set, or a quarter of the guest's memory.
pub(crate) fn max_bytes() -> u64 {
    match MAX_BYTES.load(Relaxed) {
        0 => memory::ram_bytes() / 4,
        bytes => bytes,
    }
}

/// Sets the cap to what `text` says, 0 for the default. [`EINVAL`] if that is not clear.
///
/// A cap below what is shared already stops growth and takes nothing away.
pub(crate) fn set_max(text: &[u8]) -> Result {
    let bytes = parse::bytes(text)
        .and_then(|bytes| {
            if bytes == 0 || bytes >= CHUNK_BYTES as u64 {
                Ok(bytes)
            } else {
                Err(EINVAL)
            }
        })
        .inspect_err(|_| {
            refused(
                "max",
                text,
                "a size of 2M or more (512M), or 0 for the default",
            )
        })?;
    MAX_BYTES.store(bytes, Relaxed);
    changed();
    Ok(())
}

/// For how long memory must be idle to become private again, in milliseconds; 0 is for ever.
pub(crate) fn idle_ms() -> u32 {
    IDLE_MS.load(Relaxed)
}

/// Sets it to what `text` says. [`EINVAL`] if that is not clear.
pub(crate) fn set_idle_ms(text: &[u8]) -> Result {
    let ms = parse::number(text)
        .and_then(|ms| u32::try_from(ms).map_err(|_| EINVAL))
        .and_then(|ms| {
            if ms == 0 || (MIN_IDLE_MS..=MAX_IDLE_MS).contains(&ms) {
                Ok(ms)
            } else {
                Err(EINVAL)
            }
        })
        .inspect_err(|_| {
            refused(
                "idle_ms",
                text,
                "milliseconds from 100 to 3600000 (10000), or 0 for never",
            )
        })?;
    IDLE_MS.store(ms, Relaxed);
    changed();
    Ok(())
}

/// Whether a slot that only the device writes to starts with zeroes instead of private bytes.
#[inline]
pub(crate) fn zero_from_device() -> bool {
    ZERO_FROM_DEVICE.load(Relaxed) != 0
}

/// What a slot starts with that only the device writes to, as a word.
pub(crate) fn from_device() -> &'static str {
    if zero_from_device() {
        "zero"
    } else {
        "preserve"
    }
}

/// Sets it to the word `text`. [`EINVAL`] for any other word.
pub(crate) fn set_from_device(text: &[u8]) -> Result {
    let zero = match text {
        b"preserve" => 0,
        b"zero" => 1,
        _ => {
            refused("from_device", text, "preserve or zero");
            return Err(EINVAL);
        }
    };
    ZERO_FROM_DEVICE.store(zero, Relaxed);
    Ok(())
}

fn refused(name: &str, text: &[u8], form: &str) {
    let text = core::str::from_utf8(text).unwrap_or("(not text)");
    pr_err!("{name}={text} is not understood and changes nothing; write {form}\n");
}

fn changed() {
    if let Some(pool) = crate::pool() {
        pool.doorbell.ring_anyway();
    }
}

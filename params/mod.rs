// SPDX-License-Identifier: GPL-2.0

//! The parameters `cc_swiotlb.watermark=`, `.max=`, `.idle_ms=` and `.from_device=`.
//!
//! They are set by the kernel's configuration, from the command line before memory can be
//! allocated, and from sysfs at any time. A reader gets the present value; kccd is woken when one
//! changes.

pub(crate) mod parse;

use crate::{
    glue::{
        cpus,
        memory, //
    },
    kccd::{
        watermark::{
            Watermark,
            FORM, //
        },
        Idle, //
    },
    pool::class::CHUNK_BYTES,
};
use kernel::{
    bindings,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        global_lock, //
    },
};

/// Stands for `auto`.
const PRICED: u64 = u64::MAX;

/// The least that can be shared: a chunk.
const CHUNK: u64 = CHUNK_BYTES as u64;

global_lock! {
    /// The watermark, [`None`] for the default.
    // SAFETY: `configure()` initialises it, which is called before anything sets or reads it.
    unsafe(uninit) static WATERMARK: SpinLock<Option<Watermark>> = None;
}

static MAX_BYTES: Atomic<u64> = Atomic::new(0);
static IDLE_MS: Atomic<u64> = Atomic::new(PRICED);
static ZERO_FROM_DEVICE: Atomic<bool> = Atomic::new(false);

/// Initial contents of a slot that only the device writes to: private bytes, or zeroes.
const FROM_DEVICE: [&str; 2] = ["preserve", "zero"];

/// Whether [`configure`] has set the values of the kernel's configuration.
static CONFIGURED: Atomic<bool> = Atomic::new(false);

/// Sets the parameters to the values of the kernel's configuration, the first time that it is
/// called: before the command line sets anything, and before anything is read.
pub(crate) fn configure() {
    type Set = fn(&[u8]) -> Result;
    const DEFAULTS: [(Set, &[u8]); 4] = [
        (set_watermark, bindings::CONFIG_CC_SWIOTLB_WATERMARK),
        (set_max, bindings::CONFIG_CC_SWIOTLB_MAX),
        (set_idle_ms, bindings::CONFIG_CC_SWIOTLB_IDLE_MS),
        (set_from_device, bindings::CONFIG_CC_SWIOTLB_FROM_DEVICE),
    ];
    if !CONFIGURED.xchg(true, Relaxed) {
        // SAFETY: There is no other call of it. This one comes with the command line, or else with
        // our first initcall, before anything can read or set the parameter.
        unsafe { WATERMARK.init() };
        for (set, text) in DEFAULTS {
            // Without the byte that terminates it.
            if let Some((_, text @ [_, ..])) = text.split_last() {
                // An error is reported there.
                let _ = set(text);
            }
        }
    }
}

/// The watermark: the one that was set, or the default for the guest's size.
pub(crate) fn watermark() -> Watermark {
    let set = *WATERMARK.lock();
    set.unwrap_or_else(default_watermark)
}

/// The watermark if none is set.
pub(crate) fn default_watermark() -> Watermark {
    Watermark::for_guest(memory::ram_bytes(), cpus::online())
}

/// Sets the watermark from `text`. [`EINVAL`] if that cannot be parsed; nothing changes then.
pub(crate) fn set_watermark(text: &[u8]) -> Result {
    let set = |watermark| *WATERMARK.lock() = Some(watermark);
    understood(Watermark::parse(text).map(set), "watermark", text, FORM)
}

/// The most memory that is ever shared, in bytes: as set, or a quarter of the guest's memory.
pub(crate) fn max_bytes() -> u64 {
    match MAX_BYTES.load(Relaxed) {
        0 => memory::ram_bytes() / 4,
        bytes => bytes,
    }
}

/// Sets the cap from `text`, 0 for the default. [`EINVAL`] if that is no size or too small.
///
/// A cap below what is shared already stops growth and takes nothing away.
pub(crate) fn set_max(text: &[u8]) -> Result {
    let form = "a size of 2M or more (512M), or 0 for the default";
    let bytes = match parse::bytes(text) {
        Ok(1..CHUNK) => Err(EINVAL),
        bytes => bytes,
    };
    let set = |bytes| MAX_BYTES.store(bytes, Relaxed);
    understood(bytes.map(set), "max", text, form)
}

/// When memory that idles becomes private again.
pub(crate) fn idle() -> Idle {
    match IDLE_MS.load(Relaxed) {
        PRICED => Idle::Priced,
        0 => Idle::Never,
        ms => Idle::Ms(ms),
    }
}

/// Sets the idle time from `text`. [`EINVAL`] if that cannot be parsed, or is out of range.
pub(crate) fn set_idle_ms(text: &[u8]) -> Result {
    let ms = match parse::number(text) {
        // From a tenth of a second to an hour.
        Ok(ms @ (0 | 100..=3_600_000)) => Ok(ms),
        Err(_) if text == b"auto" => Ok(PRICED),
        _ => Err(EINVAL),
    };
    let form = "auto, milliseconds from 100 to 3600000 (10000), or 0 for never";
    let set = |ms| IDLE_MS.store(ms, Relaxed);
    understood(ms.map(set), "idle_ms", text, form)
}

/// Whether a slot that only the device writes to starts with zeroes instead of private bytes.
#[inline]
pub(crate) fn zero_from_device() -> bool {
    ZERO_FROM_DEVICE.load(Relaxed)
}

/// The initial contents of a slot that only the device writes to, as a word.
pub(crate) fn from_device() -> &'static str {
    FROM_DEVICE[usize::from(zero_from_device())]
}

/// Sets the initial contents from the word `text`. [`EINVAL`] for any other word.
pub(crate) fn set_from_device(text: &[u8]) -> Result {
    let word = FROM_DEVICE.iter().position(|word| word.as_bytes() == text);
    let set = |word| ZERO_FROM_DEVICE.store(word != 0, Relaxed);
    let done = word.map(set).ok_or(EINVAL);
    understood(done, "from_device", text, "preserve or zero")
}

/// Wakes kccd if a parameter was `set`, and reports the right form if `text` does not have it.
fn understood(set: Result, name: &str, text: &[u8], form: &str) -> Result {
    set.inspect_err(|_| {
        let text = core::str::from_utf8(text).unwrap_or("(not text)");
        pr_err!("{name}={text} is not understood and changes nothing; write {form}\n");
    })?;
    if let Some(pool) = crate::pool() {
        pool.bell.ring_anyway();
    }
    Ok(())
}

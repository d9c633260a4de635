// SPDX-License-Identifier: GPL-2.0

//! The parameters `cc_swiotlb.watermark=`, `.max=`, `.idle_ms=` and `.from_device=`.
//!
//! They are set by the kernel's configuration, from the command line before memory can be allocated,
//! and from sysfs at any time.
//! Whoever reads them gets the value of this moment; kccd is woken when one changes.

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
    /// What is kept ready, [`None`] for the default.
    // SAFETY: `configure()` initialises it, which is called before anything sets or reads it.
    unsafe(uninit) static WATERMARK: SpinLock<Option<Watermark>> = None;
}

static MAX_BYTES: Atomic<u64> = Atomic::new(0);
static IDLE_MS: Atomic<u64> = Atomic::new(PRICED);
static ZERO_FROM_DEVICE: Atomic<bool> = Atomic::new(false);

/// What a slot starts with that only the device writes to: private bytes, or zeroes.
const FROM_DEVICE: [&str; 2] = ["preserve", "zero"];

/// Whether what the kernel was configured with has been set.
static CONFIGURED: Atomic<bool> = Atomic::new(false);

/// Sets what the kernel was configured with, the first time that it is called: before the command line
/// sets anything, and before anything is read.
pub(crate) fn configure() {
    type Set = fn(&[u8]) -> Result;
    const DEFAULTS: [(Set, &[u8]); 4] = [
        (set_watermark, bindings::CONFIG_CC_SWIOTLB_WATERMARK),
        (set_max, bindings::CONFIG_CC_SWIOTLB_MAX),
        (set_idle_ms, bindings::CONFIG_CC_SWIOTLB_IDLE_MS),
        (set_from_device, bindings::CONFIG_CC_SWIOTLB_FROM_DEVICE),
    ];
    if !CONFIGURED.xchg(true, Relaxed) {
        // SAFETY: There is no other call of it. This one comes with the command line, or else with the
        // first initcall of ours, when nothing that reads or sets the parameter is there yet.
        unsafe { WATERMARK.init() };
        for (set, text) in DEFAULTS {
            // Without the byte that ends it.
            if let Some((_, text @ [_, ..])) = text.split_last() {
                // What is wrong with it is said.
                let _ = set(text);
            }
        }
    }
}

/// What is kept ready: what was set, or what the guest's size asks for.
pub(crate) fn watermark() -> Watermark {
    let set = *WATERMARK.lock();
    set.unwrap_or_else(default_watermark)
}

/// What is kept ready if nothing is set.
pub(crate) fn default_watermark() -> Watermark {
    Watermark::for_guest(memory::ram_bytes(), cpus::online())
}

/// Sets the watermark to what `text` says. [`EINVAL`] if that is not clear; nothing changes then.
pub(crate) fn set_watermark(text: &[u8]) -> Result {
    let set = |watermark| *WATERMARK.lock() = Some(watermark);
    understood(Watermark::parse(text).map(set), "watermark", text, FORM)
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

/// Sets it to what `text` says. [`EINVAL`] if that is not clear.
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

/// What a slot starts with that only the device writes to, as a word.
pub(crate) fn from_device() -> &'static str {
    FROM_DEVICE[usize::from(zero_from_device())]
}

/// Sets it to the word `text`. [`EINVAL`] for any other word.
pub(crate) fn set_from_device(text: &[u8]) -> Result {
    let word = FROM_DEVICE.iter().position(|word| word.as_bytes() == text);
    let set = |word| ZERO_FROM_DEVICE.store(word != 0, Relaxed);
    let done = word.map(set).ok_or(EINVAL);
    understood(done, "from_device", text, "preserve or zero")
}

/// Wakes kccd if a parameter was `set`, and says what the right form is if `text` does not have it.
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

// SPDX-License-Identifier: GPL-2.0

//! The watermark and the cap that would have avoided every fallback and every refusal.

use crate::problems::reason_words;
use crate::sample::{Class, Sample};
use crate::text::{bytes, count};
use std::collections::BTreeSet;

/// Memory is converted in units of this size.
const CHUNK_BYTES: u64 = 2 << 20;
/// More than any guest has. A larger value is garbage and is cut down to this one.
const LARGEST: u64 = 1 << 50;

/// The maximum of a value over samples of one boot or of several. Only the demand ever falls.
fn most(samples: &[Sample], value: impl Fn(&Sample) -> Option<u64>) -> u64 {
    let values = samples.iter().filter_map(value);
    values.max().unwrap_or(0).min(LARGEST)
}

/// The bytes of slots that were refused, as if all had been wanted at one time.
fn refused_bytes(sample: &Sample) -> Option<u64> {
    let classes = sample.classes.iter();
    let bytes = classes.filter_map(|c| Some(c.slots.refused?.saturating_mul(c.slot_bytes)));
    bytes.reduce(u64::saturating_add).or(Some(LARGEST))
}

/// Whether nearly all memory was shared that may be, so that it could grow no further.
fn near_cap(sample: &Sample) -> bool {
    let (shared, max) = (sample.pool.peak_shared_bytes, sample.pool.max_bytes);
    let near = |(shared, max): (u64, u64)| shared > max.saturating_sub(2 * CHUNK_BYTES);
    sample.refused_reason.as_deref() == Some("max") || shared.zip(max).is_some_and(near)
}

/// The memory that has to be ready before it is needed, as a round number of bytes.
///
/// It is the memory that was bound at the peak, plus the legacy pool if it had to help, plus a
/// quarter for the slots that CPUs hold and those that only large mappings may take. Where the cap
/// or a lack of memory was in the way, the peak does not show the whole demand: refused bytes are
/// added, but at most three times the peak, since callers try again.
fn enough(samples: &[Sample], watermark: u64, hidden: bool) -> u64 {
    let peak = |s: &Sample| s.pool.peak_bound_bytes.or(s.pool.peak_shared_bytes);
    let peak = most(samples, peak).max(watermark);
    let helped = |s: &Sample| s.pool.legacy_bytes.filter(|_| s.lacked() > Some(0));
    let refused = most(samples, refused_bytes).min(if hidden { 3 * peak } else { 0 });
    let need = (peak + refused + most(samples, helped)) / 4 * 5;
    need.next_multiple_of((need.next_power_of_two() / 16).max(CHUNK_BYTES))
}

/// The advice, in words. The samples, at least one, are in the order of time.
pub fn advise(samples: &[Sample]) -> String {
    let now = &samples[samples.len() - 1];
    let refused = most(samples, |s| s.pool.refused);
    let legacy = most(samples, Sample::lacked);
    let larger = most(samples, |s| s.pool.fallback_larger);
    if now.is_off() || now.pool.refused.is_none() {
        return "cc_swiotlb is off, or does not say whether it refused: no advice.\n".to_string();
    }
    if refused + legacy + larger == 0 {
        return "Nothing needs to change: there were no fallbacks and no refusals.\n".to_string();
    }
    let (times, left, took) = (count(refused), count(legacy), count(larger));
    let mut text = format!(
        "{times} mappings were refused, {left} left to the legacy pool, {took} served by a larger \
         class.\n"
    );
    let refusing = samples.iter().filter(|s| s.pool.refused > Some(0));
    let mut reasons = BTreeSet::from_iter(refusing.map(|s| s.refused_reason.as_deref()));
    for reason in &reasons {
        let (why, helps) = reason_words(*reason);
        text += &format!("Refused because {why}: {helps}.\n");
    }
    reasons.remove(&Some("oversize"));
    if reasons == BTreeSet::from([Some("host")]) || reasons.is_empty() && legacy + larger == 0 {
        return text + "Nothing needs to change in this guest.\n";
    }
    let last = &samples[samples.len() - 1..];
    let idle = most(last, |s| s.pool.watermark_bytes);
    let cap = most(last, |s| s.pool.max_bytes);
    let hidden = reasons.contains(&Some("memory")) || samples.iter().any(near_cap);
    let enough = enough(samples, idle, hidden);
    let reached = most(samples, |s| s.pool.max_bytes.filter(|_| near_cap(s)));
    let list = |class: &Class| class.slots.watermark > Some(0);
    if now.classes.iter().any(list) {
        text += "The total below takes the place of the list of slots that is set now.\n";
    }
    let most = enough
        .max(cap)
        .max(reached / 4 * 5)
        .next_multiple_of(CHUNK_BYTES);
    let (watermark, max) = (enough.div_ceil(1 << 20), most.div_ceil(1 << 20));
    let (idle, cap, more) = (bytes(idle), bytes(cap), bytes(enough - idle));
    let (idle_then, cap_then) = (bytes(enough), bytes(most));
    text + &format!(
        "
On the kernel command line:
cc_swiotlb.watermark={watermark}M cc_swiotlb.max={max}M

When the kernel is built:
CONFIG_CC_SWIOTLB_WATERMARK=\"{watermark}M\"
CONFIG_CC_SWIOTLB_MAX=\"{max}M\"

At once, until the next boot:
echo {max}M >/sys/module/cc_swiotlb/parameters/max
echo {watermark}M >/sys/module/cc_swiotlb/parameters/watermark

Shared while idle: {idle} now, {idle_then} then, {more} more.
Shared under load: at most {cap} now, {cap_then} then.
"
    )
}

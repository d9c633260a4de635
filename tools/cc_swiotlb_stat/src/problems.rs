// SPDX-License-Identifier: GPL-2.0

//! What is wrong, in words, and which parameter helps.

use crate::sample::{rate, Sample};
use crate::text;
use std::cmp::Reverse;

/// How bad it is; the number is the exit status of `--check`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Good to know; nothing fails for it.
    Note = 0,
    /// It was bad at some time since boot, or may become so.
    Warning = 1,
    /// It gets worse now, or lasts until a reboot.
    Critical = 2,
}

pub struct Problem {
    pub severity: Severity,
    pub what: String,
    pub helps: &'static str,
}

const WATERMARK: &str = "raise cc_swiotlb.watermark=";
const MAX: &str = "raise cc_swiotlb.max=";
const HOST: &str = "no parameter helps, look at the host";
const DMESG: &str = "see dmesg | grep cc_swiotlb";

/// Why mappings are refused, and what helps.
pub fn reason_words(reason: Option<&str>) -> (&'static str, &'static str) {
    match reason {
        Some("slow") => ("kccd was still converting memory", WATERMARK),
        Some("max") => ("cc_swiotlb.max= was reached", MAX),
        Some("memory") => ("there was no memory to convert", WATERMARK),
        Some("oversize") => ("no slot can hold them", "no parameter helps"),
        Some("host") => ("the host refused to share memory", HOST),
        _ => ("the reason is not known", DMESG),
    }
}

/// A problem that is counted: the counter, the severity once it happened and while it goes on, the
/// problem in words, the remedy.
type Counted<'a> = (
    fn(&Sample) -> Option<u64>,
    Severity,
    Severity,
    &'a str,
    &'static str,
);

/// All problems, the worst first. The last sample is the current one.
pub fn problems(samples: &[Sample]) -> Vec<Problem> {
    use Severity::*;

    let now = &samples[samples.len() - 1];
    let mut found = Vec::new();
    #[rustfmt::skip]
    let mut add = |severity, what, helps| found.push(Problem { severity, what, helps });
    if now.is_off() {
        let what = "cc_swiotlb is off, swiotlb serves".to_string();
        add(Note, what, "cc_swiotlb.enable=1 turns it on at boot");
    }
    if let Some(leaked @ 1..) = now.pool.leaked_bytes {
        let leaked = text::bytes(leaked);
        add(Critical, format!("{leaked} in an unknown state"), HOST);
    }
    if let (Some(bound), Some(max @ 1..)) = (now.pool.bound_bytes, now.pool.max_bytes) {
        if bound / 9 >= max / 10 {
            let (bound, max) = (text::bytes(bound), text::bytes(max));
            let what = format!("{bound} bound of at most {max}");
            add(Warning, what, MAX);
        }
    }
    let (reason, helps) = reason_words(now.refused_reason.as_deref());
    let refused = format!("mappings refused, {reason}");
    #[rustfmt::skip]
    let counted: [Counted<'_>; 9] = [
        (|s| s.pool.refused, Warning, Critical, &refused, helps),
        (|s| s.pool.conversion_failures, Warning, Critical, "conversions failed", HOST),
        (|s| s.pool.give_back_failures, Warning, Warning, "give-backs failed", HOST),
        (|s| s.pool.misuse, Warning, Warning, "wrong calls by a defective driver", DMESG),
        (Sample::lacked, Warning, Warning, "mappings left to the legacy pool", WATERMARK),
        (|s| s.pool.allocation_failures, Note, Warning, "times memory was short", WATERMARK),
        (|s| s.pool.fallback_larger, Note, Note, "mappings served by a larger class", WATERMARK),
        (|s| s.pool.fallback_oversize, Note, Note, "mappings larger than any slot",
         "no parameter helps"),
        (|s| s.pool.fallback_unreachable, Note, Note, "mappings of devices that reach no slot",
         "swiotlb= sets the size of their pool"),
    ];
    for (value, once, growing, what, helps) in counted {
        let Some(times @ 1..) = value(now) else {
            continue;
        };
        let times = text::count(times);
        match rate(samples, value).map(text::per_second) {
            Some(rate) if rate != "0" => add(growing, format!("{times} ({rate}/s) {what}"), helps),
            _ => add(once, format!("{times} {what}"), helps),
        }
    }
    found.sort_by_key(|problem| Reverse(problem.severity));
    found
}

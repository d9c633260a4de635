// SPDX-License-Identifier: GPL-2.0

//! One look at the allocator: the files that it has in sysfs, one value each.
//!
//! If a file is missing or holds something else, its value is unknown, and that is all: kernels
//! older and newer than this program have other files.

use serde::{Deserialize, Serialize};
use std::{fmt::Display, fs, path::Path, time::SystemTime};

const NO_FOLDER: &str =
    "This kernel has no cc_swiotlb (CONFIG_CC_SWIOTLB=y), or sysfs is not mounted \
    (mount -t sysfs sysfs /sys).\n--sysfs DIR names another folder, --replay FILE a log.";

/// A file with a number: its name, `gauge` or `counter` (since boot), what it is.
pub struct File {
    pub name: &'static str,
    pub kind: &'static str,
    pub help: &'static str,
    pub value: fn(&Values) -> Option<u64>,
}

/// Defines a struct with a field for each file, under the name of the file.
macro_rules! values {
    ($($kind:ident $file:ident: $help:literal,)*) => {
        /// The values of the whole allocator, or of one size class.
        #[derive(Clone, Default, Serialize, Deserialize)]
        pub struct Values {
            $(#[doc = $help]
            #[serde(skip_serializing_if = "Option::is_none")]
            pub $file: Option<u64>,)*
        }

        impl Values {
            pub const FILES: &'static [File] = &[$(File {
                name: stringify!($file),
                kind: stringify!($kind),
                help: $help,
                value: |values| values.$file,
            }),*];

            fn read(folder: &Path) -> Self {
                let number = |file| fs::read_to_string(folder.join(file)).ok()?.trim().parse().ok();
                Self { $($file: number(stringify!($file))),* }
            }
        }
    };
}

values! {
    gauge shared_bytes: "Memory that is shared with the host",
    gauge peak_shared_bytes: "Most memory that was shared at a time since boot",
    gauge max_bytes: "Most memory that may be shared, cc_swiotlb.max=",
    gauge watermark_bytes: "Memory that is kept ready, cc_swiotlb.watermark=",
    gauge legacy_bytes: "Size of the legacy pool of swiotlb",
    gauge bound_bytes: "Shared memory that is bound to a size class",
    gauge peak_bound_bytes: "Most memory that was bound at a time since boot",
    gauge unbound_bytes: "Shared memory that is ready for any size class",
    gauge in_use_bytes: "Slots that mappings hold, in bytes",
    gauge demand_bytes: "Most memory that was bound at a time of late",
    gauge lent_bytes: "Memory that drivers have as it is, without a mapping",
    gauge lent_span_bytes: "Bound memory that is set aside for that",
    gauge leaked_bytes: "Memory in an unknown state after conversions that failed",
    gauge slots: "Slots of the size class",
    gauge free: "Slots that are free in the depots",
    gauge cached: "Slots that CPUs hold",
    gauge in_use: "Slots that mappings hold",
    gauge watermark: "Slots that cc_swiotlb.watermark= keeps ready",
    counter mapped: "Mappings that were made",
    counter unmapped: "Mappings that were undone",
    counter mapped_bytes: "Slots that mappings took, in bytes",
    counter unmapped_bytes: "Slots that mappings gave back, in bytes",
    counter fallback_larger: "Mappings that a larger size class served",
    counter fallback_legacy: "Mappings left to the legacy pool, for whatever reason",
    counter fallback_unreachable: "Of these, those whose device does not reach the slot",
    counter fallback_oversize: "Of these, those that no slot can hold",
    counter fallback_early: "Mappings left to the legacy pool before the allocator had started",
    counter lend_refused: "Times that no memory was ready to be lent",
    counter lend_oversize: "Times that more was asked for than is lent",
    counter lend_deferred: "Times that lent memory was given back while others used it",
    counter refused: "Mappings that were refused",
    counter conversions: "Conversions from private to shared memory",
    counter conversion_bytes: "Memory that was converted from private to shared",
    counter conversion_ns: "Time that conversions from private to shared took",
    counter conversion_failures: "Conversions from private to shared that failed",
    counter give_backs: "Conversions from shared to private memory",
    counter give_back_bytes: "Memory that was converted from shared to private",
    counter give_back_ns: "Time that conversions from shared to private took",
    counter give_back_failures: "Conversions from shared to private that failed",
    counter allocation_failures: "Times that there was no memory to convert",
    counter single_spans: "Times that there was no 2 MiB in one piece to convert, but 512 KiB",
    counter misuse: "Calls that no correct driver makes",
}

/// One size class.
#[derive(Clone, Serialize, Deserialize)]
pub struct Class {
    /// The size, as the folder in sysfs has it: `4kB`.
    pub class: String,
    pub slot_bytes: u64,
    #[serde(flatten)]
    pub slots: Values,
}

/// All values at one time.
#[derive(Clone, Serialize, Deserialize)]
pub struct Sample {
    /// Milliseconds since 1970.
    pub time_ms: u64,
    /// `on` or `off`.
    pub state: Option<String>,
    /// Why the last mapping was refused: `none`, `slow`, `max`, `memory`, `host`, `oversize`.
    pub refused_reason: Option<String>,
    #[serde(flatten)]
    pub pool: Values,
    /// The smallest first.
    #[serde(default)]
    pub classes: Vec<Class>,
}

impl Sample {
    /// Reads the folder of the allocator. An error is a text for the user.
    pub fn read(folder: &Path) -> Result<Self, String> {
        let said = |error| format!("{}: {error}\n{NO_FOLDER}", folder.display());
        fs::read_dir(folder).map_err(said)?;
        let mut classes = Vec::new();
        for slot_bytes in (9..31).map(|shift| 1 << shift) {
            let class = match slot_bytes {
                512 => "512B".to_string(),
                _ => format!("{}kB", slot_bytes >> 10),
            };
            let folder = folder.join(format!("slots-{class}"));
            if folder.is_dir() {
                classes.push(Class {
                    slots: Values::read(&folder),
                    slot_bytes,
                    class,
                });
            }
        }
        let word = |file| {
            let text = fs::read_to_string(folder.join(file)).ok()?;
            let word = text.trim();
            let letters = word.bytes().all(|byte| byte.is_ascii_lowercase());
            (letters && !word.is_empty()).then(|| word.to_string())
        };
        let time = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        Ok(Self {
            time_ms: time.as_millis() as u64,
            state: word("state"),
            refused_reason: word("refused_reason"),
            pool: Values::read(folder),
            classes,
        })
    }

    /// Reads the samples of a log, at least one. Other lines are left out, and a message says so.
    pub fn read_log(log: &Path) -> Result<Vec<Self>, String> {
        let said = |error: &dyn Display| format!("{}: {error}", log.display());
        let text = fs::read(log).map_err(|error| said(&error))?;
        let lines = text.split(|byte| *byte == b'\n');
        let lines: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
        let samples = lines.iter().flat_map(|line| serde_json::from_slice(line));
        let samples: Vec<Self> = samples.collect();
        match lines.len() - samples.len() {
            _ if samples.is_empty() => return Err(said(&"there is no sample in it")),
            0 => {}
            bad => eprintln!("{}", said(&format!("left out {bad} lines, no samples"))),
        }
        Ok(samples)
    }

    /// Mappings left to the legacy pool for lack of a slot, not due to the mapping or its device.
    pub fn lacked(&self) -> Option<u64> {
        let other = [self.pool.fallback_unreachable, self.pool.fallback_oversize];
        let other = other.into_iter().flatten().fold(0, u64::saturating_add);
        Some(self.pool.fallback_legacy?.saturating_sub(other))
    }

    pub fn is_off(&self) -> bool {
        self.state.as_deref() == Some("off")
    }
}

/// The growth of a value per second between the last two samples, if both have it. After a reboot
/// in between, when counters begin anew, it is unknown.
pub fn rate(samples: &[Sample], value: impl Fn(&Sample) -> Option<u64>) -> Option<f64> {
    let [.., before, now] = samples else {
        return None;
    };
    let ms = now.time_ms.checked_sub(before.time_ms)?;
    if ms == 0 || now.pool.mapped < before.pool.mapped {
        return None;
    }
    Some((value(now)? as f64 - value(before)? as f64) * 1e3 / ms as f64)
}

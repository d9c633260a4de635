// SPDX-License-Identifier: GPL-2.0

//! A sample in the text format of Prometheus: base units, counters that end in `_total`.

use crate::sample::{File, Sample, Values};

/// The head of a metric.
fn head(name: &str, kind: &str, help: &str) -> String {
    format!("# HELP {name} {help}.\n# TYPE {name} {kind}\n")
}

/// A file as a metric, with a line under its label for each folder that has the file.
fn metric(file: &File, prefix: &str, folders: &[(String, &Values)]) -> String {
    let ns = file.name.strip_suffix("_ns");
    let name = ns.map_or(file.name.to_string(), |name| format!("{name}_seconds"));
    let total = if file.kind == "counter" { "_total" } else { "" };
    let name = format!("{prefix}_{name}{total}");
    let mut text = String::new();
    for (label, folder) in folders {
        match (file.value)(folder) {
            Some(value) if ns.is_some() => {
                text += &format!("{name}{label} {}\n", value as f64 / 1e9);
            }
            Some(value) => text += &format!("{name}{label} {value}\n"),
            None => {}
        }
    }
    match text.is_empty() {
        true => text,
        false => head(&name, file.kind, file.help) + &text,
    }
}

/// All values of the sample that are known.
pub fn prom(sample: &Sample) -> String {
    let mut text = String::new();
    if let Some(state) = &sample.state {
        text += &head(
            "cc_swiotlb_enabled",
            "gauge",
            "Whether the allocator serves",
        );
        text += &format!("cc_swiotlb_enabled {}\n", u8::from(state == "on"));
    }
    if let Some(reason) = &sample.refused_reason {
        let name = "cc_swiotlb_refused_reason";
        text += &head(name, "gauge", "Why the last mapping was refused");
        text += &format!("{name}{{reason=\"{reason}\"}} 1\n");
    }
    let classes = sample.classes.iter();
    let classes: Vec<_> = classes
        .map(|class| (format!("{{class=\"{}\"}}", class.class), &class.slots))
        .collect();
    let pool = (String::new(), &sample.pool);
    for (prefix, folders) in [("cc_swiotlb", &[pool][..]), ("cc_swiotlb_class", &classes)] {
        for file in Values::FILES {
            text += &metric(file, prefix, folders);
        }
    }
    text
}

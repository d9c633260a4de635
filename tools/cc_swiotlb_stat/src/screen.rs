// SPDX-License-Identifier: GPL-2.0

//! The lines that are shown to people, by the live view, for a log, and by `--once`.

use crate::problems::{problems, Severity};
use crate::sample::{rate, Class, Sample, Values};
use crate::text::{bytes, count, growth, per_second, shown, time};
use ratatui::style::{Style, Stylize};
use ratatui::text::Line;

/// The average time of one conversion.
fn each(ns: Option<u64>, times: Option<u64>) -> String {
    match (ns, times) {
        (Some(ns), Some(times @ 1..)) => format!("{:.1} ms", ns as f64 / 1e6 / times as f64),
        _ => "-".to_string(),
    }
}

/// The state of all classes together, as names and values: four to a line where it is narrow.
fn summary(samples: &[Sample]) -> [(&'static str, String); 24] {
    let pool = &samples[samples.len() - 1].pool;
    let size = |value: Option<u64>| shown(value, bytes);
    let times = |value: Option<u64>| shown(value, count);
    let grown = |value: fn(&Values) -> Option<u64>, show: fn(f64) -> String| {
        rate(samples, |sample| value(&sample.pool)).map_or("-".to_string(), show)
    };
    [
        ("shared", size(pool.shared_bytes)),
        ("at most", size(pool.max_bytes)),
        ("peak", size(pool.peak_shared_bytes)),
        ("growth/s", grown(|pool| pool.shared_bytes, growth)),
        ("bound", size(pool.bound_bytes)),
        ("unbound", size(pool.unbound_bytes)),
        ("in use", size(pool.in_use_bytes)),
        ("of late", size(pool.demand_bytes)),
        ("watermark", size(pool.watermark_bytes)),
        ("legacy", size(pool.legacy_bytes)),
        ("lost", size(pool.leaked_bytes)),
        ("refused", times(pool.refused)),
        ("mapped", times(pool.mapped)),
        ("mapped/s", grown(|pool| pool.mapped, per_second)),
        (
            "bytes/s",
            grown(|pool| pool.mapped_bytes, |rate| bytes(rate as u64)),
        ),
        ("misuse", times(pool.misuse)),
        ("converted", size(pool.conversion_bytes)),
        ("times", times(pool.conversions)),
        ("each", each(pool.conversion_ns, pool.conversions)),
        ("failed", times(pool.conversion_failures)),
        ("gave back", size(pool.give_back_bytes)),
        ("times", times(pool.give_backs)),
        ("each", each(pool.give_back_ns, pool.give_backs)),
        ("failed", times(pool.give_back_failures)),
    ]
}

/// A class as a row of the table: titles, widths, cells, the most important first.
#[rustfmt::skip]
fn row(samples: &[Sample], class: &Class) -> Vec<(&'static str, usize, String)> {
    let slots = &class.slots;
    let grown = |value: fn(&Values) -> Option<u64>| {
        rate(samples, |sample| {
            let mut classes = sample.classes.iter();
            value(&classes.find(|other| other.slot_bytes == class.slot_bytes)?.slots)
        })
    };
    let mut cells = vec![
        ("CLASS ", 6, format!("{:<6}", class.class)),
        ("BOUND", 10, shown(slots.bound_bytes, bytes)),
        ("SLOTS", 8, shown(slots.slots, count)),
        ("IN USE", 8, shown(slots.in_use, count)),
        ("FREE", 8, shown(slots.free, count)),
        ("CACHED", 7, shown(slots.cached, count)),
        ("MAPPED", 9, shown(slots.mapped, count)),
        ("LARGER", 8, shown(slots.fallback_larger, count)),
        ("LEGACY", 8, shown(slots.fallback_legacy, count)),
        ("REFUSED", 8, shown(slots.refused, count)),
        ("KEPT", 8, shown(slots.watermark, count)),
    ];
    if samples.len() > 1 {
        cells[6] = ("MAPPED/S", 9, shown(grown(|slots| slots.mapped), per_second));
        cells.push(("BYTES/S", 12, shown(grown(|slots| slots.mapped_bytes), |rate| bytes(rate as u64))));
        cells.push(("GROWTH/S", 12, shown(grown(|slots| slots.bound_bytes), growth)));
    }
    cells
}

/// The whole screen, in lines. Only those that describe problems are longer than `width`. The last
/// sample is the current one.
pub fn screen(samples: &[Sample], width: usize) -> Vec<Line<'static>> {
    let now = &samples[samples.len() - 1];
    let state = now.state.as_deref().unwrap_or("in an unknown state");
    let state = format!("cc_swiotlb is {state}");
    let space = width.saturating_sub(state.len());
    let time = format!("{} UTC", time(now.time_ms));
    let mut lines = vec![Line::raw(format!("{state}{time:>space$}")).bold()];
    let summary = summary(samples);
    for cells in summary.chunks(4).filter(|_| !now.is_off()) {
        let mut line = String::new();
        for (name, value) in cells {
            line += &format!("{name}{value:>0$} ", 19 - name.len());
        }
        lines.push(line.into());
    }
    for class in &now.classes {
        let (mut titles, mut cells) = (String::new(), String::new());
        for (title, wide, cell) in row(samples, class) {
            if cells.len() + wide <= width {
                titles += &format!("{title:>wide$}");
                cells += &format!("{cell:>wide$}");
            }
        }
        if class.slot_bytes == now.classes[0].slot_bytes {
            lines.push(Line::raw(titles).reversed());
        }
        lines.push(cells.into());
    }
    let found = problems(samples);
    if found.is_empty() {
        lines.push("Nothing is wrong.".into());
    }
    for problem in found {
        let style = match problem.severity {
            Severity::Note => Style::new(),
            Severity::Warning => Style::new().yellow(),
            Severity::Critical => Style::new().red().bold(),
        };
        let text = format!("{}: {}.", problem.what, problem.helps);
        lines.push(Line::styled(text, style));
    }
    lines
}

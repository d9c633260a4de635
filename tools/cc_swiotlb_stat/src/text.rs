// SPDX-License-Identifier: GPL-2.0

//! Values as people read them.

/// A value, or the placeholder for one that is not known.
pub fn shown<T>(value: Option<T>, show: impl Fn(T) -> String) -> String {
    value.map_or("?".to_string(), show)
}

/// A number of bytes: `512 B`, `34.0 MiB`.
pub fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"].iter();
    let mut unit = units.next();
    while value >= 999.95 && units.len() > 0 {
        (value, unit) = (value / 1024.0, units.next());
    }
    let digits = usize::from(unit != Some(&"B"));
    format!("{value:.digits$} {}", unit.unwrap_or(&""))
}

/// A number of anything else: `12,345`, and from a million on `12.3M`.
pub fn count(count: u64) -> String {
    match count {
        0..1_000 => count.to_string(),
        1_000..1_000_000 => format!("{},{:03}", count / 1_000, count % 1_000),
        1_000_000..1_000_000_000 => format!("{:.1}M", count as f64 / 1e6),
        _ => format!("{:.1}G", count as f64 / 1e9),
    }
}

/// How often something happens in a second: `0.3`, `12,345`.
pub fn per_second(rate: f64) -> String {
    match rate > 0.0 && rate < 9.95 {
        true => format!("{rate:.2}"),
        false => count(rate.round() as u64),
    }
}

/// By how many bytes something grows or shrinks in a second: `+2.0 MiB`.
pub fn growth(rate: f64) -> String {
    let sign = if rate < 0.0 { '-' } else { '+' };
    format!("{sign}{}", bytes(rate.abs() as u64))
}

/// Date and time, UTC, of milliseconds since 1970: `2026-01-31 12:34:56`.
pub fn time(ms: u64) -> String {
    // Up to the year 9999.
    let second = ms.min(253_402_300_799_999) / 1000;
    let (mut day, second) = (second / 86_400 + 1, second % 86_400);
    let (mut year, mut month) = (1970, 1);
    loop {
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let february = if leap { 29 } else { 28 };
        let length = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][month - 1];
        if day <= length {
            break;
        }
        day -= length;
        (year, month) = (year + month / 12, month % 12 + 1);
    }
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

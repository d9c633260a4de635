// SPDX-License-Identifier: GPL-2.0

//! Numbers as users write them.

use kernel::prelude::*;

/// A decimal number. [`EINVAL`] for anything else, an overflow included.
pub(crate) fn number(text: &[u8]) -> Result<u64> {
    let digits = core::str::from_utf8(text)?;
    // All other characters that are no digits fail by themselves.
    let number = digits.parse().ok().filter(|_| !digits.starts_with('+'));
    number.ok_or(EINVAL)
}

/// A decimal number of bytes, with K, M, G or T for powers of 1024. [`EINVAL`] for anything else.
pub(crate) fn bytes(text: &[u8]) -> Result<u64> {
    let (digits, shift) = match text.split_last() {
        Some((b'k' | b'K', digits)) => (digits, 10),
        Some((b'm' | b'M', digits)) => (digits, 20),
        Some((b'g' | b'G', digits)) => (digits, 30),
        Some((b't' | b'T', digits)) => (digits, 40),
        _ => (text, 0),
    };
    number(digits)?.checked_mul(1 << shift).ok_or(EINVAL)
}

#[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
#[kunit_tests(cc_swiotlb_parse)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_sizes() {
        for (text, value) in [
            ("0", 0),
            ("007", 7),
            ("4K", 4 << 10),
            ("64m", 64 << 20),
            ("3G", 3 << 30),
            ("1T", 1 << 40),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(bytes(text.as_bytes()), Ok(value));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "K",
            "-1",
            "+1",
            " 1",
            "1 ",
            "1.5M",
            "0x10",
            "1KB",
            "4KK",
            "18446744073709551616",
            "16777216T",
        ] {
            assert_eq!(bytes(text.as_bytes()), Err(EINVAL));
        }
    }
}

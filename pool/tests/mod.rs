// SPDX-License-Identifier: GPL-2.0

//! Tests of the supply: spans and slots without memory, which are only counted.

mod depot;
mod stock;

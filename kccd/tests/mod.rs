// SPDX-License-Identifier: GPL-2.0

//! Tests of kccd without its thread.

mod lent;
mod memory;
mod pace;
mod policy;

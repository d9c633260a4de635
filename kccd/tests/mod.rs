// SPDX-License-Identifier: GPL-2.0

//! Tests of kccd without a thread and without memory.

mod pace;
mod policy;

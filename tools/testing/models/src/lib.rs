// SPDX-License-Identifier: GPL-2.0

//! The lockless parts of the pool, in every order that the memory model of C11 allows.
//!
//! The sources are those of the kernel. Beneath them, in place of the crate `kernel`, are the atomics
//! of loom, which tries all interleavings and all values that a load may see. Where the kernel relies
//! on an address dependency, which C11 does not have, the model loads the address with acquire.

#![cfg(test)]

extern crate self as kernel;

mod atomics;
mod pool;

/// These sources need nothing of the kernel's prelude.
mod prelude {}

mod sync {
    pub(crate) use crate::atomics as atomic;

    pub(crate) mod barrier {
        use loom::sync::atomic::{fence, Ordering};

        pub(crate) struct Read;
        pub(crate) struct Write;

        pub(crate) trait Barrier {
            const FENCE: Ordering;
        }

        impl Barrier for Read {
            const FENCE: Ordering = Ordering::Acquire;
        }

        impl Barrier for Write {
            const FENCE: Ordering = Ordering::Release;
        }

        pub(crate) fn smp_mb<B: Barrier>(_: B) {
            fence(B::FENCE);
        }
    }
}

mod glue {
    pub(crate) mod once {
        use crate::atomics::{Atomic, Relaxed};

        pub(crate) fn read_once(from: &Atomic<u64>) -> u64 {
            from.load(Relaxed)
        }
    }
}

// SPDX-License-Identifier: GPL-2.0

//! A kernel thread, and how it is started: the `kernel` crate has none yet.

use kernel::{
    bindings,
    error::from_err_ptr,
    prelude::*, //
};

/// The best nice value.
const MIN_NICE: c_long = -20;

/// What a thread runs.
pub(crate) trait Work: Sync + 'static {
    /// The body of the thread, which ends with it. May sleep.
    fn run(&'static self);
}

/// Starts a thread called `name` that gets as much of a CPU as an ordinary thread can.
///
/// May sleep.
pub(crate) fn spawn<W: Work>(name: &'static CStr, work: &'static W) -> Result {
    // SAFETY:
    // - `main::<W>` takes what is passed to it, a pointer that is valid for ever.
    // - The format consumes one string.
    let task = from_err_ptr(unsafe {
        bindings::kthread_create_on_node(
            Some(main::<W>),
            core::ptr::from_ref(work).cast_mut().cast(),
            bindings::NUMA_NO_NODE,
            c"%s".as_char_ptr(),
            name.as_char_ptr(),
        )
    })?;
    // SAFETY: The task was just created and does not run before it is woken; after that it is not
    // used here.
    unsafe {
        bindings::set_user_nice(task, MIN_NICE);
        bindings::wake_up_process(task);
    }
    Ok(())
}

/// What the kthread calls.
///
/// # Safety
///
/// `work` must be a `&'static W`.
unsafe extern "C" fn main<W: Work>(work: *mut c_void) -> c_int {
    // SAFETY: By the safety requirement.
    let work: &'static W = unsafe { &*work.cast_const().cast() };
    work.run();
    0
}

// SPDX-License-Identifier: GPL-2.0

//! A kernel thread, and how it is started: the `kernel` crate has none yet.

use kernel::{
    bindings,
    error::from_err_ptr,
    prelude::*, //
};

/// The best nice value.
const MIN_NICE: c_long = -20;

/// Starts a thread called `name` that gets as much CPU time as an ordinary thread can. It runs
/// `work`, which may sleep, and ends with it. The name must not contain a `%`.
///
/// May sleep. If it cannot be started, `work` is never dropped.
pub(crate) fn spawn<W: FnMut() + Send + 'static>(name: &'static CStr, work: W) -> Result {
    let work = KBox::new(work, GFP_KERNEL)?;
    // SAFETY:
    // - `main::<W>` takes ownership of the pointer that is passed to it, and is called once.
    // - The name is a format string that takes no arguments.
    let task = from_err_ptr(unsafe {
        bindings::kthread_create_on_node(
            Some(main::<W>),
            KBox::into_raw(work).cast(),
            bindings::NUMA_NO_NODE,
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

/// The function that the kthread calls.
///
/// # Safety
///
/// `work` must be a `KBox<W>` that nobody else has.
unsafe extern "C" fn main<W: FnMut()>(work: *mut c_void) -> c_int {
    // SAFETY: By the safety requirement.
    let mut work: KBox<W> = unsafe { KBox::from_raw(work.cast()) };
    work();
    0
}

// SPDX-License-Identifier: GPL-2.0

//! A kernel thread, and how it is started and stopped: the `kernel` crate has none yet.

use core::ptr::NonNull;
use kernel::{
    bindings,
    error::from_err_ptr,
    prelude::*, //
};

/// What a thread runs. Returns when [`Work::stop`] has been called, from any context.
pub(crate) trait Work: Sync + 'static {
    /// The body of the thread. May sleep.
    fn run(&'static self);
    /// Asks [`Work::run`] to return, at once.
    fn stop(&self);
}

/// A running thread.
///
/// # Invariants
///
/// `task` is a kthread that has not been stopped; a reference to it is ours. It runs
/// `work.run()`, and returns only after [`kthread_stop`](bindings::kthread_stop).
pub(crate) struct Thread<W: Work> {
    task: NonNull<bindings::task_struct>,
    work: &'static W,
}

// SAFETY: A task can be woken and stopped from any thread.
unsafe impl<W: Work> Send for Thread<W> {}

// SAFETY: Nothing is done by a shared reference.
unsafe impl<W: Work> Sync for Thread<W> {}

impl<W: Work> Thread<W> {
    /// Starts a thread called `name` that runs before all ordinary threads.
    ///
    /// As one of them, even with the best nice value, it would have to wait for its turn behind those
    /// whose demand it has to meet, and share the CPU with them while they wait for it. It must not
    /// run for long without a reason, nor spin.
    ///
    /// May sleep.
    pub(crate) fn spawn(name: &'static CStr, work: &'static W) -> Result<Self> {
        // SAFETY:
        // - `main::<W>` takes what is passed to it, a pointer that is valid for ever.
        // - The format consumes one string.
        let task = from_err_ptr(unsafe {
            bindings::kthread_create_on_node(
                Some(Self::main),
                core::ptr::from_ref(work).cast_mut().cast(),
                bindings::NUMA_NO_NODE,
                c"%s".as_char_ptr(),
                name.as_char_ptr(),
            )
        })?;
        let task = NonNull::new(task).ok_or(ENOMEM)?;
        // SAFETY: The task was just created and does not run before it is woken.
        unsafe {
            bindings::sched_set_fifo_low(task.as_ptr());
            bindings::get_task_struct(task.as_ptr());
            bindings::wake_up_process(task.as_ptr());
        }
        // INVARIANT: Just created, with a reference of our own.
        Ok(Self { task, work })
    }

    /// What the kthread calls.
    ///
    /// # Safety
    ///
    /// `work` must be a `&'static W`.
    unsafe extern "C" fn main(work: *mut c_void) -> c_int {
        // SAFETY: By the safety requirement.
        let work: &'static W = unsafe { &*work.cast_const().cast() };
        work.run();
        // The task must live until `kthread_stop()`, which fetches the result.
        // SAFETY: We are a kthread.
        while !unsafe { bindings::kthread_should_stop() } {
            // SAFETY: `kthread_stop()` wakes us; any other wake-up leads to another look.
            unsafe { bindings::schedule_timeout_interruptible(bindings::HZ as c_long) };
        }
        0
    }

    /// Asks the thread to return, and waits until it has.
    ///
    /// May sleep. kccd runs as long as the kernel does: only tests stop a thread.
    #[cfg_attr(not(CONFIG_CC_SWIOTLB_KUNIT_TEST), expect(dead_code))]
    pub(crate) fn stop(self) {
        self.work.stop();
        // SAFETY: By the type invariant the task is a kthread that has not been stopped, and we
        // hold a reference.
        unsafe {
            bindings::kthread_stop(self.task.as_ptr());
            bindings::put_task_struct(self.task.as_ptr());
        }
    }
}

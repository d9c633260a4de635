// SPDX-License-Identifier: GPL-2.0

//! References that can be replaced while others read them.

use super::once::read_once;
use core::ptr;
use kernel::sync::atomic::{
    Atomic,
    Release, //
};

/// A reference to something that is never freed, or nothing.
///
/// [`Link::set`] publishes the target with a release store. That pairs with the address dependency
/// of an access through the reference that [`Link::get`] returns, as with `rcu_dereference()`.
///
/// # Invariants
///
/// The pointer is null or was made from a `&'static T`.
pub(crate) struct Link<T: Sync + 'static>(Atomic<*mut T>);

impl<T: Sync + 'static> Link<T> {
    /// A link that refers to nothing.
    pub(crate) const fn new() -> Self {
        // INVARIANT: Null.
        Self(Atomic::new(ptr::null_mut()))
    }

    /// The target of the link.
    #[inline]
    pub(crate) fn get(&self) -> Option<&'static T> {
        let target = read_once(&self.0).cast_const();
        // SAFETY: By the type invariant it is null, or valid for reads for ever.
        unsafe { target.as_ref() }
    }

    /// Makes it refer to `target`.
    pub(crate) fn set(&self, target: Option<&'static T>) {
        let target = target.map_or(ptr::null(), ptr::from_ref);
        // INVARIANT: Null, or just made from a `&'static T`.
        self.0.store(target.cast_mut(), Release);
    }
}

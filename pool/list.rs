// SPDX-License-Identifier: GPL-2.0

//! Lists of spans and of chunks, linked through what is in them: to add or to remove one takes a
//! few instructions and cannot fail.
//!
//! # Locking
//!
//! The links of what is in a list belong to the lock that guards the list.

use crate::glue::link::Link;

/// What can be in one list at a time.
pub(crate) trait Linked: Sync + Sized + 'static {
    /// Its place in the list that it is in.
    fn links(&self) -> &Links<Self>;
}

/// The neighbours in a list.
pub(crate) struct Links<T: Linked> {
    previous: Link<T>,
    next: Link<T>,
}

impl<T: Linked> Links<T> {
    /// In no list.
    pub(crate) const fn new() -> Self {
        Self {
            previous: Link::new(),
            next: Link::new(),
        }
    }
}

/// A list; what was added last comes first.
pub(crate) struct List<T: Linked> {
    head: Option<&'static T>,
}

impl<T: Linked> List<T> {
    /// An empty list.
    pub(crate) const fn new() -> Self {
        Self { head: None }
    }

    /// The first one.
    pub(crate) fn first(&self) -> Option<&'static T> {
        self.head
    }

    /// Adds `item`, which must be in no list.
    pub(crate) fn add(&mut self, item: &'static T) {
        item.links().previous.set(None);
        item.links().next.set(self.head);
        if let Some(head) = self.head {
            head.links().previous.set(Some(item));
        }
        self.head = Some(item);
    }

    /// Removes `item`, which must be in this list.
    pub(crate) fn remove(&mut self, item: &'static T) {
        let (previous, next) = (item.links().previous.get(), item.links().next.get());
        match previous {
            Some(previous) => previous.links().next.set(next),
            None => self.head = next,
        }
        if let Some(next) = next {
            next.links().previous.set(previous);
        }
    }
}

// SPDX-License-Identifier: GPL-2.0

//! Lists of spans and of chunks by level, linked through their elements: to add or to remove one
//! takes a few instructions and cannot fail.
//!
//! # Locking
//!
//! The links of the elements are protected by the lock that guards the list.

use crate::glue::link::Link;

/// An element that can be in one list at a time.
pub(crate) trait Linked: Sync + Sized + 'static {
    /// Its neighbours in the list that it is in.
    fn links(&self) -> &Links<Self>;

    /// Which list it belongs to, [`None`] if to none.
    fn level(&self) -> Option<usize>;
}

/// The neighbours in a list.
pub(crate) struct Links<T: Linked> {
    previous: Link<T>,
    next: Link<T>,
}

impl<T: Linked> Links<T> {
    /// The links of an element that is in no list.
    pub(crate) const fn new() -> Self {
        Self {
            previous: Link::new(),
            next: Link::new(),
        }
    }
}

/// A list for each level; the element that was added last comes first.
pub(crate) struct Lists<T: Linked, const LEVELS: usize>([Option<&'static T>; LEVELS]);

impl<T: Linked, const LEVELS: usize> Lists<T, LEVELS> {
    /// Empty lists.
    pub(crate) const fn new() -> Self {
        Self([None; LEVELS])
    }

    /// The first element of the lowest level that has any.
    pub(crate) fn first(&self) -> Option<&'static T> {
        self.0.into_iter().flatten().next()
    }

    /// The first element of a level.
    pub(crate) fn first_at(&self, level: usize) -> Option<&'static T> {
        self.0.get(level).copied().flatten()
    }

    fn head(&mut self, item: &T) -> Option<&mut Option<&'static T>> {
        self.0.get_mut(item.level()?)
    }

    /// Adds `item`, which must be in no list, to the list of its level.
    pub(crate) fn add(&mut self, item: &'static T) {
        let Some(head) = self.head(item) else {
            return;
        };
        let next = head.replace(item);
        item.links().previous.set(None);
        item.links().next.set(next);
        if let Some(next) = next {
            next.links().previous.set(Some(item));
        }
    }

    /// Calls `f` with `item`, which must be in the list of its level, if it has one, and moves it
    /// to the list of the level that it has after that.
    pub(crate) fn change<R>(&mut self, item: &'static T, f: impl FnOnce(&'static T) -> R) -> R {
        self.remove(item);
        let result = f(item);
        self.add(item);
        result
    }

    /// Removes `item`, whose level must be the one that it was added with.
    pub(crate) fn remove(&mut self, item: &'static T) {
        let Some(head) = self.head(item) else {
            return;
        };
        let (previous, next) = (item.links().previous.get(), item.links().next.get());
        match previous {
            Some(previous) => previous.links().next.set(next),
            None => *head = next,
        }
        if let Some(next) = next {
            next.links().previous.set(previous);
        }
    }
}

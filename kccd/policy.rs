// SPDX-License-Identifier: GPL-2.0

//! What kccd does next: one function from plain numbers to an action.

use crate::pool::{
    class::{
        CHUNK_BYTES,
        SPANS_PER_CHUNK, //
    },
    stock::BESIDE_USED, //
};
use kernel::fmt;

/// The share of time that may be spent on giving back: one part in this many.
const GIVE_BACK_SHARE: u64 = 1000;

/// The shortest time that memory idles before it is given back, if no parameter sets it.
const SHORTEST_IDLE_MS: u64 = 10_000;

/// How long kccd is deaf after a round in which it could do nothing, in milliseconds.
pub(crate) const DEAF_MS: u32 = 4;

/// When memory that idles is given back.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) enum Idle {
    /// When giving back takes no more than a thousandth of the time.
    #[default]
    Priced,
    /// After this many milliseconds; all of it within twice as many.
    Ms(u64),
    /// Never.
    Never,
}

impl fmt::Display for Idle {
    /// As users write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Priced => write!(f, "auto"),
            Self::Ms(ms) => write!(f, "{ms}"),
            Self::Never => write!(f, "0"),
        }
    }
}

impl Idle {
    /// The shortest time that a need is remembered, in milliseconds, if a chunk takes `chunk_ns` to
    /// convert; [`None`] if for ever.
    pub(crate) fn memory_ms(self, chunk_ns: u64) -> Option<u64> {
        match self {
            Self::Priced => Some((chunk_ns * GIVE_BACK_SHARE / 1_000_000).max(SHORTEST_IDLE_MS)),
            Self::Ms(ms) => Some(ms),
            Self::Never => None,
        }
    }

    /// The pause between two chunks that are given back, in milliseconds, if `chunks` chunks are to
    /// go in `left_ms`.
    pub(crate) fn pause_ms(self, chunk_ns: u64, left_ms: u64, chunks: u64) -> u64 {
        match self {
            Self::Priced | Self::Never => chunk_ns * GIVE_BACK_SHARE / 1_000_000,
            Self::Ms(_) => left_ms / chunks.max(1),
        }
    }
}

/// When an action that can fail may be tried again.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Retry {
    /// At this time, in milliseconds since boot.
    pub(crate) at_ms: u64,
    /// How long the last pause was; 0 after a success.
    pub(crate) pause_ms: u64,
}

impl Retry {
    /// Notes at `now_ms` whether it succeeded. The pause after a failure is 10 ms, doubled with
    /// each failure, up to half a second. So growth resumes within a second after its obstacle is
    /// gone.
    pub(crate) fn note(&mut self, done: bool, now_ms: u64) {
        self.pause_ms = match done {
            true => 0,
            false => (self.pause_ms * 2).clamp(10, 500),
        };
        self.at_ms = now_ms + self.pause_ms;
    }
}

/// How a NUMA node stands, in spans.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct NodeView {
    /// Spans that the watermark asks for, and those that are ready, as slots and as spans.
    pub(crate) watermark: u64,
    pub(crate) ready: u64,
    /// Spans that are unbound, that are bound, and the remembered peak of the latter.
    pub(crate) unbound: u64,
    pub(crate) bound: u64,
    pub(crate) demand: u64,
    /// Spans that have to be bound for classes below their watermark, and that can be.
    pub(crate) to_bind: u64,
    pub(crate) bindable: u64,
    /// Whether a whole chunk is unbound.
    pub(crate) has_whole: bool,
    /// Whether there is memory to grow by that counts as shared already, as it is on its way out or
    /// was refused.
    pub(crate) has_counted: bool,
    pub(crate) grow: Retry,
    pub(crate) bind: Retry,
}

impl NodeView {
    /// How many spans should be ready beside `used` ones.
    fn beside(&self, used: u64) -> u64 {
        self.watermark.max(used / BESIDE_USED)
    }

    /// How many spans should be unbound, however many of all spans are in use.
    pub(crate) fn low_spans(&self) -> u64 {
        let all = self.bound + self.unbound;
        self.watermark.max(all / (BESIDE_USED + 1))
    }

    /// How many spans are missing, of all that should be ready, and of the half of them that should
    /// be ready for every class.
    pub(crate) fn missing(&self) -> u64 {
        let wanted = self.beside(self.bound);
        let ready = wanted.saturating_sub(self.ready);
        let for_all = wanted.div_ceil(2).saturating_sub(self.unbound);
        let bind = self.to_bind.saturating_sub(self.bindable);
        ready.max(for_all).max(bind)
    }

    /// Spans beyond `used` ones and those that should be ready beside them.
    fn surplus(&self, used: u64) -> u64 {
        (self.bound + self.unbound).saturating_sub(used + self.beside(used))
    }

    /// The surplus beyond the remembered peak of spans in use.
    pub(crate) fn idle_spans(&self) -> u64 {
        self.surplus(self.demand)
    }

    /// The surplus beyond the spans that are in use now.
    pub(crate) fn unused_spans(&self) -> u64 {
        self.surplus(self.bound)
    }

    fn can_give(&self, spans: u64) -> bool {
        let chunk = SPANS_PER_CHUNK as u64;
        // Spans that would have to come back to be bound are kept.
        let can_bind = self.to_bind == 0 || self.bindable >= self.to_bind + chunk;
        self.has_whole && spans >= chunk && can_bind
    }
}

/// How the pool stands as a whole.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct View {
    pub(crate) now_ms: u64,
    /// Memory that is shared, or may be for all that is known, and the cap on it, in bytes.
    pub(crate) shared_bytes: u64,
    pub(crate) max_bytes: u64,
    /// Bytes that the kernel wants to have back.
    pub(crate) wanted_bytes: u64,
    /// Whether a chunk that has left can be made private.
    pub(crate) has_left: bool,
    /// When making chunks private may be tried again.
    pub(crate) private: Retry,
    /// When idle memory may go.
    pub(crate) give_back_at_ms: u64,
    /// When the current window is over; [`None`] if no need is ever forgotten.
    pub(crate) window_ends_ms: Option<u64>,
    /// How much longer than the window kccd leaves mappings alone that may end unnoticed; [`None`]
    /// if there are none.
    pub(crate) calm_ms: Option<u64>,
}

impl View {
    /// Whether the cap lets `node` grow: it leaves room for another chunk, or none is needed.
    pub(crate) fn may_grow(&self, node: &NodeView) -> bool {
        node.has_counted || self.shared_bytes + CHUNK_BYTES as u64 <= self.max_bytes
    }
}

/// What to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    /// Convert memory for a node.
    Grow(usize),
    /// Bind a span on a node, ahead of need.
    Bind(usize),
    /// Take a chunk of a node out of the pool, because it idles or the kernel wants memory back.
    GiveBack(usize),
    /// Make a chunk that has left private.
    MakePrivate,
    /// Begin a new window, and have CPUs return slots that they do not use.
    TurnWindow,
    /// Sleep until the bell rings, or for this many milliseconds.
    Sleep(Option<u32>),
}

/// What to do next. Actions that mappings need come first.
pub(crate) fn next(nodes: &[NodeView], view: &View) -> Action {
    let each = || nodes.iter().enumerate();
    // When the first of the things to do is due.
    let mut timer = u64::MAX;
    let mut is_due = |at_ms: u64| {
        timer = timer.min(at_ms);
        at_ms <= view.now_ms
    };
    let can_bind = |it: &NodeView| it.to_bind > 0 && it.bindable > 0;
    let mut binding = each().filter(|(_, it)| can_bind(it));
    if let Some((node, _)) = binding.find(|(_, it)| is_due(it.bind.at_ms)) {
        return Action::Bind(node);
    }
    let lacking = each().filter(|(_, it)| it.missing() > 0 && view.may_grow(it));
    let can_grow = lacking.filter(|(_, it)| is_due(it.grow.at_ms));
    if let Some((node, _)) = can_grow.max_by_key(|(_, it)| it.missing()) {
        return Action::Grow(node);
    }
    if view.has_left && is_due(view.private.at_ms) {
        return Action::MakePrivate;
    }
    // Rounded to whole chunks.
    let is_wanted = view.wanted_bytes >= CHUNK_BYTES as u64 / 2;
    let mut unused = each().filter(|(_, it)| is_wanted && it.can_give(it.unused_spans()));
    if let Some((node, _)) = unused.find(|_| is_due(view.private.at_ms)) {
        return Action::GiveBack(node);
    }
    if let Some(window_ends_ms) = view.window_ends_ms {
        let go_at_ms = view.give_back_at_ms.max(view.private.at_ms);
        let mut idle = each().filter(|(_, it)| it.can_give(it.idle_spans()));
        if let Some((node, _)) = idle.find(|_| is_due(go_at_ms)) {
            return Action::GiveBack(node);
        }
        let is_chunk = |spans: u64| spans >= SPANS_PER_CHUNK as u64;
        // Memory may idle soon: a need that is remembered will be forgotten.
        let unused = is_chunk(nodes.iter().map(NodeView::unused_spans).sum());
        // Or mappings will end, whose slots CPUs keep without telling anybody. The longer none has
        // ended, the longer the next look can wait.
        let used = is_chunk(nodes.iter().map(|it| it.surplus(0)).sum());
        let later_ms = unused.then_some(0).or(view.calm_ms.filter(|_| used));
        if later_ms.is_some_and(|later_ms| is_due(window_ends_ms + later_ms)) {
            return Action::TurnWindow;
        }
    }
    let ms = timer.saturating_sub(view.now_ms).clamp(1, 60_000) as u32;
    Action::Sleep((timer < u64::MAX).then_some(ms))
}

/// The share of one node if `total` is wanted on `nodes` nodes together.
pub(crate) fn share(total: u64, nodes: usize) -> u64 {
    total.div_ceil(nodes.max(1) as u64)
}

/// The parts of a watermark that are the reserve and that are for large mappings only, in spans.
pub(crate) fn reserves(watermark: u64) -> (u64, u64) {
    let eighth = watermark / 8;
    (eighth.min(64), eighth.clamp(1, 8))
}

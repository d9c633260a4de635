// SPDX-License-Identifier: GPL-2.0

//! kccd: the kernel thread that converts memory, so that no mapping ever has to.
//!
//! It looks at how the pool stands, asks [`policy`] what to do, does it, and looks again.
//! [`memory`] is the life of a chunk. An action that fails is tried again after a pause of its own:
//! no failure keeps kccd from doing the rest, or from hearing the bell for more than a few
//! milliseconds.

mod memory;
mod policy;
#[cfg(CONFIG_CC_SWIOTLB_KUNIT_TEST)]
mod tests;
pub(crate) mod watermark;

use crate::{
    glue::{
        self,
        memory as machine, //
    },
    params,
    pool::{
        class::{
            SizeClass,
            SPANS_PER_CHUNK,
            SPAN_BYTES, //
        },
        refusal::Obstacle,
        stock::{
            Reach,
            WINDOWS, //
        },
        Pool, //
    },
};
use kernel::{
    page::PAGE_SIZE,
    prelude::*, //
};
use memory::Holdings;
use policy::{
    Action,
    NodeView,
    View, //
};

pub(crate) use policy::Idle;

/// How long kccd waits at a time for a grace period to end, or for slots to come home, in
/// milliseconds.
const SOON_MS: u32 = 10;

/// How long a request of the kernel for memory is remembered, in milliseconds.
const WANTED_MS: u64 = 500;

/// How often CPUs are asked to return slots while mappings are refused, in milliseconds.
const DRAIN_MS: u64 = 50;

/// kccd.
pub(crate) struct Kccd {
    pool: &'static Pool,
    holdings: Holdings,
    state: State,
}

/// What kccd remembers from one round to the next. Times are in milliseconds since boot.
#[derive(Default)]
struct State {
    /// The input of the policy.
    nodes: KVec<NodeView>,
    view: View,
    window_began_ms: u64,
    /// When a CPU was last seen to have taken or returned slots.
    active_ms: u64,
    drained_ms: u64,
    /// How long it takes to convert a chunk, in nanoseconds.
    chunk_ns: u64,
    wanted_until_ms: u64,
    idle: Idle,
}

impl State {
    /// Notes that the kernel wants `bytes` more. It asks for what it was told could be spared, so
    /// it never wants more than `spare_bytes`, however often it asks before kccd gets to it.
    fn want(&mut self, bytes: u64, spare_bytes: u64) {
        let wanted_bytes = self.view.wanted_bytes.saturating_add(bytes);
        self.view.wanted_bytes = wanted_bytes.min(spare_bytes);
        if bytes > 0 {
            self.wanted_until_ms = self.view.now_ms + WANTED_MS;
        }
    }

    /// How much longer than a window kccd leaves mappings alone that may end unnoticed: as long as
    /// no CPU had taken or returned a slot when the window began, but at most a third of the time
    /// for which a need is remembered, so that all idle memory is back within twice that time.
    fn calm_ms(&self, memory_ms: u64) -> u64 {
        let calm_ms = self.window_began_ms.saturating_sub(self.active_ms);
        calm_ms.min(memory_ms / 3)
    }

    /// Sets when the next idle chunk may leave, after one has left. Without a price, all chunks
    /// that idle now are to be gone when the window ends.
    fn pace(&mut self) {
        let spans: u64 = self.nodes.iter().map(NodeView::idle_spans).sum();
        let chunks = spans / SPANS_PER_CHUNK as u64;
        let view = &mut self.view;
        let left_ms = view.window_ends_ms.unwrap_or(0).saturating_sub(view.now_ms);
        view.give_back_at_ms = view.now_ms + self.idle.pause_ms(self.chunk_ns, left_ms, chunks);
    }

    /// After a chunk was given back: where that has a price, sets when it is paid for.
    fn paid(&mut self, now_ms: u64) {
        if self.idle == Idle::Priced {
            self.view.give_back_at_ms = now_ms + self.idle.pause_ms(self.chunk_ns, 0, 1);
        }
    }
}

impl Kccd {
    /// Makes a kccd that serves `pool`, without its thread. May sleep.
    pub(crate) fn new(pool: &'static Pool) -> Result<Self> {
        let nodes = pool.nodes().count();
        Ok(Self {
            pool,
            holdings: Holdings::default(),
            state: State {
                nodes: KVec::from_elem(NodeView::default(), nodes, GFP_KERNEL)?,
                window_began_ms: machine::now_ms(),
                idle: params::idle(),
                ..State::default()
            },
        })
    }

    /// Runs the thread's main loop. May sleep.
    pub(crate) fn run(&mut self) {
        glue::no_io();
        while !self.pool.bell.is_stopped() {
            let (deaf_ms, timeout_ms) = self.round();
            self.pool.bell.wait(deaf_ms, timeout_ms);
        }
    }

    /// Does all that can be done at once, before the thread runs. May sleep. Returns the obstacle
    /// to doing more, if there is one.
    pub(crate) fn fill(&mut self) -> Option<&'static str> {
        self.round();
        self.pool.refusals.obstacle()
    }

    /// Does all that there is to do. Returns how long to be deaf and to sleep, in milliseconds.
    fn round(&mut self) -> (u32, Option<u32>) {
        let mut did_anything = false;
        loop {
            self.look();
            let state = &mut self.state;
            match policy::next(&state.nodes, &state.view) {
                _ if self.pool.bell.is_stopped() => return (0, Some(1)),
                Action::Grow(node) => self.grow(node),
                Action::Bind(node) => self.bind(node),
                Action::GiveBack(node) => self.let_go(node),
                Action::MakePrivate => self.make_private(),
                Action::TurnWindow => self.turn_window(),
                Action::Sleep(timeout_ms) => {
                    let deaf_ms = if did_anything { 0 } else { policy::DEAF_MS };
                    return (deaf_ms, self.listen(timeout_ms));
                }
            }
            did_anything = true;
        }
    }

    /// Looks at how the pool stands, after applying the parameters to it.
    fn look(&mut self) {
        self.state.view.now_ms = machine::now_ms();
        self.pool.retry_deferred(machine::is_used);
        self.hear();
        let state = &mut self.state;
        let watermark = params::watermark();
        let default = params::default_watermark().bytes(0);
        let has_cpus = |node: &usize| machine::node_has_cpus(*node);
        let served = (0..state.nodes.len()).filter(has_cpus).count();
        for ((number, node), view) in self.pool.nodes().enumerate().zip(&mut state.nodes) {
            let of_node = |total: u64| policy::share(total, served) * u64::from(has_cpus(&number));
            let stock = &node.stock;
            view.watermark = of_node(watermark.bytes(default)).div_ceil(SPAN_BYTES as u64);
            let (reserve, large_reserve) = policy::reserves(view.watermark);
            view.to_bind = 0;
            for class in SizeClass::ALL {
                let depot = node.depot(class);
                depot.keep.set(of_node(watermark.slots(class)));
                depot.release(stock);
                let missing = depot.keep.get().saturating_sub(depot.free.get());
                view.to_bind += missing.div_ceil(class.slots_per_span() as u64);
            }
            view.ready = node.ready_bytes() / SPAN_BYTES as u64;
            view.unbound = stock.unbound.get();
            view.bound = stock.spans.get().saturating_sub(view.unbound);
            stock.set_levels(view.watermark, reserve, large_reserve);
            view.demand = stock.demand();
            view.bindable = stock.within(Reach::Ready);
            view.has_whole = stock.has_whole();
            view.has_counted = self.holdings.has_counted(number);
        }
        let leaked_bytes = self.holdings.leaked_bytes();
        self.pool.stats.leaked_bytes.set(leaked_bytes);
        let memory_ms = state.idle.memory_ms(state.chunk_ns);
        let view = &mut state.view;
        view.shared_bytes = self.pool.shared_bytes() + self.holdings.bytes();
        view.max_bytes = params::max_bytes();
        // Memory in an unknown state is the first to be tried again.
        view.has_left = leaked_bytes > 0 || self.holdings.has_left();
        view.window_ends_ms = memory_ms.map(|ms| state.window_began_ms + window_ms(ms));
        if self.pool.caches.active().next().is_some() {
            state.active_ms = view.now_ms;
        }
        let has_slots = self.pool.has_bound_slots();
        state.view.calm_ms = memory_ms.filter(|_| has_slots).map(|ms| state.calm_ms(ms));
    }

    /// Takes the requests of others.
    fn hear(&mut self) {
        let state = &mut self.state;
        let bell = &self.pool.bell;
        let bytes = bell.wanted_pages.take().saturating_mul(PAGE_SIZE as u64);
        // The slots that CPUs hold come home, see below.
        let cached_bytes = self.pool.cached_spans() * SPAN_BYTES as u64;
        state.want(bytes, self.pool.spare_bytes() + cached_bytes);
        let idle = params::idle();
        if idle != state.idle {
            state.idle = idle;
            state.view.give_back_at_ms = 0;
        }
        // While mappings are refused or memory is short, CPUs should hold no unused slots.
        let is_short = bell.cries.take() > 0 || bytes > 0;
        if is_short && state.view.now_ms >= state.drained_ms + DRAIN_MS {
            state.drained_ms = state.view.now_ms;
            self.pool.caches.active().for_each(glue::cpus::drain);
        }
    }

    fn grow(&mut self, node: usize) {
        let grown = self.grow_node(node);
        if let Some(view) = self.state.nodes.get_mut(node) {
            view.grow.note(grown.is_ok(), machine::now_ms());
        }
        self.pool.refusals.set_obstacle(grown.err());
    }

    /// Binds a span for the first class below its watermark.
    fn bind(&mut self, number: usize) {
        if let Some((node, view)) = self.pool.nodes().zip(&mut self.state.nodes).nth(number) {
            let mut depots = SizeClass::ALL.into_iter().map(|class| node.depot(class));
            let low = depots.find(|depot| depot.is_low());
            let bound = low.is_none_or(|depot| depot.bind_ahead(&node.stock));
            view.bind.note(bound, machine::now_ms());
        }
    }

    /// Takes a chunk of a node out of the pool.
    fn let_go(&mut self, node: usize) {
        let bytes = self.remove(node);
        let view = &mut self.state.view;
        if let Some(bytes) = bytes {
            view.wanted_bytes = view.wanted_bytes.saturating_sub(bytes as u64);
            self.state.pace();
        } else {
            // There is no memory to keep track of such a chunk.
            view.private.note(false, machine::now_ms());
        }
    }

    /// Makes a chunk that has left private.
    fn make_private(&mut self) {
        if let Some(done) = self.make_one_private() {
            let now_ms = machine::now_ms();
            self.state.view.private.note(done, now_ms);
            // A conversion that failed has its price as well.
            self.state.paid(now_ms);
        }
    }

    fn turn_window(&mut self) {
        for node in self.pool.nodes() {
            node.stock.turn_window();
        }
        self.pool.caches.active().for_each(glue::cpus::drain);
        self.state.window_began_ms = machine::now_ms();
    }

    /// Prepares to sleep: notes the obstacle, and has the stocks ring when kccd may have something
    /// to do. Returns how long to sleep.
    fn listen(&mut self, timeout_ms: Option<u32>) -> Option<u32> {
        let state = &mut self.state;
        let (nodes, view) = (&state.nodes, &mut state.view);
        let mut lacking = nodes.iter().filter(|it| it.missing() > 0).peekable();
        let obstacle = lacking.peek().map(|_| Obstacle::AtMax);
        if !lacking.any(|node| view.may_grow(node)) {
            self.pool.refusals.set_obstacle(obstacle);
        }
        if view.now_ms >= state.wanted_until_ms {
            view.wanted_bytes = 0;
        }
        for (node, it) in self.pool.nodes().zip(nodes) {
            let low = it.low_spans();
            let high = (it.unbound + 1).max(low + SPANS_PER_CHUNK as u64);
            let high = (it.unused_spans() < SPANS_PER_CHUNK as u64).then_some(high);
            node.stock.listen(low.min(it.unbound), high);
        }
        // This may have happened since we looked.
        self.pool.tell();
        // There will be something to do soon.
        let is_waiting = !self.holdings.leaving.is_empty() || self.pool.has_deferred();
        let soon = (view.wanted_bytes > 0 || is_waiting).then_some(SOON_MS);
        [timeout_ms, soon].into_iter().flatten().min()
    }
}

/// The length of a window if a need is remembered for at least `memory_ms`: the window in which the
/// need ends may be over at once, and all other windows follow it.
fn window_ms(memory_ms: u64) -> u64 {
    memory_ms.div_ceil(WINDOWS as u64 - 1)
}

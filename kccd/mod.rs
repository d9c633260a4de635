// SPDX-License-Identifier: GPL-2.0

//! kccd: the kernel thread that converts memory, so that no mapping ever has to.
//!
//! It looks at how the pool stands, asks [`policy`] what to do, does it, and looks again. [`memory`]
//! is the life of a chunk. What fails is tried again after a pause that belongs to what failed:
//! nothing keeps kccd from doing the rest, or from hearing the bell for more than a few milliseconds.

mod memory;
mod policy;
pub(crate) mod watermark;

use crate::{
    glue::{
        self,
        memory as machine,
        thread::Work, //
    },
    params,
    pool::{
        class::{
            SizeClass,
            SPANS_PER_CHUNK,
            SPAN_BYTES, //
        },
        node::Node,
        refusal::Obstacle,
        stock::WINDOWS,
        Pool, //
    },
};
use kernel::{
    new_mutex,
    page::PAGE_SIZE,
    prelude::*,
    sync::Mutex, //
};
use memory::Holdings;
use policy::{
    Action,
    NodeView,
    View, //
};

pub(crate) use policy::Idle;

/// The thread's name.
pub(crate) const NAME: &CStr = c"kccd";

/// How long kccd waits at a time for a grace period to end, in milliseconds.
const GRACE_MS: u32 = 10;

/// kccd.
#[pin_data]
pub(crate) struct Kccd {
    pool: &'static Pool,
    #[pin]
    state: Mutex<State>,
}

/// What kccd remembers from one round to the next. Times are in milliseconds since boot.
struct State {
    holdings: Holdings,
    nodes: KVec<NodeView>,
    failures: u32,
    give_back_failures: u32,
    grow_at_ms: u64,
    give_back_at_ms: u64,
    window_ends_ms: u64,
    /// When all that idles now has to be gone.
    all_gone_ms: Option<u64>,
    /// What a chunk takes to convert, in nanoseconds.
    chunk_ns: u64,
    wanted_bytes: u64,
}

impl State {
    /// A chunk was given back: says when the next one may go.
    fn pace(&mut self, now_ms: u64) {
        let spans: u32 = self.nodes.iter().map(NodeView::idle_spans).sum();
        let idle = params::idle();
        let all_gone_ms = *self.all_gone_ms.get_or_insert(now_ms + idle.give_back_ms());
        let left_ms = all_gone_ms.saturating_sub(now_ms);
        let chunks = u64::from(spans) / SPANS_PER_CHUNK as u64;
        self.give_back_at_ms = now_ms + idle.pause_ms(self.chunk_ns, left_ms, chunks);
    }
}

impl Work for Kccd {
    fn run(&'static self) {
        glue::no_io();
        let mut state = self.state.lock();
        while !self.pool.bell().is_stopped() {
            let (deaf_ms, timeout_ms) = self.round(&mut state);
            self.pool.bell().wait(deaf_ms, timeout_ms);
        }
    }
}

impl Kccd {
    /// Serves `pool`. May sleep.
    pub(crate) fn new(pool: &'static Pool) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            pool,
            state <- new_mutex!({
                let count = pool.nodes().count();
                let mut nodes = KVec::with_capacity(count, GFP_KERNEL)?;
                for _ in 0..count {
                    nodes.push(NodeView::default(), GFP_KERNEL)?;
                }
                State {
                    holdings: Holdings::new(count)?,
                    nodes,
                    failures: 0,
                    give_back_failures: 0,
                    grow_at_ms: 0,
                    give_back_at_ms: 0,
                    window_ends_ms: 0,
                    all_gone_ms: None,
                    chunk_ns: 0,
                    wanted_bytes: 0,
                }
            }),
        })
    }

    /// Does what can be done at once, before the thread runs. May sleep. Returns what is in the way.
    pub(crate) fn fill(&self) -> Option<Obstacle> {
        self.round(&mut self.state.lock());
        self.pool.refusals().obstacle()
    }

    /// Does all that there is to do. Returns for how long to be deaf and to sleep.
    fn round(&self, state: &mut State) -> (u32, Option<u32>) {
        let mut idle_round = true;
        loop {
            let view = self.look(state);
            let action = policy::next(&state.nodes, &view);
            match action {
                _ if self.pool.bell().is_stopped() => return (0, Some(1)),
                Action::Grow(node) => self.grow(state, node),
                Action::Bind(node) => {
                    if !self.bind(node) {
                        // Somebody took it: look again before long.
                        return (policy::DEAF_MS, Some(policy::DEAF_MS));
                    }
                }
                Action::GiveBack(node) => {
                    let bytes = self.let_go(&mut state.holdings, node) as u64;
                    if bytes == 0 {
                        // No memory to remember it with: again before long.
                        return (policy::DEAF_MS, Some(policy::DEAF_MS));
                    }
                    state.wanted_bytes = state.wanted_bytes.saturating_sub(bytes);
                    state.pace(view.now_ms);
                }
                Action::TurnWindow => self.turn_window(state),
                Action::Sleep(timeout_ms) => {
                    state.wanted_bytes = 0;
                    if !state.nodes.iter().any(NodeView::is_idle) {
                        state.all_gone_ms = None;
                    }
                    let is_leaving = self.give_back(state);
                    let timeout_ms = match is_leaving {
                        true => Some(timeout_ms.map_or(GRACE_MS, |ms| ms.min(GRACE_MS))),
                        false => timeout_ms,
                    };
                    self.listen(state, timeout_ms.is_none());
                    let deaf_ms = if idle_round { policy::DEAF_MS } else { 0 };
                    return (deaf_ms, timeout_ms);
                }
            }
            idle_round = false;
            self.give_back(state);
        }
    }

    /// Sees how the pool stands, and tells it what kccd wants to hear of.
    fn look(&self, state: &mut State) -> View {
        let watermark = params::watermark();
        let default = params::default_watermark_bytes();
        let is_served = |node: usize| machine::node_has_cpus(node);
        let served = (0..state.nodes.len()).filter(|node| is_served(*node)).count();
        for ((number, node), view) in self.pool.nodes().enumerate().zip(&mut state.nodes) {
            let of_node = |total: u64| match is_served(number) {
                true => policy::share(total, served),
                false => 0,
            };
            let stock = node.stock();
            let watermark_bytes = of_node(watermark.bytes(default));
            let (reserve, large_reserve) = policy::reserves(watermark_bytes);
            stock.set_levels(
                watermark_bytes.div_ceil(SPAN_BYTES as u64) as u32,
                reserve,
                large_reserve,
            );
            for class in SizeClass::ALL {
                let keep = of_node(u64::from(watermark.slots(class))) as u32;
                node.depot(class).set_keep(keep);
            }
            *view = NodeView {
                watermark_bytes,
                ready_bytes: node.ready_bytes(),
                unbound: stock.unbound(),
                bound: stock.bound(),
                demand: stock.demand(),
                to_bind: to_bind(node),
                has_whole: stock.has_whole(),
            };
        }
        let pages = self.pool.bell().take_wanted_pages();
        state.wanted_bytes = state.wanted_bytes.saturating_add(pages * PAGE_SIZE as u64);
        let idle = params::idle();
        View {
            now_ms: machine::now_ms(),
            shared_bytes: self.pool.shared_bytes() + state.holdings.leaving_bytes(),
            leaked_bytes: self.pool.stats().leaked_bytes.get(),
            max_bytes: params::max_bytes(),
            wanted_bytes: state.wanted_bytes,
            grow_at_ms: state.grow_at_ms,
            give_back_at_ms: state.give_back_at_ms,
            window_ends_ms: idle.memory_ms(state.chunk_ns).map(|_| state.window_ends_ms),
            cached_spans: self.pool.cached_spans(),
        }
    }

    fn grow(&self, state: &mut State, node: usize) {
        let before = self.pool.stats().shared.ns.get();
        match self.grow_node(&mut state.holdings, node) {
            Ok(()) => {
                state.failures = 0;
                state.chunk_ns = self.pool.stats().shared.ns.get() - before;
                self.pool.refusals().set_obstacle(None);
            }
            Err(obstacle) => {
                state.failures += 1;
                state.grow_at_ms = machine::now_ms() + policy::backoff_ms(state.failures);
                self.pool.refusals().set_obstacle(Some(obstacle));
            }
        }
    }

    /// Binds a span for the first class below its watermark. Returns whether there was one.
    fn bind(&self, node: usize) -> bool {
        let Some(node) = self.pool.nodes().nth(node) else {
            return false;
        };
        SizeClass::ALL
            .into_iter()
            .map(|class| node.depot(class))
            .find(|depot| depot.free() < depot.keep())
            .is_some_and(|depot| depot.bind_ahead(node.stock()))
    }

    /// Makes private what has left. Returns whether something has to wait.
    fn give_back(&self, state: &mut State) -> bool {
        match self.give_back_left(&mut state.holdings) {
            Ok(Some(ns)) => {
                state.give_back_failures = 0;
                state.chunk_ns = state.chunk_ns.max(ns);
            }
            Ok(None) => (),
            Err(_) => {
                state.give_back_failures += 1;
                let pause = policy::backoff_ms(state.give_back_failures);
                state.give_back_at_ms = machine::now_ms() + pause;
            }
        }
        state.holdings.leaving_bytes() > 0
    }

    fn turn_window(&self, state: &mut State) {
        for node in self.pool.nodes() {
            node.stock().turn_window();
        }
        for cpu in self.pool.active_cpus() {
            glue::cpus::drain(cpu);
        }
        let memory_ms = params::idle().memory_ms(state.chunk_ns).unwrap_or(0);
        state.window_ends_ms = machine::now_ms() + (memory_ms / WINDOWS as u64).max(1);
    }

    /// Has the stocks ring for spans that come home, if nothing else will wake kccd.
    fn listen(&self, state: &State, is_asleep: bool) {
        for (node, view) in self.pool.nodes().zip(&state.nodes) {
            node.stock().set_high(is_asleep.then(|| view.unbound));
        }
    }
}

/// Spans that the classes of a node below their watermark lack.
fn to_bind(node: &Node) -> u32 {
    let lacking = SizeClass::ALL.into_iter().map(|class| {
        let depot = node.depot(class);
        let missing = depot.keep().saturating_sub(depot.free());
        missing.div_ceil(class.slots_per_span() as u32)
    });
    lacking.sum()
}

// SPDX-License-Identifier: GPL-2.0

//! How kccd paces what it gives back, over time and in plain numbers.

use crate::kccd::*;

/// When the load ends.
const NOW_MS: u64 = 1_000_000;

/// A node whose load has just ended, and kccd's clock.
struct Guest {
    state: State,
    now_ms: u64,
    /// What converting a chunk costs.
    chunk_ns: u64,
    bound: u64,
    unbound: u64,
    /// Spans that stay bound because CPUs hold slots of them.
    cached: u64,
    peaks: [u64; WINDOWS],
    window: usize,
    /// When the grace periods of chunks that have left are over.
    leaving: KVec<u64>,
    /// When chunks were made private.
    gone_ms: KVec<u64>,
}

impl Guest {
    /// A guest that has used `used` spans until now, of which caches hold `cached`, with as many
    /// unbound as its watermark.
    fn new(idle: Idle, estimated_ns: u64, chunk_ns: u64, used: u64, cached: u64) -> Result<Self> {
        const WATERMARK: u64 = 40;
        let mut nodes = KVec::new();
        nodes.push(
            NodeView {
                watermark: WATERMARK,
                ..NodeView::default()
            },
            GFP_KERNEL,
        )?;
        Ok(Self {
            state: State {
                nodes,
                chunk_ns: estimated_ns,
                idle,
                // The load ends when a window has just begun, after a long time in which no slot
                // has moved.
                window_began_ms: NOW_MS,
                ..State::default()
            },
            now_ms: NOW_MS,
            chunk_ns,
            bound: cached,
            unbound: WATERMARK + used - cached,
            cached,
            // The load was there until a moment ago: in the current window.
            peaks: [used; WINDOWS],
            window: 0,
            leaving: KVec::new(),
            gone_ms: KVec::new(),
        })
    }

    fn look(&mut self) {
        let state = &mut self.state;
        let peak = self.peaks.iter().copied().max().unwrap_or(0);
        state.nodes[0] = NodeView {
            ready: self.unbound,
            unbound: self.unbound,
            bound: self.bound,
            demand: peak.max(self.bound),
            has_whole: self.unbound >= 4,
            ..state.nodes[0]
        };
        let memory_ms = state.idle.memory_ms(state.chunk_ns);
        state.view = View {
            now_ms: self.now_ms,
            max_bytes: 1 << 40,
            has_left: self.leaving.first().is_some_and(|at| *at <= self.now_ms),
            window_ends_ms: memory_ms.map(|ms| state.window_began_ms + window_ms(ms)),
            calm_ms: memory_ms
                .filter(|_| self.cached > 0)
                .map(|ms| state.calm_ms(ms)),
            ..state.view
        };
    }

    /// Acts as kccd until nothing is left to do; returns how long that took, in milliseconds.
    fn settle(&mut self) -> Result<u64> {
        let begun_ms = self.now_ms;
        // Far more than it takes.
        for _ in 0..100_000 {
            self.look();
            match policy::next(&self.state.nodes, &self.state.view) {
                Action::GiveBack(0) => {
                    self.unbound -= SPANS_PER_CHUNK as u64;
                    self.leaving.push(self.now_ms + 15, GFP_KERNEL)?;
                    self.state.pace();
                }
                Action::MakePrivate => {
                    let _ = self.leaving.remove(0);
                    self.now_ms += self.chunk_ns / 1_000_000;
                    self.gone_ms.push(self.now_ms, GFP_KERNEL)?;
                    self.state.chunk_ns = self.state.chunk_ns.max(self.chunk_ns);
                    self.state.paid(self.now_ms);
                }
                Action::TurnWindow => {
                    self.window += 1;
                    self.peaks[self.window % WINDOWS] = self.bound;
                    self.unbound += self.cached;
                    self.bound -= self.cached;
                    self.cached = 0;
                    self.state.window_began_ms = self.now_ms;
                }
                Action::Sleep(None) if self.leaving.is_empty() => {
                    return Ok(self.now_ms - begun_ms);
                }
                Action::Sleep(ms) => {
                    let ms = ms.unwrap_or(SOON_MS);
                    let is_leaving = !self.leaving.is_empty();
                    self.now_ms += u64::from(if is_leaving { ms.min(SOON_MS) } else { ms });
                }
                _ => return Err(EINVAL),
            }
        }
        Err(ETIMEDOUT)
    }
}

#[kunit_tests(cc_swiotlb_pace)]
mod tests {
    use super::*;

    #[test]
    fn all_is_given_back_within_twice_the_idle_time() -> Result {
        // Idle time, spans that were used, spans in caches.
        for (ms, used, cached) in [
            (1000, 4, 0),
            (1000, 4, 4),
            (1000, 400, 0),
            (1000, 400, 40),
            (10_000, 2000, 8),
            (10_000, 8, 8),
        ] {
            let mut guest = Guest::new(Idle::Ms(ms), 1_000_000, 1_000_000, used, cached)?;
            let took_ms = guest.settle()?;
            assert_eq!(guest.gone_ms.len(), used as usize / SPANS_PER_CHUNK);
            assert!(took_ms <= 2 * ms);
            // And not before the idle time is over.
            assert!(guest.gone_ms[0] - NOW_MS >= ms);
        }
        Ok(())
    }

    #[test]
    fn giving_back_takes_a_thousandth_of_the_time() -> Result {
        // The cost of a chunk as kccd estimates it, and its real cost.
        for (estimated_ns, chunk_ns) in [
            (12_000_000, 12_000_000),
            (12_000_000, 133_000_000),
            (133_000_000, 12_000_000),
            (1_000_000, 12_000_000),
        ] {
            let mut guest = Guest::new(Idle::Priced, estimated_ns, chunk_ns, 80, 4)?;
            guest.settle()?;
            let gone_ms = &guest.gone_ms;
            assert_eq!(gone_ms.len(), 20);
            // This holds from each chunk to the next.
            let pauses = gone_ms.iter().zip(gone_ms.iter().skip(1));
            let paid_ms = chunk_ns / 1_000_000 * 1000;
            assert!(pauses.into_iter().all(|(one, next)| next - one >= paid_ms));
        }
        Ok(())
    }

    #[test]
    fn what_idles_goes_little_by_little() -> Result {
        let mut guest = Guest::new(Idle::Ms(1000), 1_000_000, 1_000_000, 80, 0)?;
        guest.settle()?;
        // 20 chunks in a window, each after a grace period.
        let took_ms = guest.gone_ms[19] - guest.gone_ms[0];
        assert!(took_ms >= window_ms(1000) * 8 / 10 && took_ms <= window_ms(1000) + 20);
        Ok(())
    }

    #[test]
    fn what_costs_nothing_idles_for_ten_seconds() -> Result {
        // The cost of a chunk, and how long all of them may take.
        for (chunk_ns, most_ms) in [(0, 12_000), (10_000, 12_000), (9_000_000, 200_000)] {
            let mut guest = Guest::new(Idle::Priced, chunk_ns, chunk_ns, 80, 0)?;
            assert!(guest.settle()? <= most_ms);
            assert_eq!(guest.gone_ms.len(), 20);
            assert!(guest.gone_ms[0] - NOW_MS >= 10_000);
        }
        Ok(())
    }

    #[test]
    fn no_more_is_wanted_than_can_be_spared() {
        let mut state = State::default();
        // Bytes that the kernel asks for, bytes that can be spared, and bytes that are wanted then.
        for (bytes, spare_bytes, wanted_bytes) in [
            (2, 10, 2),
            (2, 10, 4),
            (10, 10, 10),
            (10, 10, 10),
            (0, 8, 8),
            (u64::MAX, 9, 9),
            (0, 0, 0),
        ] {
            state.want(bytes, spare_bytes);
            assert_eq!(state.view.wanted_bytes, wanted_bytes);
        }
        assert_eq!(state.wanted_until_ms, WANTED_MS);
    }

    #[test]
    fn nothing_is_given_back_if_nothing_is_to_be() -> Result {
        let mut guest = Guest::new(Idle::Never, 0, 1_000_000, 80, 4)?;
        assert_eq!(guest.settle()?, 0);
        assert!(guest.gone_ms.is_empty());
        Ok(())
    }
}

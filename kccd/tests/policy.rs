// SPDX-License-Identifier: GPL-2.0

//! Tables of what kccd does next.

use crate::{
    kccd::policy::{
        next,
        reserves,
        share,
        Action::*,
        Idle,
        NodeView,
        Retry,
        View, //
    },
    pool::class::CHUNK_BYTES, //
};
use kernel::prelude::*;

#[kunit_tests(cc_swiotlb_policy)]
mod tests {
    use super::*;

    /// The watermark of the nodes below, in spans.
    const SPANS: u64 = 16;
    const NOW: u64 = 10_000;

    /// A node with `bound` spans bound, all of whose slots are used, and `unbound` spans unbound.
    fn node(bound: u64, unbound: u64) -> NodeView {
        NodeView {
            watermark: SPANS,
            ready: unbound,
            unbound,
            bound,
            demand: bound,
            bindable: unbound.saturating_sub(4),
            has_whole: unbound >= 4,
            ..NodeView::default()
        }
    }

    /// A pause that ends at that time.
    fn until(at_ms: u64) -> Retry {
        Retry {
            at_ms,
            ..Retry::default()
        }
    }

    /// A moment in which time does not matter.
    fn view() -> View {
        View {
            now_ms: NOW,
            max_bytes: 1 << 40,
            window_ends_ms: Some(NOW + 700),
            ..View::default()
        }
    }

    #[test]
    fn what_mappings_need_comes_first() {
        let full = node(20, SPANS);
        let needs = |to_bind, bindable| NodeView {
            to_bind,
            bindable,
            ..full
        };
        let partly_used = NodeView {
            ready: SPANS,
            ..node(20, 7)
        };
        let late = |it: NodeView, at_ms| NodeView {
            grow: until(at_ms),
            ..it
        };
        let idle = NodeView {
            demand: 0,
            ..node(0, SPANS + 40)
        };
        for (nodes, action) in [
            ([full, full], Sleep(None)),
            ([full, node(20, 15)], Grow(1)),
            // Half of the watermark is for all classes, whatever slots there are.
            ([partly_used, full], Grow(0)),
            ([node(20, 10), node(20, 3)], Grow(1)),
            ([needs(3, 5), node(0, 0)], Bind(0)),
            ([needs(9, 1), node(0, 0)], Bind(0)),
            ([needs(9, 0), full], Grow(0)),
            ([needs(5, 5), late(full, NOW + 1)], Bind(0)),
            // A failure on one node does not hold up another.
            ([late(node(20, 0), NOW + 5), node(20, 10)], Grow(1)),
            (
                [late(node(20, 0), NOW + 50), late(node(20, 10), NOW + 20)],
                Sleep(Some(20)),
            ),
            ([idle, node(20, 15)], Grow(1)),
            ([idle, full], GiveBack(0)),
        ] {
            assert_eq!(next(&nodes, &view()), action);
        }
    }

    #[test]
    fn a_quarter_of_what_is_used_is_ready_beside_it() {
        let used = 10 * SPANS;
        for (unbound, action) in [
            (used / 4 - 1, Grow(0)),
            (used / 4, Sleep(None)),
            (used / 4 + 3, Sleep(None)),
        ] {
            assert_eq!(next(&[node(used, unbound)], &view()), action);
        }
        // Once the node grew so far, that is kept for as long as the need is remembered.
        let idle = |demand| NodeView {
            demand,
            ..node(0, used + used / 4)
        };
        assert_eq!(next(&[idle(used)], &view()), Sleep(Some(700)));
        assert_eq!(next(&[idle(used - 4)], &view()), GiveBack(0));
        // kccd is rung before it is too late.
        assert_eq!(node(used, used / 4).low_spans(), used / 4);
        assert_eq!(node(used + 4, used / 4 - 4).low_spans(), used / 4);
        assert_eq!(node(4, 4).low_spans(), SPANS);
    }

    #[test]
    fn a_bind_that_failed_is_tried_again() {
        let node = NodeView {
            to_bind: 3,
            bind: until(NOW + 4),
            ..node(20, SPANS)
        };
        assert_eq!(next(&[node], &view()), Sleep(Some(4)));
        let lacking = NodeView {
            to_bind: 30,
            ..node
        };
        assert_eq!(next(&[lacking], &view()), Grow(0));
    }

    #[test]
    fn what_is_to_be_bound_is_not_given_back() {
        for (bindable, action) in [(6, Sleep(Some(4))), (7, GiveBack(0))] {
            let node = NodeView {
                demand: 0,
                to_bind: 3,
                bindable,
                bind: until(NOW + 4),
                ..node(0, SPANS + 4)
            };
            assert_eq!(next(&[node], &view()), action);
        }
    }

    #[test]
    fn the_cap_stops_growth_and_nothing_else() {
        let lacking = node(20, 8);
        let chunk = CHUNK_BYTES as u64;
        for (shared_bytes, action) in [
            (9 * chunk, Grow(0)),
            (9 * chunk + 1, Sleep(None)),
            (u64::MAX / 4, Sleep(None)),
        ] {
            let view = View {
                shared_bytes,
                max_bytes: 10 * chunk,
                ..view()
            };
            assert_eq!(next(&[lacking], &view), action);
            // Memory that counts already needs no room.
            let counted = NodeView {
                has_counted: true,
                ..lacking
            };
            assert_eq!(next(&[counted], &view), Grow(0));
            let idle = NodeView {
                demand: 0,
                ..node(0, SPANS + 4)
            };
            assert_eq!(next(&[idle], &view), GiveBack(0));
        }
    }

    #[test]
    fn pressure_takes_what_is_beyond_the_watermark_and_no_more() {
        let chunk = CHUNK_BYTES as u64;
        let broken = NodeView {
            has_whole: false,
            ..node(20, SPANS + 8)
        };
        let asleep = Sleep(Some(700));
        for (unbound, wanted_bytes, action) in [
            (SPANS, 100 * chunk, Sleep(None)),
            (SPANS + 3, 100 * chunk, Sleep(None)),
            (SPANS + 4, 100 * chunk, GiveBack(0)),
            (SPANS + 4, chunk, GiveBack(0)),
            (SPANS + 4, chunk / 2 - 1, asleep),
            (SPANS + 4, 0, asleep),
        ] {
            // All of it was needed a moment ago, and that need is not forgotten.
            let node = NodeView {
                demand: 60,
                ..node(20, unbound)
            };
            let mut view = View {
                wanted_bytes,
                ..view()
            };
            assert_eq!(next(&[node], &view), action);
            // Nor if nothing is ever given back for idling.
            view.window_ends_ms = None;
            let action = if action == asleep {
                Sleep(None)
            } else {
                action
            };
            assert_eq!(next(&[node], &view), action);
        }
        let view = View {
            wanted_bytes: chunk,
            ..view()
        };
        assert_eq!(next(&[broken], &view), asleep);
    }

    #[test]
    fn what_has_left_is_made_private_unless_mappings_need_more() {
        let full = node(20, SPANS);
        for (node, private_at_ms, has_left, action) in [
            (full, NOW, true, MakePrivate),
            (full, NOW, false, Sleep(None)),
            (node(20, 3), NOW, true, Grow(0)),
            (full, NOW + 30, true, Sleep(Some(30))),
        ] {
            let view = View {
                has_left,
                private: until(private_at_ms),
                ..view()
            };
            assert_eq!(next(&[node], &view), action);
        }
    }

    #[test]
    fn nothing_is_given_back_before_its_time() {
        let idle = NodeView {
            demand: 0,
            ..node(0, SPANS + 4)
        };
        for (give_back_at_ms, private_at_ms, action) in [
            (NOW, NOW, GiveBack(0)),
            (NOW + 60, NOW, Sleep(Some(60))),
            (NOW, NOW + 70, Sleep(Some(70))),
            (NOW + 1_000_000, NOW, Sleep(Some(700))),
        ] {
            let mut view = View {
                give_back_at_ms,
                private: until(private_at_ms),
                ..view()
            };
            assert_eq!(next(&[idle], &view), action);
            view.window_ends_ms = None;
            assert_eq!(next(&[idle], &view), Sleep(None));
        }
    }

    #[test]
    fn windows_turn_while_something_may_come_to_idle() {
        let full = node(20, SPANS);
        let unused = NodeView {
            demand: 60,
            ..node(20, SPANS + 4)
        };
        // Node, how much longer mappings are left alone if there are any, end of the window.
        for (node, calm_ms, window_ends_ms, action) in [
            (full, None, NOW, Sleep(None)),
            (unused, None, NOW, TurnWindow),
            (unused, None, NOW + 1, Sleep(Some(1))),
            (unused, None, NOW + 1_000_000, Sleep(Some(60_000))),
            (unused, Some(50), NOW, TurnWindow),
            // All that is used may come home unnoticed.
            (full, Some(0), NOW, TurnWindow),
            (full, Some(0), NOW + 1, Sleep(Some(1))),
            (full, Some(50), NOW, Sleep(Some(50))),
            (node(4, SPANS), Some(0), NOW, TurnWindow),
            (node(3, SPANS), Some(0), NOW, Sleep(None)),
        ] {
            let view = View {
                calm_ms,
                window_ends_ms: Some(window_ends_ms),
                ..view()
            };
            assert_eq!(next(&[node], &view), action);
        }
    }

    #[test]
    fn pauses_double_up_to_half_a_second() {
        let mut retry = Retry::default();
        for (done, ms) in [
            (false, 10),
            (false, 20),
            (false, 40),
            (true, 0),
            (true, 0),
            (false, 10),
        ] {
            retry.note(done, NOW);
            assert_eq!(retry.at_ms, NOW + ms);
        }
        for ms in [20, 40, 80, 160, 320, 500, 500, 500] {
            retry.note(false, NOW);
            assert_eq!(retry.at_ms, NOW + ms);
        }
    }

    #[test]
    fn reserves_are_an_eighth_within_limits() {
        for (watermark, reserved) in [
            (0, (0, 1)),
            (4, (0, 1)),
            (40, (5, 5)),
            (2048, (64, 8)),
            (u64::MAX, (64, 8)),
        ] {
            assert_eq!(reserves(watermark), reserved);
        }
        assert!(share(10, 3) == 4 && share(0, 3) == 0 && share(10, 0) == 10);
    }

    #[test]
    fn memory_of_a_need_follows_its_price() {
        for (idle, chunk_ns, ms) in [
            (Idle::Priced, 0, Some(10_000)),
            (Idle::Priced, 12_000_000, Some(12_000)),
            (Idle::Priced, 133_000_000, Some(133_000)),
            (Idle::Ms(100), 133_000_000, Some(100)),
            (Idle::Never, 0, None),
        ] {
            assert_eq!(idle.memory_ms(chunk_ns), ms);
        }
    }
}

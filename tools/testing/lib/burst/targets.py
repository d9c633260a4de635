# SPDX-License-Identifier: GPL-2.0
"""The targets for bursts: swiotlb in the same guest, and bounds of our own.

A busy host takes CPUs away from the guest, so that a conversion takes longer than it
should. Bounds in seconds are stretched by the same factor.
"""

import dataclasses
import math

MIB = 1 << 20
PAGE = 4096

CONVERSION_FACTOR = 1.5
REFUSED_FOR_S = 2.0
THROUGHPUT = 0.9
OVERHEAD = 1.5
IN_VAIN = 0.1


@dataclasses.dataclass(frozen=True)
class Target:
    """One target, and whether the figures meet it."""

    name: str
    wanted: str
    measured: str
    met: bool


def conversion_s(transfers: int, us: int) -> float:
    """Seconds that it takes to convert the bytes of so many transfers of 1 MiB."""
    return transfers * (MIB / PAGE) * us / 1e6


def _stretch(figures: dict, us: int) -> float:
    """The factor by which a conversion took longer than the host was told."""
    return max(1.0, (figures.get("page_us") or us) / us) if us else 1.0


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f} s"


def _or_never(value: float | None) -> float:
    return math.inf if value is None else value


def unharmed(figures: dict) -> Target:
    """No I/O error and no hang."""
    errors, hung = figures["errors"], figures["hung"]
    return Target(
        "no I/O error, no hang",
        "0 and 0",
        f"{errors:.0f} and {hung:.0f}",
        not errors and not hung,
    )


def in_time(figures: dict, static: dict, readers: int, us: int) -> Target:
    """All readers are served about as soon as the bytes can be converted."""
    conversion = conversion_s(readers, us) * _stretch(figures, us)
    limit = _or_never(static["all_done_s"]) + CONVERSION_FACTOR * conversion
    done = figures["all_done_s"]
    return Target(
        "all readers are done in time",
        f"within {limit:.1f} s: static swiotlb's {_seconds(static['all_done_s'])} and "
        f"{CONVERSION_FACTOR} times the conversion",
        _seconds(done),
        _or_never(done) <= limit,
    )


def before_dynamic(figures: dict, dynamic: dict) -> Target:
    """All readers are served before swiotlb has grown so far."""
    done, other = figures["all_done_s"], dynamic["all_done_s"]
    return Target(
        "all readers are done before SWIOTLB_DYNAMIC",
        f"within {_seconds(other)}",
        _seconds(done),
        done is not None and done < _or_never(other),
    )


def refused_early(figures: dict, us: int) -> Target:
    """Nothing is refused once kccd has had time."""
    last = figures["last_refusal_s"]
    limit = REFUSED_FOR_S * _stretch(figures, us)
    return Target(
        "the last refusal",
        f"within {limit:.1f} s",
        _seconds(last),
        (last or 0) <= limit,
    )


def remembered(figures: dict) -> Target:
    """Nothing is refused when the burst comes back."""
    return Target(
        "mappings refused when it came back",
        "none",
        f"{figures['again']:.0f}",
        not figures["again"],
    )


def throughput(figures: dict, static: dict) -> Target:
    """As much is transferred as over the static pool."""
    ratio = figures["transfers"] / max(1, static["transfers"])
    return Target(
        "throughput beside static swiotlb",
        f"at least {THROUGHPUT} times",
        f"{ratio:.2f} times",
        ratio >= THROUGHPUT,
    )


def bounded(figures: dict) -> Target:
    """Not much more is shared than was in use."""
    shared, used = figures["peak_shared_mib"], figures["peak_used_mib"]
    # A burst that fits into the memory that is ready does not make it smaller.
    limit = max(OVERHEAD * used, figures["start_shared_mib"])
    return Target(
        "shared at the peak",
        f"at most {limit:.0f} MiB, {used:.0f} were in use",
        f"{shared:.0f} MiB",
        shared <= limit,
    )


def not_in_vain(figures: dict) -> Target:
    """Little is copied for requests that are refused later."""
    share = figures["wasted"] or 0.0
    return Target(
        "copied in vain while short",
        f"at most {IN_VAIN:.0%}",
        f"{share:.0%}",
        share <= IN_VAIN,
    )


def judge(
    figures: dict,
    static: dict | None,
    dynamic: dict | None,
    us: int,
    readers: int = 160,
) -> list[Target]:
    """All targets of one kind of burst, of those whose figures are there."""
    found = [unharmed(figures), bounded(figures), not_in_vain(figures)]
    found.append(remembered(figures))
    if static:
        found.append(in_time(figures, static, readers, us))
    if dynamic:
        found.append(before_dynamic(figures, dynamic))
    if us == 23:
        found.append(refused_early(figures, us))
        if static:
            found.append(throughput(figures, static))
    return found

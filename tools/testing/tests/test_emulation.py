# SPDX-License-Identifier: GPL-2.0
"""The emulated host answers conversions as TDX does, and can refuse them."""

import re
from pathlib import Path

import pytest
import vm

KNOBS = "/sys/module/cc_emul/parameters"

# Only conversions by the module are counted.
QUIET = ("--nvme", "0", "--blk", "0", "--swiotlb", "legacy")

# The message of mainline, once, about a conversion that fails.
MAINLINE = r"WARNING: at __set_memory_enc"
# The message of the emulation, once, about memory that must not be used again.
EMULATION_WARNS = r"WARNING: at cc_emul_check_free"


@pytest.fixture(scope="module")
def convert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The module that converts memory when it is told to."""
    return vm.build_module("convert", tmp_path_factory.mktemp("convert"))


class Steps:
    """A list of conversions, and the expected answers."""

    def __init__(self) -> None:
        self._lines = ["do=/sys/module/cc_swiotlb_convert/parameters/do"]
        self._wanted: list[tuple[str, str]] = []

    def do(self, step: str, answer: str) -> None:
        """A step and its answer, `ok` or `error`."""
        self._lines.append(
            f"if echo '{step}' >$do 2>/dev/null; then echo 'step: ok';"
            " else echo 'step: error'; fi"
        )
        self._wanted.append((step, answer))

    def shell(self, line: str) -> None:
        """A command in between."""
        self._lines.append(line)

    def counters(self, name: str) -> None:
        """Prints the counters as a section."""
        self._lines.append(vm.show(name, vm.EMULATION))

    def run(self, convert: Path, append: str = "", freed: bool = False) -> vm.Result:
        """Runs them all, compares the answers, and looks for complaints."""
        command = f"insmod /host/{convert.name} && {{\n"
        command += "\n".join(self._lines) + f"\n}}\n{vm.log()}"
        result = vm.run(
            command,
            *(*QUIET, "--allow-warnings", "--add", str(convert)),
            *("--append", f"{vm.LOG_SPACE} {append}"),
        )
        got = re.findall(r"^step: (\w+)$", result.stdout, re.M)
        steps = [step for step, _ in self._wanted]
        assert list(zip(steps, got, strict=True)) == self._wanted, result.tail()
        complaints = [
            line
            for line in vm.lines(result.section("log"), r"WARNING:|BUG:")
            if not re.search(MAINLINE, line)
        ]
        assert len(complaints) == freed, complaints
        assert all(re.search(EMULATION_WARNS, line) for line in complaints), complaints
        return result


def test_conversions(convert):
    """Shared and private: which conversions TDX allows to be repeated, which not."""
    steps = Steps()
    steps.counters("before")
    steps.do("alloc", "ok")
    steps.do("unshare 0 512", "error")
    steps.do("share 0 512", "ok")
    steps.do("share 0 512", "ok")
    steps.counters("shared")
    steps.do("unshare 0 512", "ok")
    steps.do("unshare 0 1", "error")
    steps.counters("private")
    steps.do("free", "ok")
    steps.counters("after")
    result = steps.run(convert)
    shared = result.count("shared_now", "before")
    assert result.count("shared_now", "shared") == shared + 512
    assert result.count("shared_now", "private") == shared
    assert result.count("bad_accepts", "after") == 2
    assert result.count("bad_frees", "after") == 0
    assert result.count("unaccepted_now", "after") == 0
    for key, pages in (("share_pages", 1024), ("unshare_pages", 512)):
        assert result.count(key, "after") - result.count(key, "before") == pages


def test_accepting_stops_at_an_accepted_page(convert):
    """Pages behind one that is accepted already are private but cannot be used."""
    steps = Steps()
    steps.do("alloc", "ok")
    steps.do("share 0 16", "ok")
    steps.do("unshare 4 1", "ok")
    steps.do("unshare 0 16", "error")
    steps.counters("stopped")
    steps.do("unshare 5 11", "ok")
    steps.counters("after")
    result = steps.run(convert)
    assert result.count("unaccepted_now", "stopped") == 11
    assert result.count("unaccepted_now", "after") == 0
    assert result.count("bad_accepts", "after") == 1


def test_refused_conversion_changes_nothing(convert):
    """Memory that could not be shared is private, and the other way round."""
    steps = Steps()
    steps.do("alloc", "ok")
    steps.counters("before")
    steps.shell(f"echo 1000,share >{KNOBS}/refuse; cat {KNOBS}/refuse")
    steps.do("share 0 512", "error")
    steps.do("unshare 0 512", "error")
    steps.counters("not shared")
    steps.shell(f"echo 1000,unshare >{KNOBS}/refuse; cat {KNOBS}/refuse")
    steps.do("share 0 512", "ok")
    steps.do("unshare 0 512", "error")
    steps.counters("not private")
    steps.shell(f"echo 0 >{KNOBS}/refuse; cat {KNOBS}/refuse")
    steps.do("unshare 0 512", "ok")
    steps.do("free", "ok")
    steps.counters("after")
    result = steps.run(convert)
    assert "1000,share,after=0,ms=0\n" in result.stdout
    assert "1000,unshare,after=0,ms=0\n" in result.stdout
    shared = result.count("shared_now", "before")
    assert result.count("shared_now", "not shared") == shared
    assert result.count("mismatched_now", "before") == 0
    assert result.count("mismatched_now", "not shared") == 512
    assert result.count("shared_now", "not private") == shared + 512
    assert result.count("mismatched_now", "not private") == 0
    assert result.count("shared_now", "after") == shared
    assert result.count("share_refused", "after") == 1
    assert result.count("unshare_refused", "after") == 1
    # One for the memory that was private all the time.
    assert result.count("bad_accepts", "after") == 1
    assert result.count("bad_frees", "after") == 0


def test_refusals_begin_and_end(convert):
    """Refusals begin at boot or after some conversions, and end after a time."""
    steps = Steps()
    steps.do("alloc", "ok")
    steps.do("share 0 1", "error")
    steps.shell(f"echo 1000,share,after=2,ms=5000 >{KNOBS}/refuse; sleep 6")
    steps.do("share 0 1", "ok")
    steps.do("share 0 1", "ok")
    steps.do("share 0 1", "error")
    wait = f"grep -qx 0 {KNOBS}/refuse && break; sleep 0.1"
    steps.shell(f"for i in $(seq 300); do {wait}; done")
    steps.do("share 0 1", "ok")
    steps.shell(f"echo refuse: $(cat {KNOBS}/refuse)")
    for bad in ("1001", "share", "5,both", "5,after=x", "5,ms="):
        steps.shell(f"echo {bad} >{KNOBS}/refuse 2>/dev/null && echo taken: {bad}")
    result = steps.run(convert, "cc_emul.refuse=1000,share,after=1")
    assert "refuse: 0\n" in result.stdout
    assert "taken" not in result.stdout, result.tail()


def test_answered_wrongly(convert):
    """A refused conversion may convert a part, and a granted one nothing."""
    steps = Steps()
    steps.do("alloc", "ok")
    steps.counters("before")
    for step in ("share", "unshare"):
        steps.shell(f"echo 1000,partly >{KNOBS}/refuse; cat {KNOBS}/refuse")
        for _ in range(3):
            steps.do(f"{step} 0 512", "error")
        steps.counters(f"partly {step}d")
        steps.shell(f"echo 0 >{KNOBS}/refuse")
        steps.do("share 0 512", "ok")
    # Making memory private includes accepting it, which no host can do.
    steps.shell(f"echo 1000,falsely >{KNOBS}/refuse; cat {KNOBS}/refuse")
    steps.do("unshare 0 512", "error")
    steps.counters("still shared")
    steps.shell(f"echo 0 >{KNOBS}/refuse")
    steps.do("unshare 0 512", "ok")
    steps.shell(f"echo 1000,falsely >{KNOBS}/refuse")
    steps.do("share 0 512", "ok")
    steps.counters("still private")
    steps.shell(f"echo 0 >{KNOBS}/refuse")
    steps.do("unshare 0 512", "error")
    steps.do("share 0 512", "ok")
    steps.do("unshare 0 512", "ok")
    steps.do("free", "ok")
    steps.counters("after")
    result = steps.run(convert)
    for how in ("partly", "falsely"):
        assert f"1000,share,unshare,{how},after=0,ms=0\n" in result.stdout

    def pages(state: str, step: str) -> int:
        return result.count(state, step) - result.count(state, "before")

    # The chance that three attempts converted nothing is 1 in 2^27.
    assert 0 < pages("shared_now", "partly shared") < 512
    assert 0 < pages("shared_now", "partly unshared") < 512
    assert 0 < pages("unaccepted_now", "partly unshared") < 512
    assert pages("shared_now", "still shared") == 512
    assert pages("shared_now", "still private") == 0
    assert pages("mismatched_now", "still private") == 512
    assert pages("wrong_answers", "after") == 8
    assert pages("bad_frees", "after") == 0


def test_share_of_refusals(convert):
    """About a quarter of the requests is refused."""
    steps = Steps()
    steps.do("alloc", "ok")
    steps.shell(
        f"echo 250 >{KNOBS}/refuse; for i in $(seq 400); do"
        " echo 'share 0 1' >$do 2>/dev/null || echo refused; done"
    )
    result = steps.run(convert)
    assert 50 < result.stdout.count("refused") < 150


def test_cost_changes_at_run_time(convert):
    """512 pages of 1 ms take half a second, and nothing before that."""
    steps = Steps()
    steps.do("alloc", "ok")
    steps.do("share 0 512", "ok")
    steps.counters("free of charge")
    steps.shell(f"echo 1000 >{KNOBS}/convert_us; cut -d ' ' -f 1 /proc/uptime")
    steps.do("unshare 0 512", "ok")
    steps.shell("cut -d ' ' -f 1 /proc/uptime")
    steps.counters("charged")
    result = steps.run(convert)
    assert result.count("charged_us", "free of charge") == 0
    assert result.count("charged_us", "charged") == 512_000
    before, after = map(float, re.findall(r"^(\d+\.\d+)$", result.stdout, re.M))
    assert after - before >= 0.5


@pytest.mark.parametrize(
    "steps,state",
    [
        (("share 0 512",), "shared, and mapped so"),
        (("refuse", "share 8 1"), "mapped shared, but private"),
        (("share 0 9", "unshare 0 1", "unshare 0 9"), "not accepted"),
    ],
)
def test_bad_free_is_seen(convert, steps, state):
    """Memory that is freed in a state in which it must not be used is reported."""
    todo = Steps()
    todo.do("alloc", "ok")
    for step in steps[:-1]:
        if step == "refuse":
            todo.shell(f"echo 1000 >{KNOBS}/refuse")
        else:
            todo.do(step, "ok")
    todo.do(steps[-1], "ok" if len(steps) == 1 else "error")
    todo.do("free", "ok")
    todo.counters("after")
    result = todo.run(convert, freed=True)
    assert result.count("bad_frees", "after") == 1, state

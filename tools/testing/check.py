# SPDX-License-Identifier: GPL-2.0
"""Runs all tests but those in extra/; arguments are pytest's: a file, -k WORD, --co ...

The last line says how many passed and failed. A test that did not run to its
end (an error, a skip) has failed, and so has a run of no test.
"""

import os
import sys
from pathlib import Path

import pytest

sys.dont_write_bytecode = True

TESTS = Path(__file__).resolve().parent / "tests"
# Tests that take too long to run each time: `make check-configs` and the like.
EXTRA = TESTS / "extra"
# Guests spend a part of their time waiting: three of them keep two CPUs busy. Tests are
# handed out by file, since those of a file share guests. Tests that compare times come
# last, alone.
AT_ONCE = min((os.cpu_count() or 1) * 3 // 2, 4)
PHASES = (
    ["-m", "not alone", "-n", str(AT_ONCE), "--dist", "loadfile"],
    ["-m", "alone"],
)


class Counter:
    """Counts each test once, by its worst outcome."""

    def __init__(self) -> None:
        self.outcomes: dict[str, bool] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test's set-up, call or tear-down has ended."""
        good = report.passed and self.outcomes.get(report.nodeid, True)
        self.outcomes[report.nodeid] = good

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file of tests has been read."""
        if not report.passed:
            self.outcomes[report.nodeid] = False


def main() -> int:
    """Runs the tests and prints the closing line."""
    counter = Counter()
    arguments = ["-p", "no:cacheprovider", "-v", "--tb=short", "--durations=10"]
    named = [word for word in sys.argv[1:] if word.split("::")[0].endswith(".py")]
    arguments += [f"--rootdir={TESTS}", *sys.argv[1:]]
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    os.chdir(TESTS)
    phases = ([],) if named else PHASES
    if not named:
        arguments += [f"--ignore={EXTRA}", str(TESTS)]
    statuses = {pytest.main([*arguments, *phase], [counter]) for phase in phases}
    # A phase may have no tests if the arguments select only some.
    statuses -= {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}
    passed = sum(counter.outcomes.values())
    failed = len(counter.outcomes) - passed
    if "--co" in sys.argv or "--collect-only" in sys.argv:
        return 1 if statuses else 0
    print(f"{passed} passed, {failed} failed", flush=True)
    return 1 if failed or not passed or statuses else 0


if __name__ == "__main__":
    sys.exit(main())

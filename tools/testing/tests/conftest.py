# SPDX-License-Identifier: GPL-2.0
"""Shared by the tests: the modules that are built once, and the order of the files."""

import sys
from pathlib import Path

import pytest

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import vm  # noqa: E402

# The quick ones first: a slip is seen before the first guest has booted.
ORDER = (
    "test_static",
    "test_stat",
    "test_stat_log",
    "test_stat_live",
    "test_setup",
    "test_install_tree",
    "test_kernel_build",
    "test_kunit",
    "test_dma",
    "test_misuse",
    "test_exhaust",
    "test_iommu",
    "test_faults",
    "test_parameters",
    "test_trace",
    "test_io",
    "test_dm_crypt",
    "test_giveback",
    "test_numa",
    "test_load",
    "test_burst",
    "test_leak",
    "test_untrusted",
    "test_bench",
    "test_machine",
    "test_disks",
    "test_hotplug",
    "test_emulation",
    "test_refusal",
    "test_ccvm",
    "test_debug",
    "test_torture",
)


def pytest_configure(config: pytest.Config) -> None:
    """Says what the marks mean."""
    config.addinivalue_line("markers", "alone: compares times; nothing runs beside it")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of single tests, for runs that take longer than all tests may."""
    parser.addoption(
        "--refusal-seconds",
        type=int,
        default=20,
        help="for how long test_refusal's host refuses to convert memory, 20",
    )
    parser.addoption(
        "--hostile-seconds",
        type=int,
        default=30,
        help="for how long each guest of test_untrusted has hostile devices, 30",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the files into the order above; unknown ones come last."""

    def place(item: pytest.Item) -> int:
        name = item.path.stem
        return ORDER.index(name) if name in ORDER else len(ORDER)

    items.sort(key=place)


@pytest.fixture(scope="session")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The DMA API test module for the guest kernel."""
    return vm.build_module("dma_test", tmp_path_factory.mktemp("module"))


@pytest.fixture(scope="session")
def debug_module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The DMA API test module for the debug kernel."""
    return vm.build_module("dma_test", tmp_path_factory.mktemp("debug-module"), "debug")


@pytest.fixture(scope="session")
def torture_module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The torture module for the guest kernel."""
    return vm.build_module("torture", tmp_path_factory.mktemp("torture"))


@pytest.fixture(scope="session")
def debug_torture_module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The torture module for the debug kernel."""
    return vm.build_module("torture", tmp_path_factory.mktemp("debug-torture"), "debug")

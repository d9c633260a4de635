# SPDX-License-Identifier: GPL-2.0
"""The guest's disks: of which kinds, on which controllers, and what is behind them.

Each disk is 1 GiB: a sparse file that is empty at first, the same file behind a
server that delays requests, or nothing at all (null-co): writes are lost, reads give
zeroes, and any number of requests can be under way.
"""

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from lib import untrusted
from lib.failure import Failure

if TYPE_CHECKING:
    from lib.machine import Options

SIZE = 1 << 30

AHCI_PORTS = 6
# An AHCI controller is part of the chipset: its ports are ide.0 to ide.5.
CHIPSET = "ide"

# The most controllers that have a place of their own on the PCI bus: some places are
# left for the network and for --qemu-append.
PCI_SLOTS = 24
PCI_FUNCTIONS = 8
FIRST_SLOT = 2
MAX_DISKS = PCI_SLOTS * PCI_FUNCTIONS

VIRTIO = "disable-legacy=on,iommu_platform=on"

# Disks that QEMU itself serves, and disks with a process of their own.
EMULATED = ("nvme", "blk", "scsi", "ahci")
UNTRUSTED = "vhost_blk"


def names(options: "Options") -> list[str]:
    """The disks that QEMU serves, in the order the guest sees them."""
    return [
        f"{kind}{index}" for kind in EMULATED for index in range(getattr(options, kind))
    ]


def check(options: "Options") -> None:
    """Refuses options that no machine can have."""
    for kind in (*EMULATED, UNTRUSTED):
        count = getattr(options, kind)
        if not 0 <= count <= MAX_DISKS:
            name = kind.replace("_", "-")
            raise Failure(f"--{name} {count}: from 0 to {MAX_DISKS}")
    if len(names(options)) + options.vhost_blk > MAX_DISKS:
        raise Failure(f"a guest has no more than {MAX_DISKS} disks")
    if options.null_ms is not None and options.latency_ms:
        raise Failure("--null-ms and --latency-ms: a disk is of one kind")
    if options.latency_ms < 0 or (options.null_ms or 0) < 0:
        raise Failure("--null-ms and --latency-ms: a time is not negative")
    if options.vhost_blk and options.guest != "coco":
        raise Failure("--vhost-blk: only a confidential guest has memory for it")


def make(options: "Options", folder: Path) -> None:
    """Makes an empty, sparse file for each disk that needs one."""
    folder.mkdir(exist_ok=True)
    files = [f"{UNTRUSTED}{index}" for index in range(options.vhost_blk)]
    if options.null_ms is None:
        files += names(options)
    for name in files:
        with open(folder / name, "wb") as file:
            file.truncate(SIZE)


def start_delay(options: "Options", disks: Path, socket: Path) -> subprocess.Popen:
    """Starts the server that holds every request to a disk for a while.

    It ends with this process.
    """
    if not shutil.which("nbdkit"):
        raise Failure("nbdkit is not installed, which --latency-ms needs")
    delay = f"{options.latency_ms}ms"
    return subprocess.Popen(
        ["nbdkit", "--foreground", "--exit-with-parent", "--unix", str(socket)]
        + ["--threads", "64", "--filter=delay", "file", f"dir={disks}"]
        + [f"rdelay={delay}", f"wdelay={delay}"],
        stdin=subprocess.DEVNULL,
    )


def _backend(options: "Options", file: Path, socket: Path | None) -> str:
    """The backend of a disk."""
    if options.null_ms is not None:
        latency = options.null_ms * 1_000_000
        return f"driver=null-co,read-zeroes=on,size={SIZE},latency-ns={latency}"
    if socket:
        return f"driver=nbd,server.type=unix,server.path={socket},export={file.name}"
    return f"driver=raw,file.driver=file,file.filename={file},file.aio=threads"


class _Bus:
    """The places of controllers on the PCI bus."""

    def __init__(self, count: int):
        # QEMU gives each a slot of its own as long as there are enough.
        self._shared = count > PCI_SLOTS
        self._taken = 0

    def place(self) -> str:
        """The place of the next one, as properties of a device."""
        if not self._shared:
            return ""
        slot, function = divmod(self._taken, PCI_FUNCTIONS)
        self._taken += 1
        return f",multifunction=on,addr={FIRST_SLOT + slot:#x}.{function}"


def _controllers(options: "Options") -> int:
    """How many devices on the PCI bus the disks need."""
    spare_ahci = max(0, options.ahci - 1) // AHCI_PORTS
    virtio = options.blk + options.vhost_blk + bool(options.scsi)
    return options.nvme + virtio + spare_ahci


def arguments(
    options: "Options", disks: Path, socket: Path | None, vhost: Path | None
) -> list[str]:
    """QEMU's arguments for the disks, with the sockets of both kinds of servers."""
    words, untrusted_disks = untrusted.qemu(options, vhost)
    for name in names(options):
        backend = _backend(options, disks / name, socket)
        words += ["-blockdev"]
        words += [f"{backend},node-name={name},cache.no-flush=on,discard=unmap"]
    bus = _Bus(_controllers(options))
    devices = []
    for index in range(options.nvme):
        devices.append(f"nvme,drive=nvme{index},serial=nvme{index}{bus.place()}")
    for index in range(options.blk):
        devices.append(f"virtio-blk-pci,drive=blk{index},{VIRTIO}{bus.place()}")
    for device in untrusted_disks:
        devices.append(f"{device},{VIRTIO}{bus.place()}")
    if options.scsi:
        devices.append(f"virtio-scsi-pci,id=scsi,{VIRTIO}{bus.place()}")
    for index in range(options.scsi):
        devices.append(f"scsi-hd,bus=scsi.0,lun={index},drive=scsi{index}")
    controller = CHIPSET
    for index in range(options.ahci):
        which, port = divmod(index, AHCI_PORTS)
        if which and not port:
            controller = f"ahci-{which}"
            devices.append(f"ich9-ahci,id={controller}{bus.place()}")
        devices.append(f"ide-hd,bus={controller}.{port},drive=ahci{index}")
    for device in devices:
        words += ["-device", device]
    return words

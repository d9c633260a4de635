# SPDX-License-Identifier: GPL-2.0
"""QEMU's monitor, by which memory is plugged into a guest that runs."""

import json
import socket

from lib.failure import Failure
from lib.machine import Options, plug_addresses


class Monitor:
    """The monitor of one QEMU; commands are sent without waiting for the answer."""

    def __init__(self, port: socket.socket, options: Options):
        self._port = port
        self._data = b""
        self._pending = sorted(
            zip(options.plugs, plug_addresses(options), strict=True),
            key=lambda pair: pair[0].seconds,
        )
        self._count = 0
        if self._pending:
            self._execute("qmp_capabilities")

    def due(self) -> float:
        """When the next memory is plugged, in seconds after the command's start."""
        return self._pending[0][0].seconds if self._pending else float("inf")

    def plug(self) -> None:
        """Plugs the next memory."""
        plug, address = self._pending.pop(0)
        name = f"plugged{self._count}"
        self._count += 1
        self._execute(
            "object-add",
            **{"qom-type": "memory-backend-ram", "id": name},
            size=plug.size,
            reserve=False,
        )
        self._execute(
            "device_add",
            driver="pc-dimm",
            id=f"dimm-{name}",
            memdev=name,
            addr=address,
        )

    def feed(self, data: bytes) -> None:
        """Takes the next bytes from QEMU."""
        *lines, self._data = (self._data + data).split(b"\n")
        for line in filter(None, map(bytes.strip, lines)):
            error = json.loads(line).get("error")
            if error:
                raise Failure(f"QEMU's monitor: {error['desc']}")

    def _execute(self, command: str, **arguments) -> None:
        text = json.dumps({"execute": command, "arguments": arguments})
        self._port.sendall(text.encode() + b"\n")

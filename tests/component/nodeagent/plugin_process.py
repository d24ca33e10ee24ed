"""A process that listens as a device plugin does: SOCKET [SIMULATION DEVICES_FILE].

At its start and on SIGHUP it writes the MIG devices of the simulated hardware into the file, or "hup" on its output
where there is none.
"""

from __future__ import annotations

import json
import signal
import socket
import sys
from pathlib import Path

from n8s import names
from nodeagent.gpu.simulated import SimulatedNode


def look(simulation: str, devices_file: str) -> None:
    found: dict[str, list[str]] = {}
    for device in SimulatedNode(simulation).mig_devices():
        found.setdefault(names.mig_resource(device.profile), []).append(device.uuid)
    new = Path(devices_file).with_suffix(".new")
    new.write_text(json.dumps(found))
    new.replace(devices_file)


def main() -> None:
    path, simulation, devices_file = sys.argv[1:]
    listener = socket.socket(socket.AF_UNIX)
    if path:
        listener.bind(path)
        listener.listen()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, signal.SIGTERM})
    signal.signal(signal.SIGHUP, lambda *_: None)  # blocked and waited for, yet to be seen as handled
    if simulation:
        look(simulation, devices_file)
    print("ready", flush=True)
    while signal.sigwait({signal.SIGHUP, signal.SIGTERM}) == signal.SIGHUP:
        if simulation:
            look(simulation, devices_file)
        else:
            print("hup", flush=True)


main()

"""The stand-in for NVIDIA's library, as tests use it: built, loaded, filled with GPUs of the catalogue, told to fail.

The real binding then finds it by its soname: in this process because it is loaded already, in another one by
:meth:`StandIn.environment`. What it shows and what not is said in ``standin.c``.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import shutil
import subprocess
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal

SOURCE: Final = Path(__file__).with_name("standin.c")
SONAME: Final = "libnvidia-ml.so.1"
KINDS: Final = ("compute", "graphics", "mps", "handle")
HANG: Final = -1

Kind = Literal["compute", "graphics", "mps", "handle"]


@functools.cache
def built(*flags: str) -> Path:
    """The directory that holds the library, built once per process with these flags of the compiler.

    ``NVML_CFLAGS`` in the environment adds others, e.g. sanitizers (``make sanitize``).
    """
    compiler = shutil.which("gcc")
    if compiler is None:
        raise RuntimeError("gcc is missing: the stand-in for NVIDIA's library is built with it")
    _built.append(tempfile.TemporaryDirectory(prefix="nvml-", ignore_cleanup_errors=True))
    directory = Path(_built[-1].name)
    options = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-g", "-shared", "-fPIC", f"-Wl,-soname,{SONAME}"]
    target = str(directory / SONAME)
    options += os.environ.get("NVML_CFLAGS", "").split()
    subprocess.run([compiler, *options, *flags, "-o", target, str(SOURCE), "-lpthread"], check=True)
    return directory


@functools.cache
def _loaded() -> Any:
    """The library in this process; whoever asks for it by soname from now on gets this one."""
    library = ctypes.CDLL(str(built() / SONAME))
    library.standin_add_gpu.argtypes = [ctypes.c_char_p, ctypes.c_ulonglong]
    library.standin_add_profile.argtypes = [
        *(ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_int, ctypes.c_int),
        *(ctypes.c_ulonglong, ctypes.c_void_p, ctypes.c_int),
    ]
    return library


@functools.cache
def _models() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(files("n8s").joinpath("mig_models.json").read_text(encoding="utf-8"))
    return table


class StandIn:
    """The GPUs of one node, for this process and those that get :meth:`environment`."""

    def __init__(self, state: Path) -> None:
        """A node without GPUs, whose state is the file ``state``; from now on this process sees this node."""
        self.state = state
        self._library = _loaded()
        if self._library.standin_attach(str(state).encode()):
            raise OSError(f"cannot map {state}")

    def environment(self, *flags: str) -> dict[str, str]:
        """What another process needs in its environment to find this node by a library built with these flags."""
        return {"LD_LIBRARY_PATH": str(built(*flags)), "NVML_STANDIN": str(self.state)}

    def add(self, model: str) -> int:
        """Add a GPU of the catalogue, MIG on and empty; returns its index."""
        entry = _models()[model]
        profiles = [profile for profile in entry["profiles"] if None not in (profile["smi_id"], profile["size"])]
        # By the size of its largest profile, as with the simulated GPUs; tests of names need no better.
        memory = max((profile["memory_mib"] or 0) for profile in profiles)
        index = self.add_plain(entry["nvml_names"][0], memory)
        for profile in profiles:
            starts = (ctypes.c_int * len(profile["placements"]))(*profile["placements"])
            self._library.standin_add_profile(
                *(index, profile["nvml_profile"], profile["smi_id"], profile["name"].encode()),
                *(profile["compute_slices"], profile["size"], profile["max_count"], profile["memory_mib"] or 0),
                *(starts, len(starts)),
            )
        return index

    def add_plain(self, name: str, memory_mib: int) -> int:
        """Add a GPU without MIG; returns its index."""
        return int(self._library.standin_add_gpu(name.encode(), memory_mib))

    def set(self, gpu: int, *, mode: int = 1, pending: int = 1, virtualization: int = 0, lost: bool = False) -> None:
        """How a GPU is, besides its instances."""
        self._library.standin_set(gpu, mode, pending, virtualization, int(lost))

    def hold(self, uuid: str, pid: int, kind: Kind = "compute") -> None:
        """Somebody opens a MIG device and keeps it until :meth:`release`; a mere handle shows in no list."""
        if self._library.standin_hold(uuid.encode(), pid, KINDS.index(kind)):
            raise KeyError(f"no MIG device {uuid}")

    def release(self, pid: int) -> None:
        """A process, or the holder of a handle, closes all it holds."""
        self._library.standin_release(pid)

    def fail(self, call: str, error: int, *, gpu: int = -1, skip: int = 0, times: int = 1) -> None:
        """Let a call fail after ``skip`` more, ``times`` times (0: until :meth:`heal`); :data:`HANG` lets it hang."""
        if self._library.standin_fault(call.encode(), gpu, error, skip, times):
            raise OverflowError("too many faults")

    def heal(self) -> None:
        """Take all faults back; what hangs goes on."""
        self._library.standin_clear_faults()

    def reboot(self) -> None:
        """All instances and holders are gone."""
        self._library.standin_reboot()

    @property
    def changes(self) -> int:
        """How many calls were made that change hardware, whatever they ended with."""
        return int(self._library.standin_changes())


_built: Final[list[tempfile.TemporaryDirectory[str]]] = []
"""Removed when the process ends."""

"""A driver whose calls end, whatever the one beneath does.

A call into a kernel driver can hang for good, for one with a broken GPU or under memory pressure. The thread it is in
is lost then, but not its caller: after a bound that call is given up with an error that says so. Until it returns no
other is made, since that would hang as well and cost a thread each time; so a driver that comes back is found again by
itself. What a call that was given up still did shows at the next look.

It refuses to try again, and to kill anything: a thread in a kernel call cannot be.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Final, TypeVar

from nodeagent.errors import DriverError, DriverSilentError

if TYPE_CHECKING:
    from collections.abc import Callable

    from nodeagent.gpu.driver import Gpu, GpuDriver, Instance, Placement

READ_SECONDS: Final = 20.0
"""For a look at all GPUs. It takes milliseconds; under load, walking all MIG devices was seen to take 10 s."""
CHANGE_SECONDS: Final = 60.0
"""For one change. It takes tenths of a second, a second at times."""

_Result = TypeVar("_Result")


class _Call:
    """A call in a thread of its own, which does not keep the program from ending."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[object, ...]) -> None:
        self.name = function.__name__
        self.began = time.monotonic()
        self.done = threading.Event()
        self.result: Any = None
        self.error: BaseException | None = None
        self._function = function
        self._arguments = arguments
        threading.Thread(target=self._run, name=f"driver-{self.name}", daemon=True).start()

    def _run(self) -> None:
        try:
            self.result = self._function(*self._arguments)
        except BaseException as error:  # raised where the result is wanted
            self.error = error
        finally:
            self.done.set()


class BoundedDriver:
    """A :class:`nodeagent.gpu.driver.GpuDriver` around another one."""

    def __init__(
        self, driver: GpuDriver, *, read_seconds: float = READ_SECONDS, change_seconds: float = CHANGE_SECONDS
    ) -> None:
        """Give looks at ``driver`` and changes by it so many seconds each."""
        self._driver = driver
        self._read_seconds = read_seconds
        self._change_seconds = change_seconds
        self._hung: _Call | None = None

    @property
    def name(self) -> str:
        """See :class:`GpuDriver`."""
        try:
            return self._bounded(self._read_seconds, self._name)
        except DriverError:
            return "unknown"

    def boot_id(self) -> str:
        """See :class:`GpuDriver`. The kernel tells it, not the GPU driver."""
        return self._driver.boot_id()

    def read(self) -> tuple[Gpu, ...]:
        """See :class:`GpuDriver`."""
        return self._bounded(self._read_seconds, self._driver.read)

    def create(self, gpu: int, placement: Placement) -> None:
        """See :class:`GpuDriver`."""
        self._bounded(self._change_seconds, self._driver.create, gpu, placement)

    def destroy(self, gpu: int, instance: Instance) -> None:
        """See :class:`GpuDriver`."""
        self._bounded(self._change_seconds, self._driver.destroy, gpu, instance)

    def repair(self, gpu: int, instance: Instance) -> None:
        """See :class:`GpuDriver`."""
        self._bounded(self._change_seconds, self._driver.repair, gpu, instance)

    def _name(self) -> str:
        return self._driver.name

    def _bounded(self, seconds: float, function: Callable[..., _Result], *arguments: object) -> _Result:
        hung = self._hung
        if hung is not None and not hung.done.is_set():
            raise _silent(hung)
        call = _Call(function, arguments)
        if not call.done.wait(seconds):
            self._hung = call
            raise _silent(call)
        if call.error is not None:
            raise call.error
        result: _Result = call.result
        return result


def _silent(call: _Call) -> DriverSilentError:
    # No count of seconds: the text is compared from one look to the next to tell whether something has changed.
    since = time.strftime("%H:%M:%SZ", time.gmtime(time.time() - (time.monotonic() - call.began)))
    return DriverSilentError(None, f"{call.name.strip('_')} has not returned since {since}")

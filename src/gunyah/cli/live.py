"""What passes in a running system, live: calls per VM and call, the latest RPCs, the log of the kernel."""

from __future__ import annotations

import sys
import time
from collections import Counter, deque
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from gunyah.host.trace_rpc import RpcReader
from gunyah.host.trace_text import rpc_sentence
from gunyah.host.trace_words import vm_name
from gunyah.hypervisor.instruments import Instrument, NamedCall, NamedObject, NamedVcpu

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from gunyah.host.hosted import HostedSystem

__all__ = ["Counts", "LiveView"]

_RPCS = 12
_CALLS = 14


class Counts(Instrument):
    """Counts calls, keeps the latest RPCs as sentences."""

    def __init__(self) -> None:
        self.calls: Counter[tuple[int, str]] = Counter()
        self.rpcs: deque[str] = deque(maxlen=_RPCS)
        self.fresh: deque[str] = deque(maxlen=1000)
        self._rpc = RpcReader()

    def hypercall_enter(self, vcpu: NamedVcpu, call: NamedCall, args: Sequence[int], ticks: int) -> None:
        """Count."""
        self.calls[vcpu.vmid, call.name] += 1

    def message_send(self, queue: NamedObject, vcpu: NamedVcpu, data: bytes, flow: int, ticks: int) -> None:
        """Keep the sentence of a whole message."""
        message = self._rpc.feed(queue, vcpu, data, ticks)
        if message is not None:
            sentence = f"{vm_name(message.sender):<11}  {rpc_sentence(message)}"
            self.rpcs.append(sentence)
            self.fresh.append(sentence)


class LiveView:
    """A picture that is renewed in place on a terminal; elsewhere one line per RPC."""

    def __init__(self, console: Console, hosted: HostedSystem) -> None:
        self._console = console
        self._instruments = hosted.system.instruments
        self._counts = Counts()
        self._before: Counter[tuple[int, str]] = Counter()
        self._at = time.monotonic()
        self._live = None
        if console.is_terminal:
            from rich.live import Live

            self._live = Live(self._picture(), console=console, auto_refresh=False, transient=True)

    def refresh(self) -> None:
        """Show what has come since the last time."""
        if self._live is not None:
            self._live.update(self._picture(), refresh=True)
            return
        while self._counts.fresh:
            print(self._counts.fresh.popleft())
        sys.stdout.flush()

    def _picture(self) -> RenderableType:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        now, counts = time.monotonic(), self._counts.calls
        passed = max(now - self._at, 1e-3)
        table = Table("VM", "hypercall", "total", "per second", box=None, padding=(0, 2, 0, 0))
        for (vmid, name), total in counts.most_common(_CALLS):
            rate = (total - self._before[vmid, name]) / passed
            table.add_row(vm_name(vmid), name, str(total), f"{rate:.0f}")
        self._before, self._at = Counter(counts), now
        rpcs = Text("\n".join(self._counts.rpcs) or "no RPC yet: write to a terminal")
        return Group(Text("\nleave with Ctrl-C\n", style="dim"), table, Text("\nlatest RPCs", style="bold"), rpcs)

    def __enter__(self) -> Self:
        self._instruments.append(self._counts)
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._instruments.remove(self._counts)
        if self._live is not None:
            self._live.stop()

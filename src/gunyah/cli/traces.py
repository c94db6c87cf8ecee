"""``--trace`` and ``--trace-out`` as instruments."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gunyah.host.trace import Trace

__all__ = ["asked_for"]


def asked_for(options: argparse.Namespace) -> list[Trace]:
    """The traces that the flags ask for; raises HostError for a file that cannot be written."""
    from gunyah.host.trace import open_trace
    from gunyah.host.trace_text import TextTrace

    traces: list[Trace] = []
    if options.trace:
        traces.append(TextTrace(sys.stderr))
    if options.trace_out is not None:
        traces.append(open_trace(options.trace_out))
    return traces

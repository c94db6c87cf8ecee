"""Which trace a file name asks for: ``.perfetto-trace`` Perfetto, ``.jsonl`` JSON lines, others the human log."""

from __future__ import annotations

from pathlib import Path

from gunyah.host.errors import HostError, reason
from gunyah.host.trace_json import JsonTrace
from gunyah.host.trace_perfetto import PerfettoTrace
from gunyah.host.trace_text import TextTrace

__all__ = ["PERFETTO_SUFFIX", "Trace", "open_trace"]

PERFETTO_SUFFIX = ".perfetto-trace"

Trace = JsonTrace | PerfettoTrace | TextTrace


def open_trace(path: str | Path) -> Trace:
    """An instrument that writes ``path``; call its ``close`` at the end. Raises HostError."""
    path = Path(path)
    if path.suffix == PERFETTO_SUFFIX:
        return PerfettoTrace(path)
    try:
        stream = path.open("w", encoding="utf-8")
    except OSError as error:
        raise HostError(f"the trace {path} cannot be written: {reason(error)}") from error
    if path.suffix in (".jsonl", ".json"):
        return JsonTrace(stream, owns_stream=True)
    return TextTrace(stream, owns_stream=True)

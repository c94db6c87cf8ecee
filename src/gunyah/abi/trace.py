"""Trace classes of ``trace_update_class_flags`` (errors-and-types.md 10, hypercalls.md 3.13)."""

from __future__ import annotations

from enum import IntFlag

__all__ = ["INITIAL_FLAGS", "UNCHANGEABLE_FLAGS", "TraceClass"]


class TraceClass(IntFlag):
    """One bit per class."""

    ERROR = 1 << 0
    DEBUG = 1 << 1
    USER = 1 << 2
    """Hypercall tracing."""
    LOG_TRACE_BUFFER = 1 << 4
    LOG_BUFFER = 1 << 5
    INFO = 1 << 6
    MEMDB = 1 << 7
    PSCI = 1 << 16
    VGIC = 1 << 17
    VGIC_DEBUG = 1 << 18
    VETM = 1 << 20


UNCHANGEABLE_FLAGS = int(TraceClass.ERROR | TraceClass.LOG_BUFFER)
"""Requests to change these are silently dropped."""

INITIAL_FLAGS = 0x300E5
"""Classes that are on after boot of the reference (reference.md 5)."""

"""Errors of the kernel: OSError with an errno and a sentence, and the few outcomes that never leave the kernel.

A kernel function that fails raises ``OSError(errno, sentence)`` (so -ETIMEDOUT is TimeoutError, -EAGAIN
BlockingIOError, ...). -EPROBE_DEFER and -ERESTARTSYS are exceptions of their own: the driver core, or the task that
was signalled, deals with them.
"""

from __future__ import annotations

import errno
import os

from gunyah.guest.tasks import Interrupted

__all__ = ["Interrupted", "ProbeDefer", "error", "name_of"]


class ProbeDefer(Exception):
    """-EPROBE_DEFER: a probe needs something that is not there yet, and is to be tried again later."""


def error(number: int, sentence: str) -> OSError:
    """An OSError with errno ``number`` (positive) and a sentence."""
    return OSError(number, sentence)


def name_of(failure: BaseException) -> str:
    """``-EIO (5): sentence`` for a log line; any other exception by its type and text."""
    if isinstance(failure, OSError) and failure.errno is not None:
        name = errno.errorcode.get(failure.errno, str(failure.errno))
        return f"-{name}: {failure.strerror or os.strerror(failure.errno)}"
    return f"{type(failure).__name__}: {failure}"

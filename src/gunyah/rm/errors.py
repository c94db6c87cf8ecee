"""The one exception type of the Resource Manager: an RM error code and a sentence with the values in it.

Inside RM a refusal is an exception; the dispatcher turns it into the error word of the reply (rm-rpc.md 2 and 3).
"""

from __future__ import annotations

from gunyah.abi.errors import Error, RmError, rm_error_of

__all__ = ["RmFailure", "failure_of"]


class RmFailure(Exception):
    """A refused request.

    ``code`` is the error word of the reply, ``data`` what follows it in the few replies that carry more on failure;
    ``str()`` is the sentence for a person.
    """

    def __init__(self, code: RmError, sentence: str, data: bytes = b"") -> None:
        super().__init__(sentence)
        self.code = code
        self.data = data


def failure_of(error: int, sentence: str) -> RmFailure:
    """The refusal that stands for hypercall error ``error`` (int32), by RM's translation (rm-rpc.md 3)."""
    name = Error(error).name if error in Error._value2member_map_ else str(error)
    return RmFailure(rm_error_of(error), f"{sentence}: hypervisor said {name}")

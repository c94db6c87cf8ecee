"""The one exception type of the hypervisor: an ABI error code and a sentence with the values in it.

Inside the hypervisor a failure is an exception; the hypercall dispatcher turns it into the number the guest sees. A
handler that raises has changed nothing (errors-and-types.md 1).
"""

from __future__ import annotations

from gunyah.abi.errors import Error

__all__ = ["HypervisorError"]


class HypervisorError(Exception):
    """A refused operation.

    ``code`` is what the guest gets in X0 (error_t, int32); ``results`` are the outputs after it, nearly always none
    (0); ``str()`` is the sentence for a person.
    """

    def __init__(self, code: Error, sentence: str, results: tuple[int, ...] = ()) -> None:
        super().__init__(sentence)
        self.code = code
        self.results = results

"""The handlers of all hypercalls, gathered from the modules that implement them."""

from __future__ import annotations

from collections.abc import Mapping

from gunyah.hypervisor import (
    addrspace_calls,
    doorbell,
    identity_calls,
    memextent_calls,
    msgqueue,
    object_calls,
    vcpu_calls,
    vic_calls,
    virtio_calls,
    vpm,
)
from gunyah.hypervisor.hypercall import Handler

__all__ = ["HANDLERS"]

HANDLERS: Mapping[str, Handler] = {
    **object_calls.HANDLERS,
    **identity_calls.HANDLERS,
    **addrspace_calls.HANDLERS,
    **memextent_calls.HANDLERS,
    **vcpu_calls.HANDLERS,
    **doorbell.HANDLERS,
    **msgqueue.HANDLERS,
    **vic_calls.HANDLERS,
    **virtio_calls.HANDLERS,
    **vpm.HANDLERS,
}

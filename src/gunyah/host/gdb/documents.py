"""What gdb reads as documents: target description, threads, the list of VMs; and what ``monitor`` answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape, quoteattr

from gunyah.host.gdb.registers import target_description
from gunyah.host.gdb.target import Target, is_python, thread_of
from gunyah.host.trace_words import vm_name
from gunyah.host.view import vcpu_state

if TYPE_CHECKING:
    from gunyah.hypervisor.vcpu import Vcpu

__all__ = ["document", "monitor", "vcpu_words"]

_HELP = """monitor commands of gunyah:
  vms   every VM: VMID (gdb's process), name, kind, state of each vCPU (gdb's threads)
  help  this list
"""


def vcpu_words(vcpu: Vcpu) -> str:
    """One vCPU for ``info threads``."""
    return f"{'Python, ' if is_python(vcpu) else ''}{vcpu_state(vcpu)}"


def _threads(vcpus: Sequence[Vcpu]) -> str:
    lines = [
        f'<thread id="{thread_of(vcpu)}" core="{max(vcpu.affinity, 0)}" name={quoteattr(str(vcpu))}>'
        f"{escape(vcpu_words(vcpu))}</thread>"
        for vcpu in vcpus
    ]
    return "\n".join(('<?xml version="1.0"?>', "<threads>", *lines, "</threads>"))


def _item(columns: dict[str, str]) -> str:
    return (
        "<item>"
        + "".join(f"<column name={quoteattr(name)}>{escape(value)}</column>" for name, value in columns.items())
        + "</item>"
    )


def _osdata(items: Sequence[dict[str, str]], kind: str) -> str:
    return "\n".join(
        (
            '<?xml version="1.0"?>',
            '<!DOCTYPE target SYSTEM "osdata.dtd">',
            f"<osdata type={quoteattr(kind)}>",
            *(_item(item) for item in items),
            "</osdata>",
        )
    )


def document(key: str, target: Target, vcpus: Sequence[Vcpu]) -> str | None:
    """The document ``OBJECT:ANNEX`` as it is now; None if there is none of that name."""
    match key:
        case "features:target.xml":
            return target_description()
        case "threads:":
            return _threads(vcpus)
        case "osdata:":
            return _osdata([{"Type": "processes", "Description": "VMs", "Title": "VMs"}], "types")
        case "osdata:processes":
            return _osdata(
                [
                    {
                        "pid": str(vmid),
                        "user": "Python" if is_python(members[0]) else "AArch64",
                        "command": vm_name(vmid),
                        "cores": ",".join(str(max(vcpu.affinity, 0)) for vcpu in members),
                    }
                    for vmid, members in target.vms().items()
                ],
                "processes",
            )
    return None


def monitor(command: str, target: Target) -> str:
    """The answer to ``monitor COMMAND``, in lines."""
    match command:
        case "vms":
            lines = []
            for vmid, vcpus in target.vms().items():
                kind = "Python" if is_python(vcpus[0]) else "AArch64"
                states = ", ".join(f"{vcpu.vic_index}: {vcpu_state(vcpu)}" for vcpu in vcpus)
                lines.append(f"{vmid:3}  {vm_name(vmid):24} {kind:8} {states}\n")
            return "".join(lines)
        case "help" | "":
            return _HELP
    return f"there is no monitor command {command!r}\n{_HELP}"

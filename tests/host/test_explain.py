"""What ``gunyah explain`` knows: every code of every table, by name, by number and by the spellings of the field."""

from __future__ import annotations

import errno

import pytest

from gunyah.abi.errors import Error, PsciError, RmError
from gunyah.abi.loader import ExitReason
from gunyah.abi.rm import ExitType, VmStatus
from gunyah.abi.vcpu import VcpuRunState
from gunyah.host.errors import HostError
from gunyah.host.explain import meanings

TABLES = (
    ("RM error", RmError),
    ("hypervisor error", Error),
    ("exit type", ExitType),
    ("vcpu_run state", VcpuRunState),
    ("VM state", VmStatus),
    ("PSCI result", PsciError),
    ("VCPU_RUN exit reason", ExitReason),
)


def said(code: str) -> set[tuple[str, str]]:
    return {(meaning.kind, meaning.name) for meaning in meanings(code)}


@pytest.mark.parametrize("kind,table", TABLES)
def test_every_member_is_found_by_name_and_by_number(kind: str, table: type[Error]) -> None:
    for member in table:
        for code in (member.name, member.name.lower(), str(int(member)), hex(member)):
            assert (kind, member.name) in said(code), code
        assert all(meaning.sentence for meaning in meanings(member.name))


def test_negative_codes_are_found_as_registers_hold_them() -> None:
    for code in ("-2", "0xfffffffe", "0xfffffffffffffffe"):
        assert {("hypervisor error", "RETRY"), ("PSCI result", "INVALID_PARAMETERS")} <= said(code)


def test_every_errno_is_found_with_and_without_its_sign() -> None:
    for value, name in errno.errorcode.items():
        assert ("errno", f"-{name}") in said(name) & said(f"-{name}") & said(f"-{value}")


@pytest.mark.parametrize(
    ("code", "kind", "name"),
    [
        ("GH_RM_ERROR_NOMEM", "RM error", "NOMEM"),
        ("GUNYAH_RM_ERROR_IRQ_INUSE", "RM error", "IRQ_INUSE"),
        ("RM_ERROR_MSG_INVALID", "RM error", "MSG_INVALID"),
        ("GH_RM_ERROR_INVALID", "RM error", "MSG_INVALID"),
        ("ERROR_NOMEM", "hypervisor error", "NOMEM"),
        ("GUNYAH_ERROR_ARG_INVAL", "hypervisor error", "ARGUMENT_INVALID"),
        ("GH_ERROR_CSPACE_INSUF_RIGHTS", "hypervisor error", "CSPACE_INSUFFICIENT_RIGHTS"),
        ("gh_vm_status_exited", "VM state", "EXITED"),
        ("GUNYAH_RM_VM_STATUS_RUNNING", "VM state", "RUNNING"),
        ("EXIT_TYPE_WDT_BITE", "exit type", "WATCHDOG_BITE"),
        ("GH_RM_EXIT_TYPE_PSCI_SYSTEM_RESET2", "exit type", "PSCI_SYSTEM_RESET2"),
        ("GUNYAH_VCPU_EXIT_MMIO", "VCPU_RUN exit reason", "MMIO"),
        ("PSCI_RET_ALREADY_ON", "PSCI result", "ALREADY_ON"),
    ],
)
def test_a_prefix_says_whose_it_is(code: str, kind: str, name: str) -> None:
    assert said(code) == {(kind, name)}


def test_what_nobody_knows_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(HostError, match=r"'CSPACE_FUL' is no error.*do you mean CSPACE_FULL"):
        meanings("CSPACE_FUL")
    with pytest.raises(HostError, match="'0x7777' is no error"):
        meanings("0x7777")

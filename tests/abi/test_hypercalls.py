"""The hypercall table keeps the numbers, widths and demands of the published interface (hypercalls.md)."""

from __future__ import annotations

import pytest

from gunyah.abi.errors import INTERNAL_ERRORS, Error
from gunyah.abi.hypercalls import (
    BY_NAME,
    CREATED_TYPES,
    HYPERCALLS,
    KIND_MASKS,
    VENDOR_CALLS,
    Hypercall,
    Status,
)
from gunyah.abi.objects import ALL_RIGHTS, OBJECT_ACTIVATE, ObjectType
from gunyah.abi.types import U64

# Number index of hypercalls.md 4, in order of the numbers 0x00..0x68.
INDEX = """
hypervisor_identify partition_create_partition partition_create_cspace partition_create_addrspace
partition_create_memextent partition_create_thread partition_create_doorbell partition_create_msgqueue
reserved partition_create_watchdog partition_create_vic partition_create_vpm_group
object_activate object_activate_from object_reset object_reset_from
doorbell_bind_virq doorbell_unbind_virq doorbell_send doorbell_receive
doorbell_reset doorbell_mask reserved msgqueue_bind_send_virq
msgqueue_bind_receive_virq msgqueue_unbind_send_virq msgqueue_unbind_receive_virq msgqueue_send
msgqueue_receive msgqueue_flush reserved msgqueue_configure_send
msgqueue_configure_receive msgqueue_configure cspace_delete_cap_from cspace_copy_cap_from
cspace_revoke_cap_from cspace_configure hwirq_bind_virq hwirq_unbind_virq
vic_configure vic_attach_vcpu addrspace_attach_thread addrspace_map
addrspace_unmap addrspace_update_access addrspace_configure addrspace_attach_vdma
memextent_modify memextent_configure memextent_configure_derive unassigned
vcpu_configure unassigned unassigned unassigned
vcpu_poweron vcpu_poweroff vcpu_kill scheduler_yield
vpm_group_attach_vcpu vcpu_set_affinity cspace_attach_thread trace_update_class_flags
watchdog_attach_vcpu watchdog_bind_virq watchdog_unbind_virq vpm_group_bind_virq
vpm_group_unbind_virq vpm_group_get_state vcpu_set_priority vcpu_set_timeslice
partition_create_virtio_mmio virtio_mmio_configure virtio_mmio_backend_bind_virq virtio_mmio_backend_unbind_virq
virtio_mmio_frontend_bind_virq virtio_mmio_frontend_unbind_virq virtio_mmio_backend_assert_virq
virtio_mmio_backend_set_dev_features virtio_mmio_backend_set_queue_num_max virtio_mmio_backend_get_drv_features
virtio_mmio_backend_get_queue_info virtio_mmio_backend_get_notification virtio_mmio_backend_acknowledge_reset
virtio_mmio_backend_update_status vic_bind_msi_source prng_get_entropy watchdog_configure
cspace_revoke_caps_from addrspace_lookup addrspace_configure_info_area vcpu_bind_virq
vcpu_unbind_virq virtio_input_configure virtio_input_set_data addrspace_configure_vmmio
memextent_donate addrspace_attach_vdevice watchdog_manage vcpu_register_write
vcpu_run vpm_group_configure vgic_set_mpidr_mapping vcpu_run_check
"""

EVERY_CALL = [*HYPERCALLS.values(), *VENDOR_CALLS]


def names(call: Hypercall) -> list[str]:
    return [argument.name for argument in call.arguments]


def test_every_number_up_to_the_highest_has_the_name_of_the_index() -> None:
    assert [call.name for call in HYPERCALLS.values()] == INDEX.split()
    assert list(HYPERCALLS) == list(range(0x69))


def test_numbers_without_a_working_call_are_those_the_reference_refuses() -> None:
    by_status = {
        status: {number for number, call in HYPERCALLS.items() if call.status is status} for status in Status
    }
    assert by_status[Status.UNIMPLEMENTED] == {0x01, 0x0E, 0x0F, 0x24}
    assert by_status[Status.ABSENT] == {0x09, 0x40, 0x41, 0x42, 0x58, 0x63}
    assert by_status[Status.RESERVED] == {0x08, 0x16, 0x1E, 0x33, 0x35, 0x36, 0x37}


@pytest.mark.parametrize(
    ("name", "hvc", "smccc"),
    [
        ("hypervisor_identify", 0x6000, 0xC6008000),
        ("doorbell_send", 0x6012, 0xC6008012),
        ("msgqueue_send", 0x601B, 0xC600801B),
        ("msgqueue_receive", 0x601C, 0xC600801C),
        ("addrspace_map", 0x602B, 0xC600802B),
        ("memextent_donate", 0x6061, 0xC6008061),
        ("vcpu_run", 0x6065, 0xC6008065),
    ],
)
def test_both_encodings_of_a_call_are_the_published_ones(name: str, hvc: int, smccc: int) -> None:
    assert (BY_NAME[name].hvc, BY_NAME[name].smccc) == (hvc, smccc)


def test_only_identify_has_no_error_result() -> None:
    assert [call.name for call in EVERY_CALL if not call.has_error] == ["hypervisor_identify"]


@pytest.mark.parametrize("call", EVERY_CALL, ids=lambda call: f"{call.number:#x}-{call.name}")
def test_each_row_is_consistent(call: Hypercall) -> None:
    assert len(set(names(call))) == len(names(call))
    assert len(call.arguments) <= 7  # an SMCCC call has X1..X7 for them
    assert len(call.results) + call.has_error <= 8
    assert all(result.kind in KIND_MASKS for result in call.results)
    assert call.summary
    assert call.section.startswith("hypercalls.md ")
    for argument, mask in zip(call.arguments, call.masks, strict=True):
        assert mask == KIND_MASKS[argument.kind]
        assert not argument.cspace or argument.cspace in names(call)
        assert argument.name == argument.kind if argument.kind in ("res0", "res1") else True
    for lookup in call.capabilities:
        assert lookup.argument in names(call)
        assert lookup.rights
        assert type(lookup.rights) is int
        if lookup.type is None:
            assert lookup.rights == OBJECT_ACTIVATE
        else:
            assert lookup.rights & ~ALL_RIGHTS[lookup.type] == 0
        if lookup.configure:
            assert (lookup.rights, lookup.active) == (OBJECT_ACTIVATE, False)
    for bits in call.reserved_bits:
        assert bits.mask & ~call.masks[call.position(bits.argument)] == 0
    assert not INTERNAL_ERRORS.intersection(call.errors)
    if call.status is not Status.PROVIDED:
        assert Error.UNIMPLEMENTED in call.errors
        assert not call.capabilities


def test_reserved_arguments_stand_last_and_demand_zero_or_all_ones() -> None:
    for call in EVERY_CALL:
        kinds = [argument.kind for argument in call.arguments]
        assert not {"res0", "res1"}.intersection(kinds[:-1]), call.name
    ones = {call.name for call in EVERY_CALL if any(value == U64 for _, value in call.reserved)}
    assert ones == {"msgqueue_configure_send", "msgqueue_configure_receive", "vcpu_set_affinity"}


def test_widths_follow_the_declared_types() -> None:
    def kinds(name: str) -> list[str]:
        return [argument.kind for argument in BY_NAME[name].arguments]

    assert kinds("msgqueue_send") == ["capid", "u64", "u64", "u32", "res0"]
    assert kinds("addrspace_configure") == ["capid", "u16", "res0"]
    assert kinds("vcpu_set_affinity") == ["capid", "u16", "res1"]
    assert kinds("vgic_set_mpidr_mapping") == ["capid", "u64", "u32", "u32", "u32", "u32", "bool"]
    assert kinds("addrspace_map") == ["capid", "capid", "u64", "u32", "u32", "u64", "u64"]
    assert [result.kind for result in BY_NAME["vcpu_run"].results] == ["u32", "u64", "u64", "u64"]


def test_creation_calls_make_each_creatable_type_once() -> None:
    made = set(CREATED_TYPES.values())
    assert len(made) == len(CREATED_TYPES)
    assert set(ObjectType) - made == {ObjectType.PARTITION, ObjectType.HWIRQ, ObjectType.VRTC}
    for number, kind in CREATED_TYPES.items():
        assert HYPERCALLS[number].name == f"partition_create_{kind.value}"


def test_lookup_order_is_the_sheets_where_it_is_not_argument_order() -> None:
    def order(name: str) -> list[str]:
        return [lookup.argument for lookup in BY_NAME[name].capabilities]

    assert order("cspace_attach_thread") == ["thread", "cspace"]
    assert order("addrspace_attach_thread") == ["thread", "addrspace"]
    assert order("memextent_configure_derive") == ["parent_memextent", "memextent"]
    assert order("virtio_mmio_configure") == ["memextent", "virtio_mmio"]
    assert order("vic_attach_vcpu") == ["vic", "vcpu"]


def test_an_unimplemented_creation_still_names_an_invalid_capability() -> None:
    assert BY_NAME["partition_create_partition"].unimplemented_results == (U64,)


def test_asking_for_an_unknown_argument_is_refused_by_name() -> None:
    with pytest.raises(KeyError, match="doorbell_send has no argument colour"):
        BY_NAME["doorbell_send"].position("colour")

"""Single words and codes of the interface have their published values (errors-and-types.md)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gunyah.abi import identify, memory, msgqueue, smccc, trace, vcpu, vic
from gunyah.abi.errors import Error, RmError, rm_error_of
from gunyah.abi.objects import ALL_RIGHTS, OBJECT_ACTIVATE, ObjectType, describe_rights
from gunyah.abi.profile import PROFILES, PUBLIC_2023, V4


def test_master_rights_are_all_defined_bits_and_activate() -> None:
    expected = {
        ObjectType.PARTITION: 0x3,
        ObjectType.CSPACE: 0x1F,
        ObjectType.ADDRSPACE: 0xF,
        ObjectType.MEMEXTENT: 0x1F,
        ObjectType.THREAD: 0x3FF,
        ObjectType.DOORBELL: 0x7,
        ObjectType.MSGQUEUE: 0xF,
        ObjectType.VIC: 0x7,
        ObjectType.HWIRQ: 0x2,
        ObjectType.VPM_GROUP: 0x7,
        ObjectType.VIRTIO_MMIO: 0xF,
        ObjectType.VRTC: 0x7,
    }
    assert dict(ALL_RIGHTS) == {kind: bits | OBJECT_ACTIVATE for kind, bits in expected.items()}


def test_rights_are_told_in_words() -> None:
    assert describe_rights(ObjectType.MSGQUEUE, 0x3) == "send|receive"
    assert describe_rights(ObjectType.DOORBELL, OBJECT_ACTIVATE | 0x41) == "send|object_activate|0x40"
    assert describe_rights(None, 0) == "none"


def test_error_codes_translate_for_rm_clients() -> None:
    assert rm_error_of(Error.NORESOURCES) is RmError.NORESOURCE
    assert rm_error_of(Error.ADDR_OVERFLOW) is RmError.MEM_INVALID
    assert rm_error_of(Error.UNIMPLEMENTED) is RmError.UNIMPLEMENTED
    assert rm_error_of(Error.MSGQUEUE_FULL) is RmError.DENIED
    assert rm_error_of(4711) is RmError.DENIED


def test_identify_words_are_those_recorded() -> None:
    assert identify.API_INFO == 0x5100_0000_0000_8001
    assert identify.API_FLAGS_0 == 0x1000_0EFF
    assert identify.scheduler_variant(identify.API_FLAGS_0) == identify.SchedulerVariant.FPRR
    info = identify.ApiInfo.unpack(identify.API_INFO)
    assert (info.version, info.big_endian, info.is_64bit, info.variant) == (1, False, True, 0x51)


def test_both_uid_orders_spell_the_same_uuid() -> None:
    public = b"".join(word.to_bytes(4, "little") for word in identify.UID_PUBLIC)
    v4 = b"".join(word.to_bytes(4, "little") for word in identify.UID_V4)
    assert public.hex() == identify.UUID_TEXT.replace("-", "")
    assert v4 == public[::-1]


def test_profiles_differ_where_the_guests_do() -> None:
    assert set(PROFILES) == {"v4", "2023"}
    assert V4.uid == identify.UID_V4
    assert PUBLIC_2023.uid == identify.UID_PUBLIC
    assert [V4.accepts_get_vmid(n) for n in (0, 2, 4)] == [True, False, True]
    assert [PUBLIC_2023.accepts_get_vmid(n) for n in (0, 2, 4)] == [True, False, False]
    assert V4.pack_vmid(0x2D) == bytes.fromhex("2d00")
    assert PUBLIC_2023.pack_vmid(3) == bytes.fromhex("03000000")
    assert V4.message_size <= msgqueue.MESSAGE_SIZE_MAX


@pytest.mark.parametrize(
    ("function", "owner", "wide"),
    [
        (smccc.SMCCC_VERSION, smccc.OWNER_ARCH, False),
        (smccc.PSCI_CPU_ON_64, smccc.OWNER_STANDARD, True),
        (smccc.STANDARD_HYP_CALL_UID, smccc.OWNER_STANDARD_HYP, False),
        (smccc.VENDOR_HYP_CALL_UID, smccc.OWNER_VENDOR_HYP, False),
    ],
)
def test_function_ids_take_apart_and_compose_again(function: int, owner: int, wide: bool) -> None:
    assert smccc.owner_of(function) == owner
    assert smccc.is_64bit(function) is wide
    assert smccc.is_fast(function)
    assert smccc.function_id(owner, smccc.function_of(function), smc64=wide) == function


def test_function_names_are_known_and_unknown_ids_stay_numbers() -> None:
    assert smccc.function_name(0xC400_0003) == "PSCI_CPU_ON_64"
    assert smccc.function_name(0x8600_FF01) == "VENDOR_HYP_CALL_UID"
    assert smccc.function_name(0x8600_1234) == "0x86001234"
    assert smccc.vendor_class_of(0xC600_801B) == smccc.CLASS_HYPERCALL
    assert smccc.vendor_number_of(0xC600_801B) == 0x1B


@given(st.integers(0, 7), st.integers(0, 7), st.integers(0, 0xFF))
def test_mapping_attributes_round_trip_and_keep_off_reserved_bits(user: int, kernel: int, memtype: int) -> None:
    attributes = memory.MappingAttributes(user, kernel, memtype)
    assert memory.MappingAttributes.unpack(attributes.pack()) == attributes
    assert attributes.pack() & memory.MAPPING_ATTRIBUTES_RESERVED == 0
    access = memory.AccessAttributes(user, kernel)
    assert memory.AccessAttributes.unpack(access.pack()) == access
    assert access.pack() & memory.ACCESS_ATTRIBUTES_RESERVED == 0


@given(st.integers(0, 7), st.integers(0, 3), st.integers(0, 3), st.booleans())
def test_memextent_attributes_round_trip_and_keep_off_reserved_bits(
    access: int, memtype: int, kind: int, append: bool
) -> None:
    attributes = memory.MemextentAttributes(access, memtype, kind, append)
    assert memory.MemextentAttributes.unpack(attributes.pack()) == attributes
    assert attributes.pack() & memory.MEMEXTENT_ATTRIBUTES_RESERVED == 0


@given(st.integers(0, 0xFF), st.booleans())
def test_modify_and_donate_words_round_trip(operation: int, no_sync: bool) -> None:
    modify = memory.ModifyFlags(operation, no_sync)
    donate = memory.DonateOptions(operation, no_sync)
    assert memory.ModifyFlags.unpack(modify.pack()) == modify
    assert memory.DonateOptions.unpack(donate.pack()) == donate
    assert modify.pack() & memory.MODIFY_FLAGS_RESERVED == 0


def test_cached_extents_permit_write_back_only() -> None:
    permitted = memory.PERMITTED_MEMTYPES
    assert permitted[memory.MemextentMemtype.CACHED] == {0xF}
    assert permitted[memory.MemextentMemtype.UNCACHED] == {0, 1, 2, 3, 5}
    assert permitted[memory.MemextentMemtype.DEVICE] == {0, 1, 2, 3}
    assert 0x4 not in permitted[memory.MemextentMemtype.ANY]


@given(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF))
def test_queue_create_info_ignores_its_upper_half(depth: int, size: int) -> None:
    info = msgqueue.CreateInfo(depth, size)
    assert msgqueue.CreateInfo.unpack(info.pack() | 0xDEAD_BEEF << 32) == info


def test_vcpu_and_vic_words() -> None:
    accepted = sum(int(option) for option in vcpu.VcpuOption)
    assert accepted & vcpu.VCPU_OPTIONS_RESERVED == 0
    assert accepted | vcpu.VCPU_OPTIONS_RESERVED == 2**64 - 1
    assert vcpu.system_reset2_type(0x8000_0001, smc64=True) == 1 << 62 | 0x8000_0001
    assert vic.SPI_BASE + vic.MAX_VIRQS - 1 == vic.SPI_LAST
    assert trace.INITIAL_FLAGS & trace.UNCHANGEABLE_FLAGS == trace.UNCHANGEABLE_FLAGS

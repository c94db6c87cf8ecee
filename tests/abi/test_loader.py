"""The VM loader's ioctls and structures have the sizes a Linux user of them sees (vm-loader.md 3 and 4)."""

from __future__ import annotations

import pytest

from gunyah.abi import bootenv, loader
from gunyah.abi.layout import Payload

NUMBERS = {
    "CREATE_VM": 0x0000_4700,
    "VM_SET_USER_MEM_REGION": 0x4020_4701,
    "VM_SET_DTB_CONFIG": 0x4010_4702,
    "VM_START": 0x0000_4703,
    "VM_ADD_FUNCTION": 0x4010_4704,
    "VCPU_RUN": 0x0000_4705,
    "VCPU_MMAP_SIZE": 0x0000_4706,
    "VM_REMOVE_FUNCTION": 0x4010_4707,
    "CREATE_GUEST_MEM": 0x4040_4708,
    "VM_MAP_MEM": 0x4020_4709,
    "VM_SET_BOOT_CONTEXT": 0x4010_470A,
    "ANDROID_CHECK_EXTENSION": 0x0000_4110,
    "ANDROID_LEND_USER_MEM": 0x4020_4111,
    "ANDROID_SET_FW_CONFIG": 0x4010_4112,
    "ANDROID_CREATE_CMA_MEM_FD": 0x0000_4114,
}


def test_ioctl_numbers_are_the_arm64_encodings() -> None:
    assert {ioctl.name: int(ioctl) for ioctl in loader.Ioctl} == NUMBERS


def test_an_ioctls_size_field_is_the_size_of_its_structure() -> None:
    samples: dict[type[Payload], Payload] = {
        loader.UserMemRegion: loader.UserMemRegion(0, 0, 0, 0, 0),
        loader.AddressSize: loader.AddressSize(0, 0),
        loader.FunctionDescriptor: loader.FunctionDescriptor(0, 0, 0),
        loader.CreateGuestMem: loader.CreateGuestMem(0, 0),
        loader.MapMem: loader.MapMem(0, 0, 0, 0, 0),
        loader.BootContext: loader.BootContext(0, 0),
    }
    assert set(loader.IOCTLS) == {int(ioctl) for ioctl in loader.Ioctl}
    for number, structure in loader.IOCTLS.items():
        size = number >> 16 & 0x3FFF
        assert size == (len(samples[structure].pack()) if structure else 0)


@pytest.mark.parametrize(
    ("argument", "size"),
    [
        (loader.VcpuArgument(1), 4),
        (loader.IrqfdArgument(3, 66), 16),
        (loader.IoeventfdArgument(0, 0x900_0100, 4, 5), 32),
    ],
)
def test_function_arguments_have_their_sizes(argument: Payload, size: int) -> None:
    assert len(argument.pack()) == size <= loader.FUNCTION_ARGUMENT_MAX


def test_run_page_offsets_agree_with_the_exit_structures() -> None:
    mmio = loader.MmioExit(0x900_0018, b"\x18\0\xfe\xca\0\0\0\0", 4, 0, loader.ResumeAction.FAULT).pack()
    base = loader.RUN_PAGE_PAYLOAD
    assert mmio[loader.RUN_PAGE_MMIO_DATA - base :][:8] == b"\x18\0\xfe\xca\0\0\0\0"
    assert mmio[loader.RUN_PAGE_MMIO_ACTION - base] == loader.ResumeAction.FAULT
    fault = loader.PageFaultExit(0, 0, loader.ResumeAction.RETRY).pack()
    assert fault[loader.RUN_PAGE_PAGE_FAULT_ACTION - base] == loader.ResumeAction.RETRY
    status = loader.StatusExit(loader.VmExitStatus.EXITED, 1, 4, bytes(8)).pack()
    assert len(status) == 20


def test_boot_registers_are_set_and_index() -> None:
    assert loader.boot_register(1, 0) == 0x100
    assert loader.boot_register(2, 1) == 0x201


def test_the_root_vms_blocks_have_their_offsets() -> None:
    runtime = bootenv.RuntimeBlock(0x8048_0000, 1, 2, 3, 0xABCD, 62_500_000, 0x800_0000, 0x80A_0000).pack()
    assert len(runtime) == bootenv.RUNTIME_SIZE == 88
    assert runtime[:4] == bytes.fromhex("52564d45")
    assert int.from_bytes(runtime[40:48], "little") == 0xABCD
    assert int.from_bytes(runtime[72:80], "little") == 88
    block = bootenv.ResourceManagerBlock(payload_size=100).pack()
    assert len(block) == bootenv.RM_SIZE == 16
    assert int.from_bytes(block[8:12], "little") == 16

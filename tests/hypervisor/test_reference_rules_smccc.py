"""SMCCC functions register by register: who answers in which width, and what stays as it was (hypercalls.md 1.2 to 1.5,
objects.md 11 and 13)."""

from __future__ import annotations

import pytest
from tests.hypervisor.root_rig import RootRig
from tests.hypervisor.yard import Yard, sleep_for_ever

from gunyah.abi.types import U32, U64
from gunyah.guest.cpu import Cpu

MARK = 0x1111_2222_3333_4444
LOW = MARK & U32
KEPT = [MARK, MARK, MARK]
CUT = [LOW, LOW, LOW]
HINT = 1 << 16


def ask(function: int, *arguments: int, rig: RootRig | None = None, conduit: str = "hvc") -> list[int]:
    """X0..X7 after a call by the root VM, which has no group; registers without an argument hold MARK."""
    vcpu = (rig or RootRig()).vcpu
    vcpu.x[:] = [MARK] * 31
    vcpu.x[0] = function
    vcpu.x[1 : 1 + len(arguments)] = arguments
    getattr(vcpu.hv.dispatcher, conduit)(vcpu, 0)
    assert list(vcpu.x[4:]) == [MARK] * 27, "nothing answers beyond X3"
    return list(vcpu.x[:8])


def ask_member(function: int, *arguments: int) -> list[int]:
    """X0..X3 after a call by a vCPU of a power group."""
    yard, answers = Yard(), []

    def guest(cpu: Cpu, x0: int) -> None:
        cpu.x[0:4] = [function, MARK, MARK, MARK]
        cpu.x[1 : 1 + len(arguments)] = arguments
        cpu.hvc(0)
        answers.append(list(cpu.x[0:4]))

    yard.vm(guest, sleep_for_ever)
    yard.settle()
    return answers[0]


@pytest.mark.parametrize("conduit", ["hvc", "smc"])
@pytest.mark.parametrize(
    ("function", "x"),
    [
        (0x8000_0000, [0x1_0003, *CUT]),
        (0x8001_0000, [0x1_0003, *CUT]),
        (0x8500_FF01, [0xCD8F_D5C1, 0xDB5F_53A4, 0x36CE_6592, 0x145F_3D67]),
        (0x8600_FF01, [0xCD8F_D5C1, 0xDB5F_53A4, 0x36CE_6592, 0x145F_3D67]),
        (0x8500_FF03, [1, 0, LOW, LOW]),
        (0x8600_FF03, [0x5100_0000_0000_8001, *KEPT]),
        (0x8400_0050, [0x1_0000, 0, 0, 0]),
        (0x8400_0052, [0x4554_6E21, 0x92A1_433D, 0xA2EA_5FE2, 0x1639_7D4E]),
    ],
)
def test_services(function: int, x: list[int], conduit: str) -> None:
    assert ask(function, conduit=conduit)[:4] == x


@pytest.mark.parametrize(
    "function",
    [0xC000_0000, 0xC000_0001, 0x0000_0000, 0x4000_0000, 0x8000_0002, 0x8000_7FFF, 0x8000_8000, 0x8000_3FFF]
    + [0x8002_0000, 0x8080_0000, 0x8100_0000, 0x8200_0000, 0x8300_0000, 0x8700_0000, 0xBF00_0000, 0xFFFF_FFFF]
    + [0x8500_FF00, 0x8500_FF02, 0xC500_FF01, 0xC500_0020, 0xC500_0021, 0x0500_FF01]
    + [0x8600_FF00, 0x8600_FF02, 0xC600_FF01, 0x0600_FF01, 0x8600_0000, 0xC600_0000, 0x8600_4000, 0xC600_4000]
    + [0x8600_8000, 0x0600_8000, 0x4600_8000, 0xC600_8008, 0xC600_8009, 0xC600_8040, 0xC600_8069, 0xC600_BFFF]
    + [0xC602_8000, 0x8400_004F, 0x8400_0060, 0xC400_0050, 0xC400_0051, 0xC400_0052, 0xC400_0054, 0x0400_0050]
    + [0x8400_0005, 0x8400_0006, 0x8400_000B, 0x8400_000D, 0x8400_000E, 0x8400_0010, 0x8400_0013, 0x8400_0020],
)
def test_nobodys_functions_answer_in_64_bits_and_leave_the_rest(function: int) -> None:
    assert ask(function)[:4] == [U64, *KEPT]
    assert ask(0x7777_7777_0000_0000 | function)[:4] == [U64, *KEPT], "only W0 names the function"
    assert ask_member(function) == [U64, *KEPT]


@pytest.mark.parametrize("number", [0, 1, 2, 3, 4, 8, 9, 0xC, 0xF, 0x12])
def test_psci_is_nobodys_function_outside_a_group(number: int) -> None:
    assert ask(0x8400_0000 | number)[:4] == [U64, *KEPT]
    assert ask(0xC400_0000 | number)[:4] == [U64, *KEPT]


@pytest.mark.parametrize("number", [0, 2, 8, 9, 0xA, 0xF])
def test_psci_functions_without_a_64_bit_form(number: int) -> None:
    assert ask_member(0xC400_0000 | number) == [U64, *KEPT]


def test_psci_answers_in_the_width_of_the_function() -> None:
    assert ask_member(0x8400_0000) == [0x1_0001, *CUT]
    assert ask_member(0x8401_0000) == [0x1_0001, *CUT], "bit 16 is a hint"
    assert ask_member(0x8400_0004, 9, 0) == [-2 & U32, 9, 0, LOW]
    assert ask_member(0xC400_0004, 9, 0) == [-2 & U64, 9, 0, MARK]
    assert ask_member(0x8400_0003, 0) == [-4 & U32, 0, LOW, LOW]
    assert ask_member(0xC400_0003, 0) == [-4 & U64, 0, MARK, MARK]


@pytest.mark.parametrize("noise", [0, 1 << 24, 0x8000_0000, 0xFF00_0000, 1 << 63])
def test_an_affinity_is_four_bytes_and_the_rest_does_not_matter(noise: int) -> None:
    assert ask_member(0xC400_0004, noise | 1, 0)[0] == 0
    assert ask_member(0xC400_0004, noise | 0x101, 0)[0] == -2 & U64
    assert ask_member(0xC400_0004, noise | 1 << 32, 0)[0] == -2 & U64
    assert ask_member(0x8400_0004, noise | 1 << 32, 0)[0] == 0, "32 bits have no Aff3"


@pytest.mark.parametrize("hint", [0, HINT])
def test_questions_after_functions_ignore_the_hint(hint: int) -> None:
    arch, psci, trng = 0x8000_0001, 0x8400_000A, 0x8400_0051
    for known in (0x8000_0000, 0x8000_0001, 0x8500_FF01, 0x8500_FF03):
        assert ask(arch, known | hint)[0] == 0
    for unknown in (0x8000_0002, 0x8000_8000, 0xC000_0000, 0x8400_0050, 0x8600_FF01, 0xC500_FF01, 0xC500_0020, 0):
        assert ask(arch, unknown | hint)[:2] == [U32, unknown | hint]
    assert ask(psci, 0x8000_0000 | hint)[0] == 0
    assert ask(psci, 0x8400_0000 | hint)[:2] == [U32, 0x8400_0000 | hint], "no group"
    for function, answer in ((0x8400_0001, 2), (0xC400_0001, 2), (0x8400_0012, 0), (0xC400_0012, 0), (0x8400_000A, 0)):
        assert ask_member(psci, function | hint)[0] == answer
    for function in (0xC400_000A, 0xC400_0000, 0x8400_0005, 0x8400_000E, 0x8400_0050, 0x8402_0001, 0x0400_0001):
        assert ask_member(psci, function | hint)[0] == U32
    for known in (0x8400_0050, 0x8400_0051, 0x8400_0052, 0x8400_0053, 0xC400_0053):
        assert ask(trng, known | hint)[:4] == [0, known | hint, MARK, MARK]
    for unknown in (0xC400_0050, 0xC400_0051, 0x8400_0054, 0x8000_0000, 0x0400_0050, 0x8402_0050):
        assert ask(trng, unknown | hint)[:4] == [U64, unknown | hint, MARK, MARK]


@pytest.mark.parametrize("bits", [0, 97, 1 << 31])
def test_trng_errors_are_64_bits_wide_in_both_conventions(bits: int) -> None:
    assert ask(0x8400_0053, bits)[:4] == [-2 & U64, 0, 0, 0]
    assert ask(0xC400_0053, bits + (96 if bits else 0))[:4] == [-2 & U64, 0, 0, 0]


def test_trng_ids_that_mean_nothing_yet() -> None:
    for number in range(0x54, 0x60):
        assert ask(0x8400_0000 | number)[:4] == [U32, *KEPT]
        assert ask(0xC400_0000 | number)[:4] == [U64, *KEPT]


def test_immediates_that_are_not_calls() -> None:
    for immediate in (1, 0x5FFF, 0x6069, 0x61FF, 0x6200, 0xFFFF):
        vcpu = RootRig().vcpu
        for conduit in ("hvc", "smc"):
            vcpu.x[:] = [MARK] * 31
            getattr(vcpu.hv.dispatcher, conduit)(vcpu, immediate)
            assert list(vcpu.x) == [U64, *[MARK] * 30]
    vcpu.x[:] = [MARK] * 31
    vcpu.hv.dispatcher.smc(vcpu, 0x6000)
    assert list(vcpu.x) == [U64, *[MARK] * 30], "hypercalls have no SMC form"


class TestHypercalls:
    """The SMCCC encoding of hypercalls (hypercalls.md 1.2)."""

    def test_results_are_not_shifted_and_the_rest_is_kept(self) -> None:
        rig = RootRig()
        bell = rig.active("doorbell")
        vcpu = rig.vcpu
        for flags, before in ((5, 0), (8, 5)):
            vcpu.x[:] = [MARK] * 31
            vcpu.x[0:3] = [0xC600_8012, bell, flags]
            rig.hv.dispatcher.hvc(vcpu, 0)
            assert list(vcpu.x[:4]) == [0, before, flags, MARK], "the reserved argument is not looked at"
        vcpu.x[0:4] = [0xC600_8000, 1, 2, 3]
        rig.hv.dispatcher.smc(vcpu, 0)
        assert list(vcpu.x[:5]) == [0x5100_0000_0000_8001, 0x1000_0EFF, 0, 0, MARK]

    def test_errors_are_sign_extended_and_results_zero(self) -> None:
        rig = RootRig()
        vcpu = rig.vcpu
        for number, x1, expected in ((0x01, 0, [U64, U64]), (0x0E, 7, [U64, 7]), (0x13, 0, [1, 0]), (0x57, 0, [2, 0])):
            vcpu.x[:] = [0] * 31
            vcpu.x[0:2] = [0xC600_8000 | number, x1]
            rig.hv.dispatcher.hvc(vcpu, 0)
            assert list(vcpu.x[:2]) == expected, hex(number)

"""SMCCC services, TRNG, entropy and trace classes (hypercalls.md 1.4, 1.5, 3.13, 3.16; objects.md 13)."""

from __future__ import annotations

import pytest
from tests.hypervisor.root_rig import RootRig

from gunyah.abi.errors import Error
from gunyah.abi.profile import V4
from gunyah.hypervisor.entropy import Entropy

U64 = (1 << 64) - 1
U32 = (1 << 32) - 1
MARK = 0xAAAA_BBBB_CCCC_DDDD
WINDOW_TICKS = 33_000_000 // 16


@pytest.fixture
def rig() -> RootRig:
    return RootRig()


def service(rig: RootRig, function: int, *arguments: int) -> list[int]:
    """All registers after the function."""
    x = rig.vcpu.x
    x[:] = [MARK] * 31
    x[: 1 + len(arguments)] = [function, *arguments]
    rig.hv.dispatcher.hvc(rig.vcpu, 0)
    return list(x)


class TestIdentification:
    """Who is this hypervisor."""

    @pytest.mark.parametrize("function", [0x8600_FF01, 0x8500_FF01])
    def test_the_uid_of_the_public_stack(self, rig: RootRig, function: int) -> None:
        assert service(rig, function)[:5] == [0xCD8F_D5C1, 0xDB5F_53A4, 0x36CE_6592, 0x145F_3D67, MARK]

    def test_a_vm_of_another_generation_gets_its_own(self, rig: RootRig) -> None:
        rig.hv.profiles[rig.vcpu.vmid] = V4
        assert tuple(service(rig, 0x8600_FF01)[:4]) == V4.uid

    def test_the_vendor_revision_is_the_whole_api_word(self, rig: RootRig) -> None:
        assert service(rig, 0x8600_FF03)[0] == 0x5100_0000_0000_8001

    def test_the_standard_revision_is_1_0(self, rig: RootRig) -> None:
        assert service(rig, 0x8500_FF03)[:2] == [1, 0]

    def test_smccc_is_1_3(self, rig: RootRig) -> None:
        assert service(rig, 0x8000_0000)[0] == 0x1_0003

    @pytest.mark.parametrize(
        ("asked", "answer"),
        [(0x8000_0000, 0), (0x8000_0001, 0), (0x8500_FF01, 0), (0x8500_FF03, 0), (0xC500_FF01, U32), (0x8000_8000, U32)]
        + [(0x8000_3FFF, U32), (0xC500_0020, U32), (0x8600_FF01, U32)],
    )
    def test_arch_features(self, rig: RootRig, asked: int, answer: int) -> None:
        assert service(rig, 0x8000_0001, asked)[0] == answer

    def test_a_32_bit_function_cuts_x0_to_x3_and_nothing_else(self, rig: RootRig) -> None:
        x = service(rig, 0x8000_0000)
        assert x[1:4] == [MARK & U32] * 3
        assert x[4:] == [MARK] * 27


class TestTrng:
    """The TRNG firmware interface."""

    def test_version_uuid_and_features(self, rig: RootRig) -> None:
        assert service(rig, 0x8400_0050)[:4] == [0x1_0000, 0, 0, 0]
        assert service(rig, 0x8400_0052)[:4] == [0x4554_6E21, 0x92A1_433D, 0xA2EA_5FE2, 0x1639_7D4E]
        for function in (0x8400_0050, 0x8400_0051, 0x8400_0052, 0x8400_0053, 0xC400_0053):
            assert service(rig, 0x8400_0051, function)[0] == 0
        assert service(rig, 0x8400_0051, 0x8400_0054)[0] == U64

    @pytest.mark.parametrize(("function", "width"), [(0x8400_0053, 32), (0xC400_0053, 64)])
    def test_as_many_bits_as_asked_for_least_significant_in_x3(self, rig: RootRig, function: int, width: int) -> None:
        for bits in range(1, 3 * width + 1):
            x = service(rig, function, bits)
            assert x[0] == 0
            value = x[3] | x[2] << width | x[1] << 2 * width
            assert value >> bits == 0
            assert all(word >> width == 0 for word in x[1:4])
            assert x[4:] == [MARK] * 27

    @pytest.mark.parametrize(("function", "bits"), [(0x8400_0053, 0), (0x8400_0053, 97), (0xC400_0053, 193)])
    def test_no_bits_or_too_many(self, rig: RootRig, function: int, bits: int) -> None:
        x = service(rig, function, bits)
        assert x[1:4] == [0, 0, 0]
        assert x[0] == -2 & U64

    def test_the_count_of_the_32_bit_call_is_32_bits(self, rig: RootRig) -> None:
        assert service(rig, 0x8400_0053, 1 << 32 | 8)[0] == 0
        assert service(rig, 0xC400_0053, 1 << 32 | 8)[0] == -2 & U64


class TestEntropy:
    """prng_get_entropy and where it comes from."""

    @pytest.mark.parametrize("size", [4, 8, 12, 16])
    def test_words_of_32_bits_and_zeros_after_them(self, rig: RootRig, size: int) -> None:
        answer = rig.call("prng_get_entropy", size)
        assert answer.ok
        assert all(0 < word <= U32 for word in answer.results[: size // 4])
        assert not any(answer.results[size // 4 :])

    @pytest.mark.parametrize(
        ("size", "error"),
        [(0, Error.ARGUMENT_SIZE), (17, Error.ARGUMENT_SIZE), (20, Error.ARGUMENT_SIZE), (3, Error.ARGUMENT_ALIGNMENT)]
        + [(15, Error.ARGUMENT_ALIGNMENT), (1 << 32 | 4, 0)],
    )
    def test_sizes(self, rig: RootRig, size: int, error: int) -> None:
        answer = rig.call("prng_get_entropy", size)
        assert answer.error == error
        assert bool(any(answer.results)) == (not error)

    def test_four_calls_in_33_milliseconds(self, rig: RootRig) -> None:
        clock = rig.hv.clock
        for _ in range(4):
            assert rig.call("prng_get_entropy", 4).ok
            clock.advance(1000)  # type: ignore[attr-defined]
        assert rig.call("prng_get_entropy", 4).error == Error.BUSY
        # What is refused for its size does not count, and is told first.
        assert rig.call("prng_get_entropy", 0).error == Error.ARGUMENT_SIZE
        clock.advance(WINDOW_TICKS - 4001)  # type: ignore[attr-defined]
        assert rig.call("prng_get_entropy", 4).error == Error.BUSY
        clock.advance(1)  # type: ignore[attr-defined]
        assert rig.call("prng_get_entropy", 4).ok
        assert rig.call("prng_get_entropy", 4).error == Error.BUSY

    def test_what_one_draws_is_not_drawn_again_and_a_seed_repeats_it(self) -> None:
        one, two = Entropy(5), Entropy(5)
        first = [one.randbytes(16) for _ in range(100)]
        assert len(set(first)) == 100
        assert first == [two.randbytes(16) for _ in range(100)]
        assert Entropy(6).randbytes(16) != first[0]
        assert Entropy(-5).randbytes(16) != first[0]

    def test_any_number_of_bytes_and_bits(self) -> None:
        entropy = Entropy(1)
        assert [len(entropy.randbytes(size)) for size in (0, 1, 64, 65, 1000)] == [0, 1, 64, 65, 1000]
        assert max(entropy.getrandbits(3) for _ in range(200)) == 7
        assert 1 << 190 < max(entropy.getrandbits(192) for _ in range(20)) < 1 << 192
        assert entropy.getrandbits(0) == 0


class TestTraceClasses:
    """trace_update_class_flags is open to everybody."""

    def test_bits_are_set_and_cleared_except_two(self, rig: RootRig) -> None:
        assert rig.call("trace_update_class_flags", 0, 0).results == (0x300E5,)
        assert rig.call("trace_update_class_flags", 0b10, 0b100).results == (0x300E3,)
        assert rig.call("trace_update_class_flags", 0, U64).results == (0x21,)
        assert rig.call("trace_update_class_flags", 1 << 40, 0).results == (1 << 40 | 0x21,)

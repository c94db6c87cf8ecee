"""The two encodings of a hypercall: registers, widths, reserved arguments and unknown numbers (hypercalls.md 1)."""

from __future__ import annotations

import pytest
from tests.hypervisor.root_rig import RootRig

from gunyah.abi.errors import Error
from gunyah.abi.hypercalls import BY_NAME, HYPERCALLS, Status
from gunyah.hypervisor.errors import HypervisorError
from gunyah.hypervisor.hypercall import Dispatcher
from gunyah.hypervisor.instruments import Instrument

U64 = (1 << 64) - 1
MARKS = [0x1111_0000_0000_0000 + number for number in range(31)]


@pytest.fixture
def rig() -> RootRig:
    return RootRig()


def registers(rig: RootRig, *values: int) -> list[int]:
    """The caller's registers: ``values`` from X0, a mark in every other one."""
    x = rig.vcpu.x
    x[:] = MARKS
    x[: len(values)] = values
    return x  # type: ignore[return-value]


class TestNative:
    """HVC #(0x6000 + N)."""

    def test_results_stand_from_x0_and_every_other_of_x0_to_x7_is_zero(self, rig: RootRig) -> None:
        x = registers(rig)
        rig.hv.dispatcher.hvc(rig.vcpu, 0x6000)
        assert x[:8] == [0x5100_0000_0000_8001, 0x1000_0EFF, 0, 0, 0, 0, 0, 0]

    def test_x8_and_x18_upwards_are_kept_x9_is_the_return_address_x10_to_x17_are_zero(self, rig: RootRig) -> None:
        x = registers(rig)
        rig.vcpu.pc = 0x8048_1234
        rig.hv.dispatcher.hvc(rig.vcpu, 0x6000)
        assert x[8] == MARKS[8]
        assert x[9] == 0x8048_1234
        assert x[10:18] == [0] * 8
        assert x[18:] == MARKS[18:]

    def test_an_error_is_32_bits_and_the_other_results_are_zero(self, rig: RootRig) -> None:
        x = registers(rig, 0, 1, 0)
        rig.hv.dispatcher.hvc(rig.vcpu, BY_NAME["doorbell_send"].hvc)
        assert x[:8] == [int(Error.ARGUMENT_INVALID), *[0] * 7]
        queue = rig.active("msgqueue", 8 << 16 | 1)
        x = registers(rig, queue, 0, 5, U64)
        rig.hv.dispatcher.hvc(rig.vcpu, BY_NAME["msgqueue_configure_send"].hvc)
        assert x[0] == 0xFFFF_FFFF

    @pytest.mark.parametrize("number", [n for n, call in HYPERCALLS.items() if call.status is Status.RESERVED])
    def test_a_number_without_a_call_answers_minus_one_in_64_bits(self, rig: RootRig, number: int) -> None:
        x = registers(rig)
        rig.hv.dispatcher.hvc(rig.vcpu, 0x6000 + number)
        assert x[:8] == [U64, *[0] * 7]

    @pytest.mark.parametrize("imm", [1, 0x5FFF, 0x6069, 0x61FF, 0x6200, 0xFFFF])
    def test_an_immediate_outside_the_window_answers_minus_one_and_keeps_all_else(self, rig: RootRig, imm: int) -> None:
        x = registers(rig)
        rig.hv.dispatcher.hvc(rig.vcpu, imm)
        assert x == [U64, *MARKS[1:]]

    @pytest.mark.parametrize("call", [call for call in HYPERCALLS.values() if call.dispatched and call.reserved])
    def test_a_wrong_reserved_argument_is_refused_before_anything_is_looked_up(
        self, rig: RootRig, call: object
    ) -> None:
        for position, demanded in call.reserved:  # type: ignore[attr-defined]
            x = registers(rig, *[0] * 8)
            for other, value in call.reserved:  # type: ignore[attr-defined]
                x[other] = value
            x[position] = demanded ^ 1 << 40
            rig.hv.dispatcher.hvc(rig.vcpu, call.hvc)  # type: ignore[attr-defined]
            assert x[0] == int(Error.ARGUMENT_INVALID)

    def test_a_call_that_is_known_and_not_built_says_so_in_32_bits(self, rig: RootRig) -> None:
        x = registers(rig, 0, 0, 0)
        rig.hv.dispatcher.hvc(rig.vcpu, BY_NAME["partition_create_partition"].hvc)
        assert x[:3] == [0xFFFF_FFFF, U64, 0]

    def test_the_upper_half_of_a_32_bit_argument_is_ignored(self, rig: RootRig) -> None:
        queue = rig.active("msgqueue", 8 << 16 | 4)
        x = registers(rig, queue, 0xABCD_0000_0002, 0xFFFF_FFFF_FFFF, U64)
        rig.hv.dispatcher.hvc(rig.vcpu, BY_NAME["msgqueue_configure_send"].hvc)
        assert x[0] == 0
        assert rig.root.cspace.capability(queue).object.not_full_threshold == 2  # type: ignore[attr-defined]

    def test_a_vmid_is_16_bits(self, rig: RootRig) -> None:
        addrspace = rig.create("addrspace")
        x = registers(rig, addrspace, 0xF_0007, 0)
        rig.hv.dispatcher.hvc(rig.vcpu, BY_NAME["addrspace_configure"].hvc)
        assert x[0] == 0
        assert rig.root.cspace.capability(addrspace).object.vmid == 7  # type: ignore[attr-defined]

    @pytest.mark.parametrize("value", [-1, 1 << 64 | 5, 1 << 200])
    def test_a_python_number_beyond_64_bits_is_what_a_register_would_hold(self, rig: RootRig, value: int) -> None:
        doorbell = rig.active("doorbell")
        registers(rig, doorbell, value, 0)
        rig.hv.dispatcher.hvc(rig.vcpu, BY_NAME["doorbell_send"].hvc)
        assert rig.call("doorbell_receive", doorbell, U64).results == (value & U64,)


class TestSmccc:
    """HVC #0 with the function id in W0."""

    def test_arguments_are_shifted_by_one_and_results_are_not(self, rig: RootRig) -> None:
        doorbell = rig.active("doorbell")
        rig.call("doorbell_send", doorbell, 0xF0)
        x = registers(rig, BY_NAME["doorbell_send"].smccc, doorbell, 0x0F)
        rig.hv.dispatcher.hvc(rig.vcpu, 0)
        assert x[:2] == [0, 0xF0]

    def test_every_register_that_is_no_result_is_kept(self, rig: RootRig) -> None:
        x = registers(rig, 0xC600_8000)
        rig.hv.dispatcher.hvc(rig.vcpu, 0)
        assert x[4:] == MARKS[4:]

    def test_smc_zero_is_the_same(self, rig: RootRig) -> None:
        x = registers(rig, 0xC600_8000)
        rig.hv.dispatcher.smc(rig.vcpu, 0)
        assert x[0] == 0x5100_0000_0000_8001
        assert x[4:] == MARKS[4:]

    def test_smc_with_an_immediate_answers_minus_one(self, rig: RootRig) -> None:
        x = registers(rig, 0xC600_8000)
        rig.hv.dispatcher.smc(rig.vcpu, 0x6000)
        assert x == [U64, *MARKS[1:]]

    def test_reserved_arguments_are_not_looked_at(self, rig: RootRig) -> None:
        doorbell = rig.active("doorbell")
        x = registers(rig, BY_NAME["doorbell_send"].smccc, doorbell, 1, 99)
        rig.hv.dispatcher.hvc(rig.vcpu, 0)
        assert x[:2] == [0, 0]

    def test_errors_are_sign_extended(self, rig: RootRig) -> None:
        x = registers(rig, BY_NAME["object_reset"].smccc, 0)
        rig.hv.dispatcher.hvc(rig.vcpu, 0)
        assert x[0] == U64
        x = registers(rig, BY_NAME["doorbell_receive"].smccc, 0, 1)
        rig.hv.dispatcher.hvc(rig.vcpu, 0)
        assert x[:4] == [int(Error.ARGUMENT_INVALID), 0, 1, MARKS[3]]

    def test_the_sve_hint_and_the_upper_half_of_x0_do_not_matter(self, rig: RootRig) -> None:
        x = registers(rig, 0xDEAD_0000_C601_8000)
        rig.hv.dispatcher.hvc(rig.vcpu, 0)
        assert x[0] == 0x5100_0000_0000_8001

    @pytest.mark.parametrize(
        "function",
        [0xC600_8069, 0xC600_8008, 0xC602_8000, 0xC680_8000, 0x4600_8000, 0x8600_8000, 0xC600_0000, 0xC600_4000]
        + [0xC600_C000, 0x8600_0000, 0x8600_FF00, 0xC600_FF01, 0x8700_0000, 0xB200_0000, 0],
    )
    def test_any_other_id_answers_minus_one_and_keeps_all_else(self, rig: RootRig, function: int) -> None:
        x = registers(rig, function)
        rig.hv.dispatcher.hvc(rig.vcpu, 0)
        assert x == [U64, *MARKS[1:]]


class TestTable:
    """The dispatcher is the table, bound to code."""

    def test_every_call_that_is_provided_has_code(self, rig: RootRig) -> None:
        assert rig.hv.dispatcher.missing == []

    def test_code_for_a_call_that_does_not_exist_is_refused_at_the_start(self, rig: RootRig) -> None:
        with pytest.raises(ValueError, match="no_such_call"):
            Dispatcher(rig.hv, {"no_such_call": lambda: None})

    def test_a_call_without_code_answers_unimplemented_and_is_listed(self, rig: RootRig) -> None:
        dispatcher = Dispatcher(rig.hv, {})
        assert "doorbell_send" in dispatcher.missing
        x = registers(rig, 0, 0, 0)
        dispatcher.hvc(rig.vcpu, BY_NAME["doorbell_send"].hvc)
        assert x[:2] == [0xFFFF_FFFF, 0]

    def test_a_bare_error_number_is_an_answer(self, rig: RootRig) -> None:
        dispatcher = Dispatcher(
            rig.hv, {"hypervisor_identify": lambda hv, vcpu: None, "trace_update_class_flags": lambda *_: 31}
        )
        x = registers(rig, 0, 0, 0)
        dispatcher.hvc(rig.vcpu, BY_NAME["trace_update_class_flags"].hvc)
        assert x[:2] == [31, 0]

    def test_results_of_a_refusal_reach_the_caller(self, rig: RootRig) -> None:
        def refuse(*_: object) -> None:
            raise HypervisorError(Error.BUSY, "not now", (7,))

        dispatcher = Dispatcher(rig.hv, {"prng_get_entropy": refuse})
        x = registers(rig, 4, 0)
        dispatcher.hvc(rig.vcpu, BY_NAME["prng_get_entropy"].hvc)
        assert x[:5] == [31, 7, 0, 0, 0]
        assert str(rig.vcpu.last_failure) == "not now"


class TestWatched:
    """Instruments see what the guest sees."""

    class Recorder(Instrument):
        def __init__(self) -> None:
            self.seen: list[tuple[object, ...]] = []

        def hypercall_enter(self, vcpu, call, args, ticks) -> None:  # type: ignore[no-untyped-def]
            self.seen.append(("enter", call.name, tuple(args)))

        def hypercall_exit(self, vcpu, call, args, results, ticks) -> None:  # type: ignore[no-untyped-def]
            self.seen.append(("exit", call.name, tuple(results)))

    def test_both_encodings_are_reported_with_arguments_and_results(self, rig: RootRig) -> None:
        doorbell = rig.active("doorbell")
        recorder = self.Recorder()
        rig.hv.instruments.append(recorder)
        rig.call("doorbell_send", doorbell, 3)
        registers(rig, BY_NAME["doorbell_send"].smccc, doorbell, 4, 0)
        rig.hv.dispatcher.hvc(rig.vcpu, 0)
        assert recorder.seen == [
            ("enter", "doorbell_send", (doorbell, 3, 0)),
            ("exit", "doorbell_send", (0, 0)),
            ("enter", "doorbell_send", (doorbell, 4, 0)),
            ("exit", "doorbell_send", (0, 3)),
        ]

    def test_a_service_is_reported_by_its_name_and_an_unknown_one_by_its_number(self, rig: RootRig) -> None:
        recorder = self.Recorder()
        rig.hv.instruments.append(recorder)
        for function in (0x8000_0000, 0x8700_0001):
            registers(rig, function, 0, 0, 0)
            rig.hv.dispatcher.hvc(rig.vcpu, 0)
        assert [(what, name) for what, name, *_ in recorder.seen] == [
            ("enter", "SMCCC_VERSION"),
            ("exit", "SMCCC_VERSION"),
            ("enter", "0x87000001"),
            ("exit", "0x87000001"),
        ]

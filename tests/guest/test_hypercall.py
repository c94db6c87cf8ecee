import inspect

import pytest

from gunyah.abi.errors import Error
from gunyah.abi.hypercalls import BY_NAME, Status
from gunyah.guest.hypercall import Encoding, HypercallFailed, Hypercalls, signed

from .fake_cpu import FakeCpu

U64 = 0xFFFF_FFFF_FFFF_FFFF
PROVIDED = [call for call in BY_NAME.values() if call.status is Status.PROVIDED and call.number >= 0]


def recorded(encoding: Encoding, outputs: tuple[int, ...] = (0, 0xFFFF_0001, 2, 3, 4, 5)):
    cpu = FakeCpu()
    seen = []

    def hvc(imm: int) -> None:
        seen.append((imm, list(cpu.x[0:8])))
        cpu.x[0 : len(outputs)] = outputs

    cpu.on_hvc = hvc
    return Hypercalls(cpu, encoding), seen


@pytest.mark.parametrize("call", PROVIDED, ids=lambda call: call.name)
def test_every_call_of_the_table_has_a_method_that_fills_its_registers_in_both_encodings(call):
    arguments = list(range(0x10, 0x10 + len(call.inputs)))
    expected = arguments + [value for _, value in call.reserved]
    native, seen = recorded(Encoding.NATIVE)
    getattr(native, call.name)(*arguments)
    assert seen == [(call.hvc, seen[0][1])]
    assert seen[0][1][: len(expected)] == expected
    smccc, seen = recorded(Encoding.SMCCC)
    getattr(smccc, call.name)(*arguments)
    assert seen[0][0] == 0
    assert seen[0][1][: 1 + len(expected)] == [call.smccc, *expected]


@pytest.mark.parametrize("call", PROVIDED, ids=lambda call: call.name)
def test_every_method_takes_the_arguments_of_the_table_under_their_names(call):
    rename = {"from": "source", "to": "destination"}
    parameters = list(inspect.signature(getattr(Hypercalls, call.name)).parameters)[1:]
    assert parameters == [rename.get(argument.name, argument.name) for argument in call.inputs]


def test_results_come_from_x1_on_and_are_narrowed_to_their_kind():
    calls, _ = recorded(Encoding.NATIVE, (0, 0x1_0000_0005, 0x7_0000_0001, 9))
    assert calls.msgqueue_receive(1, 2, 3) == (0x1_0000_0005, True)
    assert calls.virtio_mmio_backend_get_drv_features(1, 0) == 5
    assert calls.doorbell_send(1, 2) == 0x1_0000_0005


def test_a_refused_call_raises_a_sentence_with_call_arguments_and_error():
    calls, _ = recorded(Encoding.NATIVE, (53,))
    with pytest.raises(HypercallFailed) as failure:
        calls.doorbell_send(0x1234, 0x8)
    assert failure.value.error == Error.CSPACE_INSUFFICIENT_RIGHTS
    assert failure.value.call == "doorbell_send"
    assert str(failure.value) == "doorbell_send(doorbell=0x1234, new_flags=0x8): CSPACE_INSUFFICIENT_RIGHTS (53)"


@pytest.mark.parametrize("x0", [0xFFFF_FFFF, U64])
def test_a_negative_error_is_recognised_with_and_without_its_upper_half(x0):
    assert signed(x0) == Error.UNIMPLEMENTED
    calls, _ = recorded(Encoding.SMCCC, (x0,))
    with pytest.raises(HypercallFailed) as failure:
        calls.object_activate(1)
    assert failure.value.error == Error.UNIMPLEMENTED


def test_full_and_empty_queues_are_answers_not_exceptions_on_the_hot_path():
    calls, _ = recorded(Encoding.SMCCC, (61, 0))
    assert calls.try_msgqueue_send(1, 16, 0x4000_0000, 1) == (Error.MSGQUEUE_FULL, False)
    calls, _ = recorded(Encoding.NATIVE, (60, 0, 0))
    assert calls.try_msgqueue_receive(1, 0x4000_0000, 240) == (Error.MSGQUEUE_EMPTY, 0, False)


def test_identify_has_no_error_word():
    calls, seen = recorded(Encoding.SMCCC, (0x5100_0000_0000_8001, 0xEFF, 1, 2))
    assert calls.hypervisor_identify() == (0x5100_0000_0000_8001, (0xEFF, 1, 2))
    assert seen[0][1][0] == 0xC600_8000

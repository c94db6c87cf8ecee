"""Replays Resource Manager steps from the primary VM: requests with their replies, notifications in the recorded order.

Payloads compare byte for byte, except where a layout holds what differs at every boot: capability ids (checked for
validity by using them) and IRQ handles (RM's random base, rm-rpc.md 9). Where the reference never answered, RM must
refuse a malformed request, may answer a well-formed one, and must live on. What a secondary VM did by itself, and what
its owner did for a VM whose own requests are replayed, is done again when the recording shows its effect.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence

from gunyah.abi import pyimage
from gunyah.abi.errors import Error, RmError
from gunyah.abi.hypercalls import BY_NAME
from gunyah.abi.layout import PayloadError
from gunyah.abi.rm import MESSAGES, VmStatus, message_name
from gunyah.guest.cpu import GuestAbort, Program
from gunyah.host.conformance.askers import PRIMARY, SECONDARY
from gunyah.host.conformance.judge import new_capability_fault
from gunyah.host.conformance.monitor import Monitor, PrimaryEnvironment
from gunyah.host.conformance.names import rm_error_word
from gunyah.host.conformance.parties import GuestParty, Party
from gunyah.host.conformance.recorded_guest import Driver, RecordedGuest, own_exit
from gunyah.host.conformance.rpc import TURNS, Message, NoAnswer, RmClient
from gunyah.host.conformance.secondary_view import Desk, orders
from gunyah.host.conformance.vectors import RmStep, Scenario
from gunyah.host.conformance.verdict import Outcome, Trouble, Verdict
from gunyah.host.conformance.vm_image import placement

__all__ = ["RmReplay"]

VM_DEALLOCATE = 0x5600_0002
VM_START = 0x5600_0004
GET_VMID = 0x5600_0024
GET_HYP_RESOURCES = 0x5600_0020
IRQ_LEND = 0x5600_0051
VM_EXIT = 0x5600_0085
VM_STATUS = 0x5610_0008
IRQ_HANDLE_FIRST = frozenset({0x5600_0050, 0x5600_0052, 0x5600_0053, 0x5600_0054, 0x5610_0012, 0x5610_0013})
"""Messages whose payload begins with an IRQ handle."""
IRQ_LENT = 0x5610_0011
MEM_HANDLE_FIRST = frozenset(
    {
        0x5100_0011,
        0x5100_0014,
        0x5100_0015,
        0x5100_0017,
        0x5100_0018,
        0x5110_0011,
        0x5110_0012,
        0x5110_0013,
        0x5110_0014,
    }
)
"""Messages whose payload begins with a memparcel handle."""

CAPABILITY_FIELDS: Mapping[int, tuple[int, int, int]] = {GET_HYP_RESOURCES: (8, 44, 12)}
"""Reply -> start of the entries, bytes of an entry, offset of the capability id (u64) in it, all in payload bytes."""

INVALID = frozenset({Error.ARGUMENT_INVALID, Error.CSPACE_CAP_NULL, Error.CSPACE_CAP_REVOKED})
"""What a call answers to an id that is no capability (hypercalls.md 2)."""

Register = Callable[[str, Program], int]


class RmReplay:
    """``verdicts`` grows by one with each step; the last one is the step that is under way.

    ``desk`` leads to the owner when the replaying VM is a secondary one with VMID ``vmid``.
    """

    def __init__(self, scenario: Scenario, register: Register, desk: Desk | None = None, vmid: int = 0) -> None:
        self._steps: Sequence[RmStep] = [step for step in scenario.steps if isinstance(step, RmStep)]
        self._scenario = scenario
        self._register = register
        self._handles: dict[int, int] = {}
        self._guests: dict[int, RecordedGuest] = {}
        self._here: Party
        self._started: GuestParty | None = None
        self._desk = desk
        self._reset: set[bytes] = set()
        self._orders = orders(self._steps, vmid) if desk is not None else {}
        self.verdicts: list[Verdict] = []

    def perform(self, monitor: Monitor, environment: PrimaryEnvironment) -> None:
        client = RmClient(monitor, environment.tx, environment.rx, environment.scratch)
        self._here = Party(monitor, client)
        pending: list[tuple[RmStep, Verdict]] = []
        for index, step in enumerate(self._steps):
            verdict = Verdict(self._scenario.file, step)
            self.verdicts.append(verdict)
            if step.kind == "notification":
                # It came before the reply of the request that follows, or between two requests: known after that one.
                pending.append((step, verdict))
                continue
            self._others_do_their_part(monitor, client, index, [waiting for waiting, _ in pending])
            self._prepare_memory(monitor, index)
            self._request(self._party(step), step, verdict)
            self._note_start(step)
            self._settle(pending)
            self._note_removal(client, step)
        self._others_do_their_part(monitor, client, len(self._steps), [waiting for waiting, _ in pending])
        self._settle(pending)

    def _party(self, step: RmStep) -> Party:
        """Who makes this request: the replaying VM, or the one it started last."""
        return self._started if self._started is not None and step.vm == SECONDARY else self._here

    def _note_start(self, step: RmStep) -> None:
        vmid = int.from_bytes(step.payload[:2], "little")
        if step.message == VM_START and step.reply == bytes(4) and vmid in self._guests:
            self._started = GuestParty(self._here, self._guests[vmid], vmid)

    def _note_removal(self, client: RmClient, step: RmStep) -> None:
        """With a VM go the notifications of lives that nobody was told of in the recording."""
        if step.message != VM_DEALLOCATE or step.reply != bytes(4) or step.payload[:2] not in self._reset:
            return
        gone = step.payload[:2]
        kept = [got for got in client.notifications if got.message != VM_STATUS or got.payload[:2] != gone]
        client.notifications = deque(kept)
        self._reset.discard(gone)

    def _others_do_their_part(
        self, monitor: Monitor, client: RmClient, index: int, notifications: Sequence[RmStep]
    ) -> None:
        """What must have happened outside the replaying VM before step ``index``."""
        for step in notifications:
            end = own_exit(step)
            guest = self._guests.get(end.vmid) if end is not None else None
            if end is not None and guest is not None:
                guest.end = end
                Driver(monitor, client, end.vmid).to_the_end()
        if self._desk is None or index not in self._orders:
            return
        self._desk.waiting.extend(self._orders[index])
        for _ in range(TURNS):
            if not self._desk.waiting:
                return
            monitor.hypercall(BY_NAME["scheduler_yield"].number)

    def _settle(self, pending: list[tuple[RmStep, Verdict]]) -> None:
        for step, verdict in pending:
            got = self._next_notification(step)
            first = ""
            while got is not None and self._of_a_next_life(got) and _named(got) != _named(step):
                first = first or _words(got.message, got.payload)
                got = self._next_notification(step)
            if got is None:
                verdict.fail(Trouble.NO_REPLY, _words(step.message, step.payload), first or "no notification")
                continue
            self._judge_notification(step, verdict, got)
            if first and verdict.outcome is Outcome.PASSED:
                words = _words(got.message, got.payload)
                verdict.fail(Trouble.WRONG_MESSAGE, words, f"{words} after {first}")
            if got.message == VM_STATUS and got.payload[4:5] == bytes([VmStatus.RESET]):
                self._reset.add(got.payload[:2])
        pending.clear()

    def _next_notification(self, step: RmStep) -> Message | None:
        return self._party(step).do(lambda _, client: client.wait_notification())

    def _of_a_next_life(self, got: Message) -> bool:
        """VM_STATUS of a VM that was reset before: the reference's RM has dropped its peers (rm-behaviour.md 11)."""
        return got.message == VM_STATUS and got.payload[:2] in self._reset

    # -- requests ------------------------------------------------------------------------------------------------------

    def _request(self, party: Party, step: RmStep, verdict: Verdict) -> None:
        payload = self._translate(step)
        try:
            reply = party.do(lambda _, client: client.request(step.message, payload)).payload
        except NoAnswer as silence:
            # A VM that ends itself gets no answer: that is what it asked for.
            if not (party is self._started and step.message == VM_EXIT and step.reply is None):
                verdict.fail(Trouble.NO_REPLY, step.err, "no reply", str(silence))
            return
        except GuestAbort as abort:
            verdict.fail(Trouble.STOPPED, step.err, f"abort esr={abort.esr:#x}", str(abort))
            return
        verdict.values = (reply.hex(),)
        if len(reply) < 4:
            verdict.fail(Trouble.WRONG_MESSAGE, step.err, f"a reply of {len(reply)} bytes without an error word")
            return
        error = int.from_bytes(reply[:4], "little")
        if step.reply is None:
            self._judge_survivor(party, step, error, verdict)
            return
        expected = int.from_bytes(step.reply[:4], "little")
        if error != expected:
            trouble = Trouble.UNIMPLEMENTED if error == RmError.UNIMPLEMENTED else Trouble.WRONG_ERROR
            verdict.fail(trouble, rm_error_word(expected), rm_error_word(error))
            return
        self._judge_reply(party, step, reply, verdict)

    def _judge_survivor(self, party: Party, step: RmStep, error: int, verdict: Verdict) -> None:
        named = RmError.__members__.get(step.err)
        if named is not None and error != named:
            verdict.fail(Trouble.WRONG_ERROR, step.err, rm_error_word(error))
        elif named is None and error == RmError.OK and not _well_formed(step):
            verdict.fail(Trouble.CRASHED, "an error", "OK", "the reference's RM died here")
        else:
            try:
                party.do(lambda _, client: client.request(GET_VMID, b""))
            except NoAnswer as silence:
                verdict.fail(Trouble.CRASHED, "an answer afterwards", "no reply", str(silence))

    def _judge_reply(self, party: Party, step: RmStep, reply: bytes, verdict: Verdict) -> None:
        assert step.reply is not None
        expected = step.reply
        if step.message == IRQ_LEND and len(reply) == 8 and len(expected) == 8:
            self._handles[int.from_bytes(expected[4:], "little")] = int.from_bytes(reply[4:], "little")
            return
        if step.message in CAPABILITY_FIELDS:
            start, size, offset = CAPABILITY_FIELDS[step.message]
            for field in range(start + offset, min(len(reply), len(expected)) - 7, size):
                capability = int.from_bytes(reply[field : field + 8], "little")
                fault = _capability_fault(party, capability)
                if fault:
                    verdict.fail(Trouble.WRONG_VALUE, "a valid capability id", fault)
                    return
                reply = reply[:field] + expected[field : field + 8] + reply[field + 8 :]
        if reply != expected:
            verdict.fail(Trouble.WRONG_MESSAGE, expected[4:].hex() or "no data", reply[4:].hex() or "no data")

    def _translate(self, step: RmStep) -> bytes:
        """The payload with recorded handles replaced by those given here."""
        if self._desk is not None and step.message in MEM_HANDLE_FIRST:
            return self._desk.translate(step.payload)
        if step.message in IRQ_HANDLE_FIRST and len(step.payload) >= 4:
            handle = self._handles.get(int.from_bytes(step.payload[:4], "little"))
            if handle is not None:
                return handle.to_bytes(4, "little") + step.payload[4:]
        return step.payload

    def _judge_notification(self, step: RmStep, verdict: Verdict, got: Message) -> None:
        verdict.values = (got.payload.hex(),)
        expected = self._translate(step)
        if step.message == IRQ_LENT and len(got.payload) == len(expected):
            expected = expected[:4] + got.payload[4:8] + expected[8:]
        if got.message != step.message or got.payload != expected:
            verdict.fail(Trouble.WRONG_MESSAGE, _words(step.message, expected), _words(got.message, got.payload))

    # -- memory that a request hands over
    # -------------------------------------------------------------------------------

    def _prepare_memory(self, monitor: Monitor, index: int) -> None:
        place = placement(self._steps, index)
        if place is None:
            return
        ends = [own_exit(step) for step in self._steps[index:]]
        speaks = self._scenario.role == PRIMARY and any(step.vm == SECONDARY for step in self._steps)
        guest = RecordedGuest(speaks or any(end is not None and end.vmid == place.vmid for end in ends))
        self._guests[place.vmid] = guest
        image = pyimage.pack(self._register("recorded secondary VM", guest.program))
        for offset, data in ((place.image_offset, image), (place.tree_offset, place.tree)):
            for address, part in place.spread(offset, data):
                monitor.cpu.write(address, part)


def _capability_fault(party: Party, capability: int) -> str:
    """Why an id is none: a call that this VM has no right to make must say so, not that there is no such capability."""
    fault = new_capability_fault(capability, {})
    if fault:
        return fault
    number = BY_NAME["object_activate"].number
    error = party.do(lambda monitor, _: monitor.hypercall(number, capability, 0)[0])
    return f"{capability:#x}, which is no capability: {Error(error).name}" if error in INVALID else ""


def _well_formed(step: RmStep) -> bool:
    """The request is one that RM can read, so that an answer other than an error may be right."""
    entry = MESSAGES.get(step.message)
    if entry is None or entry.request is None:
        return False
    try:
        entry.request.unpack(step.payload)
    except PayloadError:
        return False
    return True


def _named(notification: Message | RmStep) -> tuple[int, bytes]:
    return notification.message, notification.payload


def _words(message: int, payload: bytes) -> str:
    return f"{message_name(message)} {payload.hex()}".strip()

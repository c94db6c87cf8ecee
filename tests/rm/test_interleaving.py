"""Eight clients whose packets reach RM in any order: every one gets its own answers, whole, and nobody else's."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.rm.rig import Client, GuestClient
from tests.rm.workers import Worker, with_workers

from gunyah.abi.errors import RmError
from gunyah.abi.rm import ConsoleWrite, MessageId, VmidWord

CLIENTS = 8
ROOM = 232
KINDS = ("vmid", "identity", "write", "unknown", "half")
Step = tuple[int, str, int]


@dataclass
class Speaker:
    """One client: the packets of its request that it has not sent yet, and what the answer must be."""

    worker: Worker
    name: str
    packets: list[bytes] = field(default_factory=list)
    sequence: int = 0
    waits: bool = False
    wanted: bytes | None = None
    answers: int = 0

    def begin(self, kind: str, size: int) -> None:
        message, payload = 0x5600_00FE, bytes(size)
        self.wanted = struct.pack("<I", RmError.UNIMPLEMENTED)
        if kind == "vmid":
            message, payload = MessageId.VM_GET_VMID, b""
            self.wanted = struct.pack("<II", 0, self.worker.vmid)
        elif kind == "identity":
            message, payload, self.wanted = MessageId.VM_GET_ID, VmidWord(0).pack(), None
        elif kind == "write":
            message, payload = MessageId.VM_CONSOLE_WRITE, ConsoleWrite(0, bytes(size)).pack()
            self.wanted = struct.pack("<I", RmError.OK)
        self.sequence = self.sequence + 1 & 0xFFFF
        pieces = [payload[at : at + ROOM] for at in range(0, len(payload), ROOM)] or [b""]
        self.packets = [
            struct.pack("<BBHI", 0x21, (len(pieces) - 1) << 2 | (not index), self.sequence, message) + piece
            for index, piece in enumerate(pieces)
        ]
        self.waits = kind != "half"
        if kind == "half":
            # A message that is never finished: the next one takes its place.
            self.packets = self.packets[:-1]

    def speak(self, client: Client) -> None:
        packet = self.packets.pop(0)
        self.worker.does(client, lambda guest: guest.send_packet(packet))

    def listen(self, client: Client) -> bool:
        """Look for the answer; True when it was there."""

        def look(guest: GuestClient) -> list[tuple[int, int, bytes]]:
            guest.poll()
            found, guest._replies = guest._replies, []
            return found

        found: list[tuple[int, int, bytes]] = self.worker.does(client, look)
        for sequence, _, payload in found:
            assert self.waits and sequence == self.sequence, f"{self.name} got an answer that is not its own"
            if self.wanted is None:
                assert payload[:4] == bytes(4) and self.name.encode() in payload
            else:
                assert payload == self.wanted
            self.waits = False
            self.answers += 1
        return bool(found)


STEPS = st.lists(
    st.tuples(st.integers(0, CLIENTS - 1), st.sampled_from(KINDS), st.sampled_from([0, 1, 231, 232, 233, 700, 1500])),
    min_size=20,
    max_size=120,
)


def test_packets_of_eight_clients_in_any_order_give_everybody_its_own_answers() -> None:
    def scenario(client: Client, workers: list[Worker]) -> None:
        for worker in workers:
            worker.does(client, lambda guest: guest.call(MessageId.VM_CONSOLE_OPEN, VmidWord(0).pack()))
        speakers = [Speaker(worker, f"worker-{index}") for index, worker in enumerate(workers)]
        for speaker in speakers:
            speaker.sequence = 0x4000

        @given(STEPS)
        @settings(max_examples=12, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        def run(steps: list[Step]) -> None:
            for index, kind, size in steps:
                speaker = speakers[index]
                if speaker.packets:
                    speaker.speak(client)
                elif not speaker.waits or speaker.listen(client):
                    speaker.begin(kind, size)
            for speaker in speakers:
                while speaker.packets:
                    speaker.speak(client)
                turns = 0
                while speaker.waits and not speaker.listen(client):
                    turns += 1
                    assert turns < 2_000, f"{speaker.name} got no answer to {speaker.sequence:#x}"

        run()
        assert sum(speaker.answers for speaker in speakers) > 40

    with_workers(CLIENTS, scenario)

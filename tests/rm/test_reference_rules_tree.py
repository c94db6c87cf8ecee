"""What the device tree of a secondary VM says of its peers (rm-behaviour.md 7.1 and 7.3)."""

from __future__ import annotations

from tests.rm.rig import Client, GuestClient, Rig
from tests.rm.trees import vdevice, vm_tree

from gunyah.guest.cpu import Cpu


def test_a_peer_is_listed_once_however_many_queues_lead_to_it() -> None:
    rig = Rig()
    heard: list[list[str]] = []

    def guest(cpu: Cpu, x0: int) -> None:
        identity = GuestClient(rig, cpu, x0).tree.node("/hypervisor/qcom,gunyah-vm")
        heard.append(list(identity.strings("qcom,peers")))
        while True:
            cpu.wfi()

    image = rig.image("guest", guest)
    tree = vm_tree("middle")
    for label, peer in ((8, "vm-name:left"), (9, "vm-name:right"), (10, "vm-name:left")):
        vdevice(tree, f"pair{label}", "message-queue-pair", label=label, peer=peer)
    vdevice(tree, "pair", "message-queue-pair", label=11)

    def scenario(client: Client) -> None:
        vmid, handle = client.create(image, tree)
        client.start(vmid)
        while not heard:
            client.state(vmid)
        assert heard == [["vm-name:left", "vm-name:right"]]
        client.stop(vmid)
        client.destroy(vmid, handle)

    rig.run(scenario)

"""What the kernel offers to every subsystem and driver: the CPU, tasks, interrupts, memory, the log, sysfs and the
device tree.
"""

from __future__ import annotations

from dataclasses import dataclass

from gunyah.guest.cpu import Cpu
from gunyah.guest.fdt import DeviceTree
from gunyah.guest.heap import Heap
from gunyah.guest.tasks import Scheduler
from gunyah.linux.interrupt import Interrupts
from gunyah.linux.kobject import SysFs
from gunyah.linux.printk import KernelLog
from gunyah.linux.workqueue import Workqueues

__all__ = ["Services"]


@dataclass(slots=True)
class Services:
    """One kernel's core; drivers get it instead of reaching for globals."""

    cpu: Cpu
    scheduler: Scheduler
    interrupts: Interrupts
    heap: Heap
    log: KernelLog
    sysfs: SysFs
    workqueues: Workqueues
    device_tree: DeviceTree

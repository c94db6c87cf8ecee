"""The device tree of the emulated board, as a boot loader would hand it to the primary VM (reference.md 2).

It describes what QEMU's ``virt`` has and the primary VM can reach: cores, PSCI, timer, PMU, GICv3, memory, PL011 and
PL031. The Resource Manager adds the ``/hypervisor`` node to it.
"""

from __future__ import annotations

from collections.abc import Sequence

from gunyah.guest.fdt import DeviceTree, Node

__all__ = ["GIC_PHANDLE", "board_tree"]

GIC_PHANDLE = 0x8001
CLOCK_PHANDLE = 0x8000

GICD_BASE, GICD_SIZE = 0x0800_0000, 0x1_0000
GICR_BASE, GICR_STRIDE = 0x080A_0000, 0x2_0000
GICR_FRAMES = 8
UART_BASE, UART_SIZE, UART_SPI = 0x0900_0000, 0x1000, 1
RTC_BASE, RTC_SIZE, RTC_SPI = 0x0901_0000, 0x1000, 2

SPI, PPI = 0, 1
EDGE_RISING, LEVEL_HIGH = 1, 4

# Secure physical, non-secure physical, virtual and hypervisor timer as PPI numbers (INTID - 16).
TIMER_PPIS = (13, 14, 11, 10)
PMU_PPI = 7


def board_tree(
    *,
    memory: Sequence[tuple[int, int]],
    cores: int,
    bootargs: str = "",
    initrd: tuple[int, int] | None = None,
    seed: bytes = b"",
) -> DeviceTree:
    """The tree for RAM ranges ``memory`` (IPA, bytes) and ``cores`` vCPUs; ``initrd`` is (IPA, bytes), ``seed`` for
    /chosen rng-seed.
    """
    tree = DeviceTree()
    root = tree.root
    root.set_strings("compatible", "linux,dummy-virt")
    root.set_strings("model", "linux,dummy-virt")
    root.set_cells("#address-cells", 2)
    root.set_cells("#size-cells", 2)
    root.set_cells("interrupt-parent", GIC_PHANDLE)
    _chosen(root, bootargs, initrd, seed)
    for base, size in memory:
        node = root.add(f"memory@{base:x}")
        node.set_strings("device_type", "memory")
        node.set_u64s("reg", base, size)
    _cpus(root, cores)
    psci = root.add("psci")
    psci.set_strings("compatible", "arm,psci-1.0", "arm,psci-0.2", "arm,psci")
    psci.set_strings("method", "hvc")
    timer = root.add("timer")
    timer.set_strings("compatible", "arm,armv8-timer", "arm,armv7-timer")
    timer.set_cells("interrupts", *(cell for ppi in TIMER_PPIS for cell in (PPI, ppi, LEVEL_HIGH)))
    timer.set_flag("always-on")
    monitor = root.add("pmu")
    monitor.set_strings("compatible", "arm,armv8-pmuv3")
    monitor.set_cells("interrupts", PPI, PMU_PPI, LEVEL_HIGH)
    _gic(root)
    clock = root.add("apb-pclk")
    clock.set_strings("compatible", "fixed-clock")
    clock.set_cells("#clock-cells", 0)
    clock.set_cells("clock-frequency", 24_000_000)
    clock.set_strings("clock-output-names", "clk24mhz")
    clock.set_cells("phandle", CLOCK_PHANDLE)
    uart = _primecell(root, f"pl011@{UART_BASE:x}", "arm,pl011", UART_BASE, UART_SIZE, UART_SPI)
    uart.set_cells("clocks", CLOCK_PHANDLE, CLOCK_PHANDLE)
    uart.set_strings("clock-names", "uartclk", "apb_pclk")
    rtc = _primecell(root, f"pl031@{RTC_BASE:x}", "arm,pl031", RTC_BASE, RTC_SIZE, RTC_SPI)
    rtc.set_cells("clocks", CLOCK_PHANDLE)
    rtc.set_strings("clock-names", "apb_pclk")
    return tree


def _chosen(root: Node, bootargs: str, initrd: tuple[int, int] | None, seed: bytes) -> None:
    chosen = root.add("chosen")
    chosen.set_strings("stdout-path", f"/pl011@{UART_BASE:x}")
    if bootargs:
        chosen.set_strings("bootargs", bootargs)
    if initrd is not None:
        start, size = initrd
        chosen.set_u64s("linux,initrd-start", start)
        chosen.set_u64s("linux,initrd-end", start + size)
    if seed:
        # Without it the kernel's generator is not ready and every system call pays for it (engine.md 1.3.8).
        chosen.properties["rng-seed"] = seed
        chosen.properties["kaslr-seed"] = seed[:8]


def _cpus(root: Node, cores: int) -> None:
    cpus = root.add("cpus")
    cpus.set_cells("#address-cells", 1)
    cpus.set_cells("#size-cells", 0)
    for index in range(cores):
        cpu = cpus.add(f"cpu@{index:x}")
        cpu.set_strings("device_type", "cpu")
        cpu.set_strings("compatible", "arm,cortex-a72")
        cpu.set_cells("reg", index)
        cpu.set_strings("enable-method", "psci")


def _gic(root: Node) -> None:
    gic = root.add(f"intc@{GICD_BASE:x}")
    gic.set_strings("compatible", "arm,gic-v3")
    gic.set_cells("#interrupt-cells", 3)
    gic.set_cells("#address-cells", 2)
    gic.set_cells("#size-cells", 2)
    gic.set_flag("interrupt-controller")
    gic.set_flag("ranges")
    gic.set_cells("#redistributor-regions", 1)
    gic.set_u64s("reg", GICD_BASE, GICD_SIZE, GICR_BASE, GICR_FRAMES * GICR_STRIDE)
    gic.set_cells("phandle", GIC_PHANDLE)


def _primecell(root: Node, name: str, compatible: str, base: int, size: int, spi: int) -> Node:
    node = root.add(name)
    node.set_strings("compatible", compatible, "arm,primecell")
    node.set_u64s("reg", base, size)
    node.set_cells("interrupts", SPI, spi, LEVEL_HIGH)
    return node

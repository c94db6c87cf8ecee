"""Names in device trees: nodes, compatibles and properties of Gunyah bindings.

Three parties meet here: what RM generates for primary and secondary VMs (rm-behaviour.md 4 and 7), what the v4 binding
and drivers look for (linux-drivers.md 2), and the vm-config tree a loader hands to RM (rm-behaviour.md 6).
"""

from __future__ import annotations

from enum import StrEnum

__all__ = [
    "AFFINITIES",
    "COMPATIBLE_CAPABILITY",
    "COMPATIBLE_DOORBELL",
    "COMPATIBLE_DOORBELL_SOURCE",
    "COMPATIBLE_GIC_V3",
    "COMPATIBLE_HYPERVISOR",
    "COMPATIBLE_HYPERVISOR_PRIMARY",
    "COMPATIBLE_HYPERVISOR_SECONDARY",
    "COMPATIBLE_HYPERVISOR_V4",
    "COMPATIBLE_MESSAGE_QUEUE",
    "COMPATIBLE_PSCI",
    "COMPATIBLE_RM",
    "COMPATIBLE_RM_PRIMARY",
    "COMPATIBLE_RM_SECONDARY",
    "COMPATIBLE_RM_V4",
    "COMPATIBLE_SHARED_MEMORY",
    "COMPATIBLE_SHM_DOORBELL",
    "COMPATIBLE_SIMPLE_BUS",
    "COMPATIBLE_VIRTIO_MMIO",
    "COMPATIBLE_VM_FIRMWARE",
    "COMPATIBLE_VM_ID",
    "COMPATIBLE_VRTC",
    "COMPATIBLE_VRTC_CLOCK",
    "COMPATIBLE_WATCHDOG",
    "ConfigProperty",
    "DEFAULT_BASE_ADDRESS",
    "DEFAULT_FIRMWARE_SIZE_MAX",
    "DEFAULT_GENERATE",
    "DEFAULT_SIZE_MAX",
    "DEFAULT_SIZE_MIN",
    "GIC_PPI",
    "GIC_SPI",
    "GUEST_TYPE_AARCH64",
    "HYPERVISOR_ADDRESS_CELLS",
    "HYPERVISOR_SIZE_CELLS",
    "IRQ_TYPE_EDGE_RISING",
    "IRQ_TYPE_LEVEL_HIGH",
    "NODE_CHOSEN",
    "NODE_CPUS",
    "NODE_HYPERVISOR",
    "NODE_MEMORY",
    "NODE_RESERVED_MEMORY",
    "NODE_RM_PRIMARY",
    "NODE_RM_V4",
    "NODE_VM_CONFIGS",
    "NODE_VM_ID",
    "NODE_VRTC",
    "NODE_VRTC_CLOCK",
    "NODE_VSOC",
    "NODE_WATCHDOG",
    "OS_TYPE_LINUX",
    "PRIMARY_FREE_IRQ_START",
    "PUSH_COMPATIBLE_MAX",
    "Property",
    "VENDOR",
    "VdeviceType",
    "VmAttr",
]

# Nodes

NODE_HYPERVISOR = "hypervisor"
NODE_VM_ID = "qcom,gunyah-vm"
NODE_WATCHDOG = "qcom,gh-watchdog"
NODE_RM_PRIMARY = "qcom,resource-manager-rpc"
"""Unit address: the TX capability, 16 hex digits."""
NODE_RM_V4 = "gunyah-resource-mgr"
"""Name the v4 binding demands; the driver does not look at it."""
NODE_VM_CONFIGS = ("qcom,vm-config", "gunyah-vm-config")
"""Root node of a vm-config, either name."""
NODE_MEMORY = "memory"
NODE_CHOSEN = "chosen"
NODE_CPUS = "cpus"
NODE_RESERVED_MEMORY = "reserved-memory"
NODE_VSOC = "vsoc"
NODE_VRTC = "vrtc"
NODE_VRTC_CLOCK = "vrtc-pclk"

HYPERVISOR_ADDRESS_CELLS = 2
"""A capability id is 64 bits."""
HYPERVISOR_SIZE_CELLS = 0

# Compatibles

COMPATIBLE_SIMPLE_BUS = "simple-bus"
"""Without it v4 Linux never makes a device of the RM node."""
COMPATIBLE_HYPERVISOR = "gunyah-hypervisor"
"""What Linux drivers of later series match."""
COMPATIBLE_HYPERVISOR_V4 = ("gunyah-hypervisor-1.0", "gunyah-hypervisor")
COMPATIBLE_HYPERVISOR_PRIMARY = ("qcom,gunyah-hypervisor-1.0", "qcom,gunyah-hypervisor", COMPATIBLE_SIMPLE_BUS)
COMPATIBLE_HYPERVISOR_SECONDARY = (COMPATIBLE_HYPERVISOR, *COMPATIBLE_HYPERVISOR_PRIMARY)
COMPATIBLE_VM_ID = ("qcom,gunyah-vm-id-1.0", "qcom,gunyah-vm-id")
COMPATIBLE_RM = "gunyah-resource-manager"
"""The string the v4 driver and all later ones match."""
COMPATIBLE_RM_V4 = ("gunyah-resource-manager-1-0", COMPATIBLE_RM)
COMPATIBLE_RM_PRIMARY = (COMPATIBLE_RM, "qcom,resource-manager-1-0", "qcom,resource-manager")
COMPATIBLE_RM_SECONDARY = (COMPATIBLE_RM, "qcom,resource-manager", "qcom,resource-manager-1-0")
"""Pushed before the two generic strings of a message queue pair; "1-0" is the API version with a dash."""
COMPATIBLE_CAPABILITY = "qcom,gunyah-capability"
COMPATIBLE_MESSAGE_QUEUE = "qcom,gunyah-message-queue"
COMPATIBLE_DOORBELL = "qcom,gunyah-doorbell"
COMPATIBLE_DOORBELL_SOURCE = "qcom,gunyah-doorbell-source"
COMPATIBLE_SHARED_MEMORY = "qcom,shared-memory"
COMPATIBLE_SHM_DOORBELL = "qcom,gunyah-shm-doorbell"
COMPATIBLE_VIRTIO_MMIO = "virtio,mmio"
COMPATIBLE_WATCHDOG = "qcom,gh-watchdog"
COMPATIBLE_VM_FIRMWARE = "qcom,vm-firmware"
COMPATIBLE_VRTC = ("arm,pl031", "arm,primecell")
COMPATIBLE_VRTC_CLOCK = "fixed-clock"
COMPATIBLE_GIC_V3 = "arm,gic-v3"
COMPATIBLE_PSCI = ("arm,psci-0.2", "arm,psci-1.0")
"""Either in a vm-config tree switches PSCI on."""

VENDOR = "Qualcomm"
"""Value of qcom,vendor, whatever the vm-config says."""
PRIMARY_FREE_IRQ_START = 960
"""Value of qcom,free-irq-start in the primary VM's RM node; 0 elsewhere."""

# Interrupt cells: type, number relative to the type's base, flags

GIC_SPI = 0
GIC_PPI = 1
IRQ_TYPE_EDGE_RISING = 1
IRQ_TYPE_LEVEL_HIGH = 4


class Property(StrEnum):
    """Properties of generated nodes."""

    ADDRESS_CELLS = "#address-cells"
    SIZE_CELLS = "#size-cells"
    COMPATIBLE = "compatible"
    REG = "reg"
    INTERRUPTS = "interrupts"
    RANGES = "ranges"
    STATUS = "status"
    PHANDLE = "phandle"
    DEVICE_TYPE = "device_type"
    NO_MAP = "no-map"
    VMID = "qcom,vmid"
    OWNER_VMID = "qcom,owner-vmid"
    PEER_VMID = "qcom,peer-vmid"
    VENDOR = "qcom,vendor"
    IMAGE_NAME = "qcom,image-name"
    VM_URI = "qcom,vm-uri"
    VM_GUID = "qcom,vm-guid"
    PEERS = "qcom,peers"
    PEER = "peer"
    SHM_PEERS = "peers"
    FREE_IRQ_START = "qcom,free-irq-start"
    IS_FULL_DUPLEX = "qcom,is-full-duplex"
    IS_SENDER = "is-sender"
    IS_RECEIVER = "is-receiver"
    TX_MESSAGE_SIZE = "qcom,tx-message-size"
    RX_MESSAGE_SIZE = "qcom,rx-message-size"
    TX_QUEUE_DEPTH = "qcom,tx-queue-depth"
    RX_QUEUE_DEPTH = "qcom,rx-queue-depth"
    ONE_WAY_MESSAGE_SIZE = "tx_message_size"
    ONE_WAY_QUEUE_DEPTH = "tx_queue_depth"
    VDEVICE_HANDLE = "qcom,vdevice-handle"
    QCOM_LABEL = "qcom,label"
    LABEL = "label"
    CAPABILITY = "qcom,gunyah-capability"
    SHARED_MEMORY = "qcom,shared-memory"
    RM_MEM_HANDLE = "qcom,rm-mem-handle"
    RM_ACL = "qcom,rm-acl"
    RM_ATTRIBUTES = "qcom,rm-attributes"
    BUFFER = "buffer"
    MEMORY_REGION = "memory-region"
    TX_DOORBELL = "tx-doorbell"
    RX_DOORBELL = "rx-doorbell"
    DMA_BASE = "dma_base"
    DMA_COHERENT = "dma-coherent"
    BOOTARGS = "bootargs"
    INITRD_START = "linux,initrd-start"
    INITRD_END = "linux,initrd-end"
    KASLR_SEED = "kaslr-seed"
    REDISTRIBUTOR_REGIONS = "#redistributor-regions"
    REDISTRIBUTOR_STRIDE = "redistributor-stride"
    CLOCK_CELLS = "#clock-cells"
    CLOCK_FREQUENCY = "clock-frequency"
    CLOCK_NAMES = "clock-names"
    CLOCKS = "clocks"


class ConfigProperty(StrEnum):
    """Properties of a vm-config tree."""

    IMAGE_NAME = "image-name"
    VM_TYPE = "vm-type"
    OS_TYPE = "os-type"
    VENDOR = "vendor"
    VM_URI = "vm-uri"
    VM_GUID = "vm-guid"
    VM_ATTRS = "vm-attrs"
    KERNEL_ENTRY_SEGMENT = "kernel-entry-segment"
    KERNEL_ENTRY_OFFSET = "kernel-entry-offset"
    SENSITIVE = "qcom,sensitive"
    IOMEMORY_RANGES = "iomemory-ranges"
    GIC_IRQ_RANGES = "gic-irq-ranges"
    RAMDISK = "ramdisk"
    BASE_ADDRESS = "base-address"
    SIZE_MIN = "size-min"
    SIZE_MAX = "size-max"
    IS_DIRECT = "is-direct"
    FIRMWARE_ADDRESS = "firmware-address"
    FIRMWARE_SIZE_MAX = "firmware-size-max"
    BASE_MEM_CONSTRAINTS = "base-mem-constraints"
    CONFIG = "config"
    AFFINITY = "affinity"
    AFFINITY_MAP = "affinity-map"
    SCHED_PRIORITY = "sched-priority"
    SCHED_TIMESLICE = "sched-timeslice"
    VDEVICE_TYPE = "vdevice-type"
    GENERATE = "generate"
    PUSH_COMPATIBLE = "push-compatible"
    PEER = "peer"
    PEER_DEFAULT = "peer-default"
    CONSOLE_DEV = "console-dev"
    MESSAGE_SIZE = "message-size"
    QUEUE_DEPTH = "queue-depth"
    SOURCE_CAN_CLEAR = "source-can-clear"
    IS_SENDER = "is-sender"
    IS_RECEIVER = "is-receiver"
    VQS_NUM = "vqs-num"
    VIRTIO_DEVICE_TYPE = "virtio,device-type"
    PATCH = "patch"
    MEM_INFO_TAG = "qcom,mem-info-tag"
    RM_ACL = "qcom,rm_acl"
    RM_ATTRIBUTES = "qcom,rm_attributes"
    RM_SGLIST = "qcom,rm_sglist"
    BASE = "base"
    ALLOCATE_BASE = "allocate-base"
    OPTIONAL = "optional"


class VdeviceType(StrEnum):
    """Values of vdevice-type."""

    RM_RPC = "rm-rpc"
    DOORBELL = "doorbell"
    DOORBELL_SOURCE = "doorbell-source"
    MESSAGE_QUEUE = "message-queue"
    MESSAGE_QUEUE_PAIR = "message-queue-pair"
    SHM = "shm"
    SHM_DOORBELL = "shm-doorbell"
    VIRTIO_MMIO = "virtio-mmio"
    IOMEM = "iomem"
    VSMMU_V2 = "vsmmu-v2"
    VRTC_PL031 = "vrtc-pl031"


DEFAULT_GENERATE: dict[VdeviceType, str] = {
    VdeviceType.DOORBELL: "/hypervisor/qcom,doorbell",
    VdeviceType.DOORBELL_SOURCE: "/hypervisor/qcom,doorbell-source",
    VdeviceType.MESSAGE_QUEUE: "/hypervisor/qcom,message-queue",
    VdeviceType.MESSAGE_QUEUE_PAIR: "/hypervisor/qcom,message-queue-pair",
    VdeviceType.SHM: "/hypervisor/qcom,shm",
    VdeviceType.SHM_DOORBELL: "/hypervisor/qcom,shm",
    VdeviceType.VIRTIO_MMIO: "/hypervisor/qcom,virtio_mmio",
    VdeviceType.VRTC_PL031: "/vsoc",
}
"""Path of the generated node when the device names none; rm-rpc has no default."""


class VmAttr(StrEnum):
    """Words of vm-attrs."""

    RAS_ERROR_HANDLER = "ras-error-handler"
    AMU_COUNTING_DISABLED = "amu-counting-disabled"
    CRASH_FATAL = "crash-fatal"
    CONTEXT_DUMP = "context-dump"
    NO_SHUTDOWN = "no-shutdown"
    NO_RESET = "no-reset"
    GUEST_RAM_DUMP = "guest-ram-dump"
    INSECURE_CONSOLE = "insecure-console"


AFFINITIES = ("static", "sticky", "pinned", "proxy")
"""Values of affinity; the first is the default."""

GUEST_TYPE_AARCH64 = "aarch64-guest"
OS_TYPE_LINUX = "linux"
PUSH_COMPATIBLE_MAX = 6
"""Strings in push-compatible."""

DEFAULT_BASE_ADDRESS = 0x2880_0000
"""IPA of base memory when a vm-config names none (QEMU)."""
DEFAULT_SIZE_MIN = 0
"""Bytes, like the two below."""
DEFAULT_SIZE_MAX = 0x07FF_FFFF
DEFAULT_FIRMWARE_SIZE_MAX = 4 << 20

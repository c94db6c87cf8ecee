"""The emulated board: physical memory, clock, CPU engine and devices. It knows nothing of Gunyah.

The engine is imported from `gunyah.machine.engine` by whoever runs native code, so that a machine that runs only Python
VMs never loads it.
"""

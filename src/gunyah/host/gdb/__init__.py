"""A gdb stub: the machine as gdb's remote target. Every VM is an inferior, every vCPU a thread.

``gunyah run --gdb PORT`` serves it on the local host; gdb connects with ``target remote :PORT``. PID is the VMID, TID
the vCPU's index in its VM plus 1. While no gdb is connected nothing of it is in the machine's way. The protocol is
that of gdb's manual, appendix "GDB Remote Serial Protocol".
"""

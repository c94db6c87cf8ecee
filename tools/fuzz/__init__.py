"""Fuzzing of the hypervisor: hostile VMs that do what a string of bytes says (``make fuzz``, tests/hostile)."""

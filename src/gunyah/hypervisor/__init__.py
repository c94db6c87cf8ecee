"""The `hypervisor` room (ARCHITECTURE.md)."""

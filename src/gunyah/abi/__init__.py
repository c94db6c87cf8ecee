"""What crosses a boundary, as data: call numbers, error codes, rights, message layouts, binding names.

No module of this package has behaviour or imports another package of gunyah, so that both sides of every boundary
(hypervisor and guest, Resource Manager and driver, VM loader and kernel) read the same declarations.
"""

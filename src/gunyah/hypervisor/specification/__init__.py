"""Executable specification: who may do what, and who owns what, as small pure functions over immutable state.

``state`` is what there is, ``capabilities`` and ``ownership`` are the rules of the fact sheets, ``calls`` says of each
hypercall which answer and which new state they allow. ``observe`` reads the state of a running hypervisor, and
``checker`` compares the two after every call.
"""

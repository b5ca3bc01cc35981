"""The unit tests on Pythons that this machine has not: ``python -m tests.pythons 3.15 3.14t``.

A Python is taken from the path if it is there. Otherwise it is put together from packages, on Debian on x86-64: the
interpreter and its extension modules are those of manylinux, which a wheel of freeze-core brings for the programs of
its users; the standard library of the same version is Debian's. The `t` in a name is a Python without GIL, which no
distribution of Debian has.
"""

"""The tests on Windows' own Python, under Wine: ``python -m tests.wine``.

The Python is put together from packages: the runtime from a wheel of panda3d, which brings it for the programs of its
users; the standard library from the Python that runs this; Wine and a compiler from Debian. What Wine 8 lacks of
Windows is in `shims.py` and `python.c`. This shows whether zibai works with Windows' Python, and not what Windows does.
"""

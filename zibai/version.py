"""The version, in a leaf module so that everything may import it."""

__version__ = "1.1.0.dev0"

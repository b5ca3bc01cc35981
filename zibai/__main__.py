"""``python -m zibai`` is the console command ``zibai``.

The guard matters: a spawned worker imports this module again, under another name, and must not start a server.
"""

from .cli import main

if __name__ == "__main__":
    raise SystemExit(main())

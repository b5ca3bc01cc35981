"""Write docs/options.md from the declarations in zibai/config/options.py: ``python docs/generate_options.py``.

A test compares the two, so a changed option that is not written out is noticed.
"""

from pathlib import Path

from zibai.cli.texts import options_markdown

if __name__ == "__main__":
    Path(__file__).with_name("options.md").write_text(options_markdown(), encoding="utf-8", newline="\n")

"""Write zibai/config/keywords.py from the declarations of options: ``python docs/generate_keywords.py``.

A test compares the two, so a changed option that is not written out is noticed.
"""

from pathlib import Path

from zibai.cli.texts import keywords_source

TARGET = Path(__file__).resolve().parent.parent / "zibai" / "config" / "keywords.py"

if __name__ == "__main__":
    TARGET.write_text(keywords_source(), encoding="utf-8", newline="\n")

"""
What the documents have from the code: the tables of settings, metrics and their labels, the example file.

    python docs/tables.py

Decides where each stands; ``tests/test_docs.py`` checks that each is up to date.
"""

from __future__ import annotations

import re
from pathlib import Path

from dotproxy.config.describe import example_file, options_table
from dotproxy.telemetry.labels import labels_table
from dotproxy.telemetry.metrics import metrics_table

TOP = Path(__file__).parent.parent


def with_table(page: str, table: str) -> str:
    """
    Return a page in which ``table`` stands in the place of the table with the same first line.
    """
    header = table.splitlines()[0]
    replaced, count = re.subn(
        rf"^{re.escape(header)}\n(?:\|.*\n)+", lambda _: table.rstrip() + "\n", page, flags=re.MULTILINE
    )
    assert count == 1, f"no table that begins with {header}"
    return replaced


def main() -> None:
    """
    Write them.
    """
    tables = {"configuration.md": [options_table()], "metrics.md": [metrics_table(), labels_table()]}
    for name, of_page in tables.items():
        path = TOP / "docs" / name
        page = path.read_text("utf-8")
        for table in of_page:
            page = with_table(page, table)
        path.write_text(page, "utf-8")
    (TOP / "deploy" / "dotproxy.toml").write_text(example_file(), "utf-8")


if __name__ == "__main__":
    main()

"""The public API changes only on purpose: it is written down in api.txt."""

import difflib

from tests.support.api import SNAPSHOT, text


def test_names_signatures_and_options_are_those_written_down() -> None:
    written = SNAPSHOT.read_text(encoding="utf-8")
    changes = difflib.unified_diff(
        written.splitlines(), text().splitlines(), "tests/unit/api.txt", "now", lineterm="", n=0
    )
    shown = "\n".join(changes)
    assert not shown, f"what users rely on changed. Fix: if it is meant, make api\n{shown}"

"""Tables of what tools/gpu_campaign.py found.

python tools/gpu_report.py DIR                       print all of it
python tools/gpu_report.py DIR --docs docs/cuda.md   put the times between the page's two marks
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from campaign import tables
from campaign.record import Campaign, CampaignError, load, write_atomically

BEGIN, END = "<!-- times: by tools/gpu_report.py -->", "<!-- /times -->"
WRONG = 2


def main(arguments: list[str] | None = None) -> int:
    """Print the report, or write it into a page."""
    parser = argparse.ArgumentParser(prog="gpu_report", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="DIR", help="where gpu_campaign.py wrote")
    parser.add_argument("--docs", type=Path, metavar="FILE", help="the page to put the times into")
    options = parser.parse_args(arguments)
    try:
        found = load(options.folder)
        if options.docs is None:
            print(tables.page(found), end="")
        else:
            put(found, options.docs)
            print(f"{options.docs}: written")
    except CampaignError as error:
        print(f"gpu_report: {error}", file=sys.stderr)
        return WRONG
    return 0


def put(campaign: Campaign, page: Path) -> None:
    """Replace what is between the marks of a page.

    Raises:
        CampaignError: it is a rehearsal, or the page can't be read or hasn't the marks.
    """
    if campaign.rehearsal:
        raise CampaignError(
            f"--docs {page}: this was a rehearsal, which measures nothing.\n"
            "Fix: make gpu on a machine with a GPU"
        )
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        raise CampaignError(f"--docs {page}: {error.strerror}.\nFix: --docs docs/cuda.md") from None
    write_atomically(page, with_block(text, tables.block(campaign), page))


def with_block(text: str, block: str, page: Path) -> str:
    """The text of a page with another block between its marks.

    Raises:
        CampaignError: it hasn't one of each, in order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in after or END in after:
        raise CampaignError(
            f"--docs {page}: expected one line '{BEGIN}' and one '{END}' after it.\n"
            "Fix: put them where the tables belong"
        )
    return f"{before}{BEGIN}\n{block}\n{END}{after}"


if __name__ == "__main__":
    sys.exit(main())

"""A study's result as one HTML file that holds everything it shows."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from convscope.report.build import environment
from convscope.report.embed import embed_sheet

if TYPE_CHECKING:
    from convscope.studies.result import Result

ROWS = 500  # of a table that a page shows; its file holds all
FOLDED = 40  # rows beyond which a table waits to be opened


def html(found: Result) -> str:
    """The page."""
    figures = [(figure.name, figure.caption, embed_sheet(found.picture(figure.name))) for figure in found.figures]
    return (
        environment()
        .get_template("study.html")
        .render(found=found, figures=figures, shown=ROWS, folded=FOLDED, date=datetime.now().astimezone())
    )

"""Reports: one self-contained HTML page, readable offline, on a phone, in light and dark."""

from honne.report.charts import bars, confusion, intervals, keys, line_chart, reliability
from honne.report.page import Html, Page, card, code, columns, facts, figures, html, paragraph, picture, table

__all__ = [
    "Html",
    "Page",
    "bars",
    "card",
    "code",
    "columns",
    "confusion",
    "facts",
    "figures",
    "html",
    "intervals",
    "keys",
    "line_chart",
    "paragraph",
    "picture",
    "reliability",
    "table",
]

"""Evaluations and comparisons in words: tables for the terminal, names and warnings for the picture too."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from honne.console import table
from honne.metrics.resampling import Estimate

FEW_CLUSTERS = 20
ACRONYMS = frozenset({"f1", "nll", "ece", "kl", "js", "emd", "ccc", "rmse", "au", "auc", "mtl"})
UNIT_COLUMNS = ("f1", "balanced_accuracy", "auc")  # what fits on 80 columns; the file has them all


def name_of(metric: str) -> str:
    """A measure's name for people: "macro_f1" is "macro F1"."""
    return " ".join(word.upper() if word in ACRONYMS else word for word in metric.split("_"))


def shown(entry: dict[str, float | None], digits: int = 3) -> str:
    """A figure with its interval, like "0.871 [0.859, 0.882]"; "-" where it is undefined."""
    value, low, high = entry["value"], entry["low"], entry["high"]
    return "-" if value is None or low is None or high is None else f"{Estimate(value, low, high):.{digits}f}"


def warnings_of(result: dict[str, Any]) -> list[str]:
    """What a reader of an evaluation, or of a comparison, must not overlook."""
    found = []
    if result["in_sample"]:
        found.append("IN SAMPLE: these rows were trained on; the figures say nothing about new faces.")
    if result["selected_on"]:
        found.append("These rows served selection and calibration; expect somewhat less on new faces.")
    if result["resampled"] != "row" and result["clusters"] < FEW_CLUSTERS:
        found.append(f"Only {resampled(result)}: the intervals are too narrow.")
    return found + result["notes"]


def resampled(result: dict[str, Any]) -> str:
    """What the intervals resample, e.g. "118 subjects"."""
    return f"{result['clusters']:,} {result['resampled']}{'' if result['clusters'] == 1 else 's'}"


def evaluation_tables(result: dict[str, Any]) -> list[str | Table]:
    """Warnings, the figures with their intervals, and the tables by class and by action unit."""
    title = f"{result['model']['name']} on {result['data']['name']}, {result['split']}: {result['rows']:,} rows"
    figures = ((name_of(name), shown(entry)) for name, entry in result["metrics"].items())
    overall = _plain(title, ("measure", f"value [95 % over {resampled(result)}]"), figures)
    parts: list[str | Table] = [*_warnings(result), overall]
    if "classes" in result:
        columns = ("rows", "precision", "recall", "f1")
        parts.append(_by("class", columns, result["classes"]))
    if "units" in result:
        parts.append(_by("unit", ("rows", "present", *UNIT_COLUMNS), result["units"]))
    return parts


def comparison_tables(result: dict[str, Any]) -> list[str | Table]:
    """Differences with interval and p, and McNemar's test."""
    title = (
        f"{result['b']['name']} (B) minus {result['a']['name']} (A) on {result['data']['name']}, {result['split']}:"
        f" {result['rows']:,} rows"
    )
    columns = ("measure", "A", "B", f"B - A [95 % over {resampled(result)}]", "p", "better")
    rows = (
        (
            name_of(name),
            f"{line['a']:.3f}",
            f"{line['b']:.3f}",
            shown(line["difference"]),
            f"{line['p']:.3f}",
            line["better"],
        )
        for name, line in result["metrics"].items()
    )
    parts: list[str | Table] = [*_warnings(result), _plain(title, columns, rows)]
    if test := result.get("mcnemar"):
        parts.append(
            f"McNemar's exact test of accuracy: right only in A {test['a_only']:,}, only in B {test['b_only']:,},"
            f" p = {test['p']:.3g} (takes rows as independent)"
        )
    return parts


def _warnings(result: dict[str, Any]) -> list[str]:
    return [f"[bold yellow]{escape(text)}[/]" for text in warnings_of(result)]


def _by(kind: str, columns: tuple[str, ...], lines: dict[str, dict[str, Any]]) -> Table:
    rows = ([name, *(_cell(line[column]) for column in columns)] for name, line in lines.items())
    return _plain(f"By {kind}", (kind, *map(name_of, columns)), rows)


def _cell(value: Any) -> str:
    return shown(value, digits=2) if isinstance(value, dict) else f"{value:,}"


def _plain(title: str, columns: tuple[str, ...], rows: Any) -> Table:
    made = table(escape(title), columns, rows)
    made.box, made.collapse_padding, made.pad_edge = box.SIMPLE_HEAD, True, False
    return made

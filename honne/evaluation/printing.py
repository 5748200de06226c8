"""Evaluations and comparisons in words: tables for the terminal, names and warnings for the picture too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from honne.console import table
from honne.evaluation.missing import missing_table
from honne.explain.checking import ORDERS, STAGES
from honne.explain.measuring import NULLS
from honne.metrics.resampling import Estimate

FEW_CLUSTERS = 20
ACRONYMS = frozenset(
    {
        "f1",
        "nll",
        "ece",
        "kl",
        "js",
        "emd",
        "ccc",
        "rmse",
        "au",
        "auc",
        "mtl",
        "att",
        "cam",
        "cos",
        "abaw",
        "expr",
        "va",
        "mae",
    }
)
CURVES, RANKS, AGREEMENT = ("deletion", "insertion"), ("cam_rank", "att_rank"), ("att_cos", "cam_cos")
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
        found.append("IN SAMPLE: these rows were trained on; the figures say nothing about new people.")
    if result["selected_on"]:
        found.append("These rows served selection and calibration; expect somewhat less on new people.")
    if result["metrics"] and result["resampled"] != "row" and result["clusters"] < FEW_CLUSTERS:
        found.append(f"Only {resampled(result)}: the intervals are too narrow.")
    return found + result["notes"]


def resampled(result: dict[str, Any]) -> str:
    """What the intervals resample, e.g. "118 subjects"."""
    return f"{result['clusters']:,} {result['resampled']}{'' if result['clusters'] == 1 else 's'}"


def evaluation_tables(result: dict[str, Any]) -> list[str | Table]:
    """Warnings, the figures with their intervals, and the tables by class and by action unit."""
    title = f"{result['model']['name']} on {result['data']['name']}, {result['split']}: {result['rows']:,} rows"
    overall = _plain(title, *_beside_published(f"value [95 % over {resampled(result)}]", result["metrics"], result))
    parts: list[str | Table] = [*_warnings(result), overall if result["metrics"] else title]
    parts += challenge_tables(result) + smoothing_tables(result) + missing_tables(result)
    if "classes" in result:
        columns = ("rows", "precision", "recall", "f1")
        parts.append(_by("class", columns, result["classes"]))
    if "units" in result:
        parts.append(_by("unit", ("rows", "present", *UNIT_COLUMNS), result["units"]))
    if "emotions" in result:
        parts.append(_emotions(result["emotions"]))
    return parts + explanation_tables(result)


def challenge_tables(result: dict[str, Any]) -> list[str | Table]:
    """Scores of an ABAW challenge, by the rows that it counts."""
    found = result.get("abaw", {"measures": {}})
    if not found["measures"]:
        return []
    counts = ", ".join(f"{rows:,} {task}" for task, rows in found["rows"].items())
    rows = ([name_of(name), shown(entry)] for name, entry in found["measures"].items())
    return [_plain(f"ABAW {found['edition']}; rows: {counts}", ("score", "value [95 %]"), rows)]


def missing_tables(result: dict[str, Any]) -> list[str | Table]:
    """Every measure and its drop when modalities or steps are missing."""
    if "missing" not in result:
        return []
    found = result["missing"]
    heads, lines = missing_table(found)
    heads = [name_of(head) if head in found["measures"] else head for head in heads]
    return [_plain(f"What is missing ({found['as']}), and what that costs [95 %]", tuple(heads), lines)]


def smoothing_tables(result: dict[str, Any]) -> list[str | Table]:
    """Every measure without and with smoothing."""
    found = result.get("smoothing", {"measures": {}})
    if not found["measures"]:
        return []
    rows = (
        [name_of(name), *(f"{line[key]:.3f}" for key in ("without", "with")), shown(line["difference"]), line["better"]]
        for name, line in found["measures"].items()
    )
    columns = ("measure", "without", found["smooth"], "difference [95 %]", "better")
    return [_plain("Smoothed along the videos", columns, rows)]


def _beside_published(
    heading: str, metrics: dict[str, Any], result: dict[str, Any], nulls: Sequence[str] = ()
) -> tuple[tuple[str, ...], list[list[str]]]:
    """Columns and rows of figures, beside null baselines and the published figures that there are."""
    published = {name: f"{value:.3f}" for name, value in result.get("published", {}).items() if name in metrics}
    columns = ("measure", heading, *nulls, *(["published"] if published else []))
    rows = [
        [name_of(name), shown(entry)]
        + [f"{entry['nulls'][null]['value']:.3f}" if null in entry["nulls"] else "-" for null in nulls]
        + ([published.get(name, "")] if published else [])
        for name, entry in metrics.items()
    ]
    return columns, rows


def explanation_tables(result: dict[str, Any]) -> list[str | Table]:
    """Agreement beside what maps get that know nothing of the face, by class, and the checks that were made."""
    found = result.get("explanations")
    if not found:
        return []
    title = (
        f"Explanations: attention of layer {', '.join(found['layers'])} and {found['kind']} against"
        f" {found['cue'].replace('_', ' ')} ({found['codebook']}), mean over classes; {found['faces']:,} faces"
    )
    parts: list[str | Table] = [_plain(title, *_beside_published("value [95 %]", found["measures"], result, NULLS))]
    columns = [name for name in found["measures"] if name in AGREEMENT or name.startswith("att_cos_")]
    rows = (
        [name, *(_with_interval(each, name) for name in columns), *(_bare(each, f"{null}_cos") for null in NULLS)]
        for name, each in found["classes"].items()
    )
    parts.append(_plain("Explanations by class", ("class", *map(name_of, columns), *NULLS), rows))
    if checks := found.get("checks"):
        faces = f"{found['checked_faces']:,} faces, map of the class that is predicted"
        curves = ([name, *(_with_interval(checks, f"{order}_{name}") for order in ORDERS)] for name in CURVES)
        parts.append(_plain(f"Area under the curve by order of the pixels; {faces}", ("curve", *ORDERS), curves))
        stages = (
            [name_of(stage)]
            + [_with_interval(checks, f"{stage}_{name}") for name in RANKS]
            + [_bare(checks, f"{stage}_{name}") for name in AGREEMENT]
            for stage in ("trained", *STAGES)
        )
        heads = ("weights drawn anew", *map(name_of, (*RANKS, *AGREEMENT)))
        parts.append(_plain(f"Rank correlation with the map as trained, agreement left; {faces}", heads, stages))
    return parts


def _with_interval(figures: dict[str, Any], name: str) -> str:
    return shown(figures[name], digits=2) if name in figures else "-"


def _bare(figures: dict[str, Any], name: str) -> str:
    return f"{figures[name]['value']:.2f}" if name in figures else "-"


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


def _emotions(lines: dict[str, dict[str, Any]]) -> Table:
    """`majority` is the accuracy of the commoner answer, which the accuracy has to beat; the file has all intervals."""
    rows = (
        [name, f"{line['rows']:,}", f"{line['present']:,}", shown(line["accuracy"], digits=2)]
        + [_share(line[column]) for column in ("accuracy_majority", "balanced_accuracy", "f1", "auc")]
        for name, line in lines.items()
    )
    columns = ("emotion", "rows", "present", "accuracy", "majority", "balanced", "F1", "AUC")
    return _plain("By emotion", columns, rows)


def _share(entry: dict[str, float | None]) -> str:
    return "-" if entry["value"] is None else f"{entry['value']:.2f}"


def _by(kind: str, columns: tuple[str, ...], lines: dict[str, dict[str, Any]]) -> Table:
    rows = ([name, *(_cell(line[column]) for column in columns)] for name, line in lines.items())
    return _plain(f"By {kind}", (kind, *map(name_of, columns)), rows)


def _cell(value: Any) -> str:
    return shown(value, digits=2) if isinstance(value, dict) else f"{value:,}"


def _plain(title: str, columns: tuple[str, ...], rows: Any) -> Table:
    made = table(escape(title), columns, rows)
    made.box, made.collapse_padding, made.pad_edge = box.SIMPLE_HEAD, True, False
    return made

"""The bias audit on the page, and its main figures in a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from honne.audit.bias import Bias
from honne.audit.bias_answers import BACKBONE, EMOTION
from honne.audit.bias_figures import CURED, MODEL, PLAIN
from honne.audit.bias_strata_page import strata_section
from honne.audit.figures import Figure
from honne.evaluation.printing import FEW_CLUSTERS, shown
from honne.report import (
    Html,
    Page,
    card,
    columns,
    confusion,
    facts,
    figures,
    html,
    intervals,
    keys,
    paragraph,
    table,
)

DIFFERENCE = "difference"
WHERE = {"out": "out of distribution", "seen": "in distribution", "all": "all test rows"}
MAIN = (
    ("accuracy, out of distribution", "out", "accuracy"),
    ("mean over expressions", "out", "macro"),
    ("worst stratum", "out", "worst_stratum"),
    ("worst cell", "out", "worst_cell"),
    ("accuracy, in distribution", "seen", "accuracy"),
    ("mean over expressions, in", "seen", "macro"),
    ("worst stratum, in", "seen", "worst_stratum"),
    ("accuracy, all test rows", "all", "accuracy"),
)
"""Figure, part of the test rows, and what of it."""
READING = {
    "accuracy, out of distribution": "faces of a stratum with an expression that training did not show there",
    "mean over expressions": "every expression counts alike",
    "worst stratum": "accuracy in the stratum where it is lowest",
    "worst cell": "the same for one stratum with one expression",
    "accuracy, in distribution": "faces of a stratum with an expression that training did show there",
    "stratum read from backbone features": "by a linear probe, on people it was not fitted on; balanced accuracy",
    "stratum read from emotion features": "the same from the features that decide",
    "strata of one mind": "share of the faces to which every stratum gives the same expression",
}
"""What the main figures mean."""


def _sides(found: Bias) -> tuple[str, ...]:
    """Arms, and the difference where there are two."""
    arms = tuple(found.result["arms"])
    return (*arms, DIFFERENCE) if len(arms) > 1 else arms


def _titles(found: Bias) -> dict[str, str]:
    """What the sides are called."""
    return {
        side: f"{side} ({entry['recipe']})" if "recipe" in entry else str(entry["name"])
        for side, entry in found.result["arms"].items()
    } | {DIFFERENCE: f"{CURED} - {PLAIN}"}


def main_figures(found: Bias) -> Iterator[tuple[str, dict[str, Figure]]]:
    """Title and side -> figure, only those that there are."""
    parts, result = found.result["parts"], found.result
    for title, part, name in MAIN:
        if part in parts and not (part == "all" and len(parts) > 1):
            yield title, parts[part][name]
    read = result.get("probe", {}).get("features", {})
    for name in (BACKBONE, EMOTION):
        sides = {side: read[f"{side} {name}"]["pooled"] for side in result["arms"] if f"{side} {name}" in read}
        if difference := read.get(f"{CURED} {name}", {}).get(DIFFERENCE):
            sides[DIFFERENCE] = difference
        if sides:
            yield f"stratum read from {name}", sides
    if say := result["strata_say"]:
        yield "strata of one mind", {side: entry["unanimous"] for side, entry in say.items()}


def bias_headline(found: Bias, digits: int = 3) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and rows of the table of main figures: a column for each arm, and the difference."""
    titles, sides = _titles(found), _sides(found)
    rows: list[tuple[str, ...]] = []
    for title, figures_ in main_figures(found):
        rows.append((title, *(shown(figures_[side], digits) if side in figures_ else "-" for side in sides)))
    return ("", *(titles[side] for side in sides)), rows


def add_bias(page: Page, found: Bias, count: int) -> None:
    """Add the sections of the bias audit.

    Args:
        page: to add to.
        found: by the audit.
        count: faces in the gallery.
    """
    result = found.result
    notes = [paragraph(note, "note") for note in result["notes"]]
    page.section("Bias: the main figures", _numbers(found), *notes, *_main(found))
    page.section("Every stratum with every expression", *_grids(found))
    page.section("By expression and by stratum", *_by_name(found))
    if "probe" in result:
        page.section("What the features tell of the stratum", *_probe(found))
    if result["strata_say"]:
        page.section("What each stratum says", *strata_section(found, count))
    page.section("Folds" if len(result["folds"]) > 1 else "The rows", *_folds(found))
    page.section("What was run for bias", card(facts(_provenance(found))))


def _percent(entry: Mapping[str, float | None], digits: int = 1) -> str:
    return "-" if entry["value"] is None else f"{entry['value']:.{digits}%}"


def _numbers(found: Bias) -> Html:
    parts = found.result["parts"]
    entries: list[tuple[str, str]] = []
    for name, text in (("out", "out of distribution"), ("seen", "in distribution"), ("all", "on all test rows")):
        if name not in parts or (name == "all" and entries):
            continue
        accuracy = parts[name]["accuracy"]
        if DIFFERENCE in accuracy:
            moved = accuracy[DIFFERENCE]
            both = " → ".join(_percent(accuracy[arm], 0).removesuffix("%") for arm in (PLAIN, CURED))
            entries.append((f"{both} %", f"accuracy {text}, plain → cured"))
            if name == "out" and moved["value"] is not None:
                span = f"[{100 * moved['low']:+.1f}, {100 * moved['high']:+.1f}]"
                entries.append(
                    (f"{100 * moved['value']:+.1f}", f"points out of distribution, cured minus plain {span}")
                )
        else:
            entries.append((_percent(accuracy[MODEL]), f"accuracy {text}"))
    for name, text in ((EMOTION, "from the features that decide"), (BACKBONE, "from backbone features")):
        probe = found.result.get("probe", {})
        side = next((side for side in (CURED, MODEL) if f"{side} {name}" in probe.get("features", {})), None)
        if side and len(entries) < 4:
            value = probe["features"][f"{side} {name}"]["pooled"]
            entries.append((_percent(value), f"of the strata are read {text}; chance is {probe['chance']:.0%}"))
    return figures(entries)


def _main(found: Bias) -> Iterator[Html]:
    sides, titles = _sides(found), _titles(found)
    arms = [side for side in sides if side != DIFFERENCE]
    rows = []
    for title, entries in main_figures(found):
        given = [entries[arm] for arm in arms if arm in entries]
        drawn = _whiskers(given) if len(given) == len(arms) else ""
        cells = [shown(entries[side]) if side in entries else "-" for side in sides]
        rows.append([_meaning(title), *cells[: len(arms)], drawn, *cells[len(arms) :]])
    head = ["", *(titles[arm] for arm in arms), "", *([titles[DIFFERENCE]] if DIFFERENCE in sides else [])]
    if len(arms) > 1:
        yield keys([titles[arm] for arm in arms])
    yield table(head, rows)
    whole = found.result["parts"]["all"]
    resampled = f"{whole['clusters']:,} {found.result['resampled']}s"
    narrow = " They are few: the intervals are too narrow." if whole["clusters"] < FEW_CLUSTERS else ""
    paired = " The difference is paired: both are measured on the same faces." if len(arms) > 1 else ""
    seeds = found.result.get("seeds", 1)
    averaged = f" Accuracies are means over {seeds} training runs each." if seeds > 1 else ""
    yield paragraph(f"In brackets 95 % bootstrap intervals over {resampled}.{narrow}{paired}{averaged}", "quiet")


def _whiskers(entries: Sequence[Figure]) -> str:
    """On a scale from 0 to 1; nothing where one is undefined."""
    known = [{name: value for name, value in entry.items() if value is not None} for entry in entries]
    return intervals(known, (0, 1)) if known == list(entries) else ""


def _meaning(title: str) -> Html:
    text = READING.get(title)
    small = f'<br><span class="range">{html(text)}</span>' if text else ""
    return Html(f'<div class="meaning">{html(title)}{small}</div>')


def _grids(found: Bias) -> Iterator[Html]:
    result, titles = found.result, _titles(found)
    several = len(result["folds"]) > 1 or len(result["arms"]) > 1
    yield paragraph(
        "Share of the faces named rightly, in per cent, by stratum (down) and expression (across). "
        + (
            "Above over the folds that hold a cell out, below over those that train on it."
            if several
            else "Framed are the cells that training lacks."
        )
        + " Point at a cell for its interval and rows."
    )
    held = {(line["stratum"], line["expression"]) for line in result["splits"][0]["cells"] if line["held_out"]}
    for part in ("out", "seen") if several else ("all",):
        if part in result["parts"]:
            framed = set() if several else held
            grids = [
                card(
                    _grid(result["parts"][part]["cells"], arm, result["strata"], result["classes"], framed),
                    title=f"{titles[arm]}: {WHERE[part]}" if several else titles[arm],
                )
                for arm in result["arms"]
            ]
            yield columns(*grids, least=420)


def _grid(
    entries: Sequence[Mapping[str, Any]],
    arm: str,
    strata: Sequence[str],
    classes: Sequence[str],
    framed: set[tuple[str, str]],
) -> Html:
    """Accuracy in every cell as a coloured table."""
    known = {(entry["stratum"], entry["expression"]): entry for entry in entries}
    top = "".join(f'<th class="top" title="{html(name)}">{html(name[:4])}</th>' for name in classes)
    lines = []
    for stratum in strata:
        drawn = []
        for name in classes:
            entry = known.get((stratum, name))
            if entry is None or entry[arm]["value"] is None:
                drawn.append('<td style="--share:0"></td>')
                continue
            share = 100 * entry[arm]["value"]
            frame = ";box-shadow:inset 0 0 0 2px var(--one)" if (stratum, name) in framed else ""
            kind = ' class="full"' if share > 60 else ""
            said = html(f"{stratum}, {name}: {shown(entry[arm])}, {entry['rows']:,} rows")
            drawn.append(f'<td{kind} style="--share:{share:.0f}{frame}" title="{said}">{share:.0f}</td>')
        lines.append(f'<tr><th class="side">{html(stratum)}</th>{"".join(drawn)}</tr>')
    head = f'<tr><th class="side"></th>{top}</tr>'
    return Html(f'<table class="confusion"><thead>{head}</thead><tbody>{"".join(lines)}</tbody></table>')


def _by_name(found: Bias) -> Iterator[Html]:
    result, titles = found.result, _titles(found)
    arms = list(result["arms"])
    for part in ("out", "seen", "all"):
        entry = result["parts"].get(part)
        if not entry or (part == "all" and len(result["parts"]) > 1):
            continue
        head = ["", "rows", *(titles[arm] for arm in arms), "", *([titles[DIFFERENCE]] if len(arms) > 1 else [])]
        lines = [*entry["expressions"].items(), ("All", entry["accuracy"] | {"rows": entry["rows"]})]
        inside = table(head, [_line(name, line, arms) for name, line in lines], numbers=[1])
        strata = [_line(name, line, arms) for name, line in entry["strata"].items()]
        inside = Html(inside + table(head, strata, numbers=[1]))
        matrices = [card(confusion(entry["confusion"][arm], result["classes"]), title=titles[arm]) for arm in arms]
        drawn = paragraph("Label (down) and prediction (across), per cent:", "quiet") + columns(*matrices, least=420)
        opened = " open" if part == "out" else ""
        yield Html(
            f"<details{opened}><summary><b>{html(WHERE[part].capitalize())}</b></summary>{inside}{drawn}</details>"
        )


def _line(name: str, entry: Mapping[str, Any], arms: Sequence[str]) -> list[Any]:
    given = [entry[arm] for arm in arms]
    drawn = _whiskers(given)
    difference = [shown(entry[DIFFERENCE])] if DIFFERENCE in entry else []
    return [name, f"{entry['rows']:,}", *map(shown, given), drawn, *difference]


def _probe(found: Bias) -> Iterator[Html]:
    probe, titles = found.result["probe"], _titles(found)
    yield paragraph(
        "A linear rule is fitted to tell the stratum from the pooled features, and measured on people it was not "
        "fitted on. Expressions and strata may go together in these rows, so every stratum with every expression "
        "counts alike; what the expression alone still gives away stands in the first line. Balanced accuracy; chance "
        f"is {probe['chance']:.0%}. A cure need not bring it to chance: a network may know the stratum and not use it."
    )
    rows = []
    for name, entry in probe["features"].items():
        arm, _, kind = name.partition(" ")
        title = f"{titles[arm]}: {kind}" if arm in found.result["arms"] else name
        folds = ", ".join("-" if each["value"] is None else f"{each['value']:.2f}" for each in entry["folds"])
        drawn = _whiskers([entry["pooled"]])
        difference = shown(entry[DIFFERENCE]) if DIFFERENCE in entry else ""
        rows.append([title, shown(entry["pooled"]), drawn, *([folds, difference] if len(titles) > 2 else [])])
    several = ["each fold", "minus plain"] if len(titles) > 2 else []
    yield table(["read from", "balanced accuracy", "", *several], rows)


def _folds(found: Bias) -> Iterator[Html]:
    result, titles = found.result, _titles(found)
    arms = list(result["arms"])
    if len(result["folds"]) > 1 or len(arms) > 1:
        yield paragraph("Accuracy of every training run, in per cent, seeds side by side.")
        head = ["fold", "rows out", *(f"{titles[arm]}, out" for arm in arms), "rows in"]
        rows = [
            [each["fold"], *(cell for part in ("out", "seen") for cell in _runs(each, part, arms))]
            for each in result["folds"]
        ]
        yield table([*head, *(f"{titles[arm]}, in" for arm in arms)], rows)
    yield paragraph("Rows of each stratum with each expression in training, validation and test.", "quiet")
    for each in result["splits"]:
        lines = [
            [line["stratum"], line["expression"], "held out" if line["held_out"] else ""]
            + [f"{line[split]:,}" for split in ("train", "valid", "test")]
            for line in each["cells"]
        ]
        made = table(["stratum", "expression", "", "train", "valid", "test"], lines, numbers=[3, 4, 5])
        title = f"fold {each['fold']}" if len(result["splits"]) > 1 else "counts"
        yield Html(f"<details><summary>{title}</summary>{made}</details>")


def _runs(fold: Mapping[str, Any], part: str, arms: Sequence[str]) -> Iterator[str]:
    yield f"{fold['rows'][part]:,}"
    for arm in arms:
        yield " ".join(f"{100 * value:.1f}" for value in fold[arm].get(part, ())) or "-"


def _provenance(found: Bias) -> dict[str, Any]:
    result = found.result
    told: dict[str, Any] = {}
    for arm, entry in result["arms"].items():
        if "recipe" in entry:
            given = ", ".join(f"{name} {value}" for name, value in entry["overrides"].items())
            told[arm] = f"recipe {entry['recipe']}{'; ' + given if given else ''}"
        else:
            told[arm] = f"{entry['name']}, method {entry['method']}, sha256 {entry['sha256']}"
    told["data"] = f"{result['data']['name']}, manifest sha256 {result['data']['sha256']}; split {result['split']}"
    if "bias" in result:
        told["bias"] = ", ".join(f"{name} {value}" for name, value in result["bias"].items())
        told["seeds"] = result["seeds"]
    told["settings"] = ", ".join(f"{name} {value}" for name, value in result["settings"].items())
    return told | {"honne": result["honne"]}

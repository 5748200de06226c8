"""On the page of the bias audit: what the interventions on the strata say, and where they say different things."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

from PIL import Image

from honne.audit.bias import Bias
from honne.audit.bias_answers import Answers, Rows
from honne.audit.bias_figures import disagreement
from honne.audit.figures import Figure
from honne.evaluation.printing import shown
from honne.report import Html, bars, card, columns, html, paragraph, picture, table

THUMBNAIL = 208
"""Largest side of an embedded face, px; it is shown at half of it."""


def strata_section(found: Bias, count: int) -> Iterator[Html]:
    """Tables of every arm that intervenes, and the faces on which its strata disagree most."""
    yield paragraph(
        "At inference the model sets the context of a face to that of every stratum in turn, and averages what "
        "follows. Where all say the same, the context does not matter; where they differ, the decision hangs on it."
    )
    for arm, entry in found.result["strata_say"].items():
        yield from _tables(found, arm, entry)
        yield from _gallery(found, arm, count)


def _tables(found: Bias, arm: str, entry: dict[str, Any]) -> Iterator[Html]:
    names, classes = entry["names"], found.result["classes"]
    where = {"out": "accuracy, out", "seen": "accuracy, in", "all": "accuracy, all"}
    given: dict[str, list[Figure]] = entry["accuracy"]
    rows = [[name, *(shown(given[part][place]) for part in given)] for place, name in enumerate(names)]
    averaged = {part: found.result["parts"][part]["accuracy"][arm] for part in given}
    rows.append(["averaged over all", *(shown(averaged[part]) for part in given)])
    yield table(["context of", *(where[part] for part in given)], rows)
    taken = [bars(classes, [shares]) for shares in entry["shares"]]
    yield paragraph("Share of the test faces to which each stratum gives each expression:")
    yield columns(*(card(drawn, title=name) for name, drawn in zip(names, taken, strict=True)), least=280)
    yield paragraph(
        f"All strata name the same expression on {_share(entry['unanimous'])} of the faces. From one stratum to "
        f"another {_share(entry['change'])} of the probability moves on average (total variation)."
    )
    if len(names) > 2:
        pairs = [
            [" and ".join(each["strata"]), f"{each['agreement']:.3f}", f"{each['change']:.3f}"]
            for each in entry["pairs"]
        ]
        yield table(["pair", "same expression", "probability moved"], pairs, numbers=[1, 2])


def _share(entry: Figure) -> str:
    value, low, high = entry["value"], entry["low"], entry["high"]
    if value is None or low is None or high is None:
        return "-"
    return f"{value:.1%} [{low:.1%}, {high:.1%}]"


def _gallery(found: Bias, arm: str, count: int) -> Iterator[Html]:
    """Faces of the first training run of every fold, those on which strata differ most."""
    ranked: list[tuple[float, Rows, Answers, int]] = []
    for each in found.folds:
        answer = each.answers[arm][0]
        assert answer.strata is not None
        moved = disagreement(answer.strata)
        top = moved.argsort(descending=True, stable=True)[:count].tolist()
        ranked += [(float(moved[row]), each.rows, answer, row) for row in top]
    ranked.sort(key=lambda entry: -entry[0])
    once: dict[str, Html] = {}
    for apart, rows, answer, row in ranked:
        name = str(rows.data.rows["id"].iat[int(rows.rows[row])])
        if name not in once and len(once) < count:
            once[name] = _case(found.result["classes"], name, apart, rows, answer, row)
    if once:
        yield paragraph("The faces on which the strata differ most, with what each stratum makes of them:")
        yield columns(*once.values(), least=420, stretch=True)


def _case(classes: list[str], name: str, apart: float, rows: Rows, answer: Answers, row: int) -> Html:
    assert answer.strata is not None
    label, stratum = classes[int(rows.label[row])], rows.strata[int(rows.stratum[row])]
    given = answer.strata[row]
    lines = [
        (f"{context}: {classes[int(each.argmax())]}", float(each.max()))
        for context, each in zip(answer.names, given, strict=True)
    ]
    lines.append((f"averaged: {classes[int(answer.predicted[row])]}", float(answer.probabilities[row].max())))
    drawn = bars([text for text, _ in lines], [[value for _, value in lines]])
    where = "out of distribution" if bool(rows.out[row]) else "in distribution" if bool(rows.seen[row]) else ""
    said = ", ".join(filter(None, (f"of {stratum}", where, f"{apart:.0%} of the probability moves")))
    text = f'<h3>{html(label)}</h3><p class="quiet">{html(said)}<br>{html(name)}</p>'
    return card(Html(f'<div class="case">{_thumbnail(rows, row, label)}<div>{text}{drawn}</div></div>'))


def _thumbnail(rows: Rows, row: int, label: str) -> Html:
    if "image" not in rows.data.rows:
        return Html("<span></span>")
    image = Image.open(io.BytesIO(rows.data.image_bytes(int(rows.rows[row]))))
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return picture(image, f"face labelled {label}")

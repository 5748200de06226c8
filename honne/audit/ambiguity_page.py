"""The ambiguity audit on the page, and its main figures in a table."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from honne.audit.ambiguity import Ambiguity
from honne.audit.correcting import CHANGES
from honne.audit.faces import Faces
from honne.audit.figures import AMBIGUOUS, CLEAR
from honne.batch import NOT_LABELLED
from honne.evaluation.printing import FEW_CLUSTERS, resampled, shown
from honne.report import (
    Html,
    Page,
    bars,
    card,
    code,
    columns,
    confusion,
    facts,
    figures,
    html,
    intervals,
    keys,
    line_chart,
    paragraph,
    picture,
    table,
)

THUMBNAIL = 208
"""Largest side of an embedded face, px; it is shown at half of it."""
BARS = 4
"""Classes shown of each face."""

SUMMARY: dict[str, tuple[str, ...]] = {
    "uncertainty, mean": ("uncertainty", "mean"),
    "labels likely wrong, share": ("labels", "share"),
    "uncertainty ~ spread of votes": ("votes", "order", "uncertainty_entropy"),
    "confidence ~ spread of votes": ("votes", "order", "confidence_entropy"),
    "mined to votes, EMD": ("votes", "others", "mined", "emd"),
    "model to votes, EMD": ("votes", "others", "softmax", "emd"),
    "mined minus model, votes": ("votes", "others", "difference", "emd"),
    "mined to true mixture, EMD": ("truth", "others", "mined", "emd"),
    "model to true mixture, EMD": ("truth", "others", "softmax", "emd"),
    "mined minus model, mixture": ("truth", "others", "difference", "emd"),
    "ambiguous over clear, AUC": ("truth", "auc_uncertainty"),
    "wrong over right labels, AUC": ("truth", "labels", "auc"),
    "truly wrong among likely": ("truth", "labels", "precision"),
    "found of the truly wrong": ("truth", "labels", "recall"),
    "made wrong over right, AUC": ("noise", "auc"),
    "the same by confidence, AUC": ("noise", "auc_confidence"),
    "made wrong among likely": ("noise", "precision"),
    "found of those made wrong": ("noise", "recall"),
}
"""Figure -> where it stands among the figures of a split."""


MEASURES = {
    "kl": "Kullback-Leibler ↓",
    "js": "Jensen-Shannon ↓",
    "emd": "earth mover's (EMD) ↓",
    "chebyshev": "largest difference ↓",
    "cosine": "cosine ↑",
    "top1_hit": "top-1 hit ↑",
    "top2_hit": "top-2 hit ↑",
}
"""What the page shows of `CLOSENESS`."""
READING = {
    "labels likely wrong, share": "in this model's opinion; the rule stands below",
    "uncertainty ~ spread of votes": "rank correlation with the entropy of the votes; 1: same order",
    "confidence ~ spread of votes": "the same for the confidence of pairwise uncertainty; -1: opposite order",
    "mined to votes, EMD": "share of votes for other classes than the label that would have to move",
    "model to votes, EMD": "the same for the model's own probabilities",
    "mined to true mixture, EMD": "the same against what the drawn face shows",
    "model to true mixture, EMD": "the same for the model's own probabilities",
    "ambiguous over clear, AUC": "how often an ambiguous drawn face is the more uncertain one; 0.5: chance",
    "wrong over right labels, AUC": "how often a wrong label has the larger label error; 0.5: chance",
    "truly wrong among likely": "share of the likely wrong labels that are wrong",
    "found of the truly wrong": "share of the wrong labels that are among the likely ones",
    "made wrong over right, AUC": "how often a label that the run made wrong has the larger label error; 0.5: chance",
    "the same by confidence, AUC": "how often it has the smaller confidence",
    "made wrong among likely": "share of the likely wrong labels that the run made wrong",
    "found of those made wrong": "share of them that are among the likely ones",
}
"""What the main figures mean."""


def headline(found: Ambiguity, digits: int = 3) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and rows of the table of main figures: one column per split, only rows that some split has."""
    splits = found.result["splits"]
    rows = [("faces", *(f"{each['rows']:,}" for each in splits.values()))]
    for title, path in SUMMARY.items():
        entries = [_entry(each, path) for each in splits.values()]
        if any(entries):
            rows.append((title, *(shown(entry, digits) if entry else "-" for entry in entries)))
    return ("", *splits), rows


def _entry(figures_: dict[str, Any], path: Sequence[str]) -> dict[str, float | None] | None:
    entry: Any = figures_
    for name in path:
        entry = entry.get(name) if entry else None
    return entry


def add_ambiguity(page: Page, found: Ambiguity, out: Path, count: int) -> None:
    """Add the sections of the ambiguity audit.

    Args:
        page: to add to.
        found: by the audit.
        out: folder of the audit, for the commands on the page.
        count: faces in each gallery.
    """
    result = found.result
    page.add(_numbers(found))
    if result["notes"]:
        page.add(*(paragraph(note, "note") for note in result["notes"]))
    page.section("The main figures", *_main(found))
    page.section("The most ambiguous faces", *_ambiguous(found, count))
    if any("labels" in each for each in result["splits"].values()):
        page.section("Labels that are likely wrong", *_doubtful(found, count))
    for kind, heading in (("votes", "How well it tells what people voted"), ("truth", "Against the known mixture")):
        if any(kind in each for each in result["splits"].values()):
            page.section(heading, *_closeness(result["splits"], kind))
    page.section("What to do next", *_next(found, out))
    page.section("What was run", card(facts(_provenance(found))))


def _numbers(found: Ambiguity) -> Html:
    splits = found.result["splits"]
    main = splits.get("train") or next(iter(splits.values()))
    name = "training" if "train" in splits else next(iter(splits))
    entries = [(f"{sum(each['rows'] for each in splits.values()):,}", "faces looked at")]
    if labels := main.get("labels"):
        entries.append(
            (f"{labels['likely_errors']:,}", f"{name} labels are likely wrong, of {main['labelled']:,}, by this model")
        )
    order = _entry(main, ("votes", "order", "uncertainty_entropy"))
    if order and order["value"] is not None:
        entries.append((f"{order['value']:.2f}", "rank correlation of uncertainty with how divided the votes are"))
    difference, softmax = (_entry(main, ("votes", "others", side, "emd")) for side in ("difference", "softmax"))
    if difference and softmax and difference["value"] is not None and softmax["value"]:
        nearer = -difference["value"] / softmax["value"]
        said = f"{abs(nearer):.0%} {'closer' if nearer >= 0 else 'farther'}"
        entries.append((said, "mined distributions to the votes than the model's own probabilities (EMD)"))
    known_wrong = {"labels made wrong by the run": ("noise", "auc"), "wrong labels": ("truth", "labels", "auc")}
    for text, path in known_wrong.items():
        auc = _entry(main, path)
        if auc and auc["value"] is not None and len(entries) < 4:
            entries.append((f"{auc['value']:.2f}", f"AUC: {text} rank above right ones by label error"))
    return figures(entries)


def _main(found: Ambiguity) -> Iterator[Html]:
    head, rows = headline(found)
    splits = found.result["splits"]
    yield table(head, [[_meaning(title), *values] for title, *values in rows], numbers=range(1, len(head)))
    few = [name for name, each in splits.items() if each["resampled"] != "row" and each["clusters"] < FEW_CLUSTERS]
    counted = ", ".join(f"{name} {resampled(each)}" for name, each in splits.items())
    narrow = f" Few in {' and '.join(few)}: the intervals there are too narrow." if few else ""
    yield paragraph(f"In brackets 95 % bootstrap intervals over {counted}.{narrow}", "quiet")
    curves = {
        name: [(100.0 - place, value) for place, value in enumerate(each["uncertainty"]["percentiles"])][::-1]
        for name, each in splits.items()
    }
    chart = line_chart(curves, x_label="faces, the most ambiguous first, %", y_label="uncertainty")
    learned = [name for name, each in splits.items() if each["in_sample"]]
    reading = paragraph(
        "Uncertainty is the entropy of the calibrated probabilities over its largest value: 0 where the model is sure "
        "of one expression, 1 where all are alike to it."
    )
    if learned:
        reading = Html(reading + paragraph(
            f"The model learned from the faces of {' and '.join(learned)}: it is surer of them, and their labels look "
            "righter to it, than those of new faces."
        ))  # fmt: skip
    yield columns(card(keys(curves), chart), Html(f"<div>{reading}</div>"), least=420)


def _meaning(title: str) -> Html:
    text = READING.get(title)
    small = f'<br><span class="range">{html(text)}</span>' if text else ""
    return Html(f'<div class="meaning">{html(title)}{small}</div>')


def _ambiguous(found: Ambiguity, count: int) -> Iterator[Html]:
    yield paragraph(
        "Faces on which the model is least sure, of all splits. Two bars of about one length often are just what "
        "observers see; four short ones mean that the model sees nothing it knows: look whether the picture shows a "
        "face at all."
    )
    ranked = sorted(
        ((float(value), faces, row) for faces in found.faces for row, value in _top(faces.uncertainty, count)),
        key=lambda entry: -entry[0],
    )
    yield from _gallery(found, [(faces, row, f"uncertainty {value:.2f}", "") for value, faces, row in ranked[:count]])


def _doubtful(found: Ambiguity, count: int) -> Iterator[Html]:
    mined = any(faces.mined is not None for faces in found.faces)
    asked = (
        "Each face was shown to the branch that never learned from faces of its label, so it cannot have memorised the "
        "label; what it says goes with the model's own probability of the label."
        if mined
        else "The model's own probabilities are asked; where it has memorised wrong labels they hide them."
    )
    yield paragraph(
        "The label error is the lead of the best other class over the label, brought to 0..1. A label is likely wrong "
        "when another class leads and reaches the probability that the model on average gives this class where it is "
        f"the label (confident learning). {asked}"
    )
    names = found.classes
    cards = [
        card(confusion(each["labels"]["suggested"], names), title=f"{split}: label (down), suggested (across), %")
        for split, each in found.result["splits"].items()
        if "labels" in each
    ]
    yield columns(*cards, least=420)
    listed = [
        (float(doubts.score[row]), faces, row, names[int(doubts.suggested[row])])
        for faces, doubts in zip(found.faces, found.doubts, strict=True)
        for row, _ in _top(doubts.score.masked_fill(~doubts.likely, -torch.inf), min(count, int(doubts.likely.sum())))
    ]
    listed.sort(key=lambda entry: -entry[0])
    if not listed:
        yield paragraph("No label is likely wrong by this rule.")
    yield from _gallery(
        found, [(faces, row, f"label error {score:.2f}", name) for score, faces, row, name in listed[:count]]
    )


def _top(values: Tensor, count: int) -> list[tuple[int, float]]:
    """Rows with the largest values, and these."""
    order = values.argsort(descending=True, stable=True)[:count]
    return list(zip(order.tolist(), values[order].tolist(), strict=True))


def _gallery(found: Ambiguity, chosen: Sequence[tuple[Faces, int, str, str]]) -> Iterator[Html]:
    """Faces with their distributions; each is given with what to say of it and the suggested class, if any."""
    if not chosen:
        return
    voted = any(faces.votes is not None for faces, *_ in chosen)
    mined = any(faces.mined is not None for faces, *_ in chosen)
    yield keys(["votes, or the label where there are none" if voted else "label",
                "model, the label's rest as mined" if mined else "model"])  # fmt: skip
    yield columns(*(_case(found.classes, *entry) for entry in chosen), least=420, stretch=True)


def _case(classes: tuple[str, ...], faces: Faces, row: int, score: str, suggested: str) -> Html:
    given, observed = faces.distribution[row].double(), _observed(faces, row)
    series = [given] if observed is None else [observed, given]
    top = torch.stack(series).amax(0).argsort(descending=True, stable=True)[:BARS].tolist()
    place = int(faces.labels[row])
    label = classes[place] if place != NOT_LABELLED else "no label"
    predicted = classes[int(faces.probabilities[row].argmax())]
    title = f"{label} → {suggested}?" if suggested else label
    said = [score, *([] if suggested else [f"predicted {predicted}"]), f"{faces.split}"]
    drawn = bars([classes[place] for place in top], [[float(each[place]) for place in top] for each in series])
    identity = str(faces.data.rows["id"].iat[int(faces.rows[row])])
    text = f'<h3>{html(title)}</h3><p class="quiet">{html(", ".join(said))}<br>{html(identity)}</p>'
    return card(Html(f'<div class="case">{_thumbnail(faces, row, label)}<div>{text}{drawn}</div></div>'))


def _observed(faces: Faces, row: int) -> Tensor | None:
    """(C,) shares of the votes, else all on the label; `None` where neither is known."""
    if faces.votes is not None and float(faces.votes[row].nansum()) > 0:
        return faces.votes[row].double() / faces.votes[row].double().sum()
    if not bool(faces.labelled[row]):
        return None
    return torch.nn.functional.one_hot(faces.labels[row], faces.probabilities.shape[1]).double()


def _thumbnail(faces: Faces, row: int, label: str) -> Html:
    if "image" not in faces.data.rows:
        return Html("<span></span>")
    image = Image.open(io.BytesIO(faces.data.image_bytes(int(faces.rows[row]))))
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return picture(image, f"face labelled {label}")


def _closeness(splits: dict[str, Any], kind: str) -> Iterator[Html]:
    observed = "votes" if kind == "votes" else "known mixture of the drawn face"
    mined = any("mined" in entry for each in splits.values() for entry in _variants(each, kind).values())
    yield paragraph(
        f"How far the model's answer is from the {observed}: first on the classes that are not the label (what else "
        "might it be?), then on all classes. "
        + (
            "Mined distributions against the model's own probabilities, on the very same faces; the difference is "
            "paired."
            if mined
            else "This model has no mined distributions; its own probabilities are measured."
        )
        + " ↓ less is better, ↑ more. A hit: the class with most votes is the most probable one (top-2: one of two)."
    )
    if mined:
        yield keys(["mined", "the model's probabilities"])
    for split, each in splits.items():
        for variant, entry in _variants(each, kind).items():
            which = "other classes" if variant == "others" else "all classes"
            yield _folded(f"{split}, {which}: {entry['rows']:,} faces", _compared(entry), variant == "others")
    if kind == "truth":
        yield paragraph(
            f"Ambiguous are drawn faces whose main expression has at most {AMBIGUOUS:.0%}, clear those where it has at "
            f"least {CLEAR:.0%}; those between count for neither.",
            "quiet",
        )


def _folded(title: str, content: Html, opened: bool) -> Html:
    """A card that opens and closes."""
    inside = f"<details{' open' if opened else ''}><summary><b>{html(title)}</b></summary>{content}</details>"
    return columns(card(Html(inside)))


def _variants(figures_: dict[str, Any], kind: str) -> dict[str, Any]:
    entries = figures_.get(kind, {})
    return {name: entries[name] for name in ("others", "all") if name in entries}


def _compared(entry: dict[str, Any]) -> Html:
    if "mined" not in entry:
        return table(
            ["measure", "probabilities"], [[MEASURES[name], shown(entry["softmax"][name])] for name in MEASURES]
        )
    rows = []
    for name, title in MEASURES.items():
        values = [entry[side][name] for side in ("mined", "softmax")]
        rows.append([title, *map(shown, values), intervals(values), shown(entry["difference"][name])])
    return table(["measure", "mined", "probabilities", "", "difference"], rows)


def _next(found: Ambiguity, out: Path) -> Iterator[Html]:
    yield paragraph(
        Html(
            "The table <code>ambiguity.parquet</code> has a row for every face, the most uncertain first: sort it by "
            "<code>label_error</code>, or take the top for a second round of annotation. Faces that are ambiguous "
            "rather than mislabelled are best given to several people and learned from their votes "
            "(<code>--data.targets distribution</code>)."
        )
    )
    if not found.corrected:
        yield paragraph("No corrected data set was written: no training label among these is likely wrong.")
        return
    made = found.result["corrected"]
    done = "given the suggested class" if made["how"] == "relabel" else "left without a label"
    yield paragraph(
        Html(
            f"A corrected data set lies beside this page, with {made['labels']:,} training labels {done}; "
            f"<code>{CHANGES}</code> in it lists them. Pictures are shared with the original, which is untouched, and "
            "validation and test labels are never changed. Look through some of the changes, then train on it, and "
            "compare both models on the same test rows; or remove the folder."
        )
    )
    original = found.faces[0].data.root
    yield code(
        f"honne train RECIPE --data {out / made['folder']} --out RUN2\n"
        f"honne evaluate RUN2/model --data {original} --split test --out after.json\n"
        "honne compare before.json after.json"
    )


def _provenance(found: Ambiguity) -> dict[str, Any]:
    result = found.result
    settings = ", ".join(f"{name} {value}" for name, value in result["settings"].items())
    return {
        "model": f"{result['model']['name']}, method {result['model']['method']}, sha256 {result['model']['sha256']}",
        "data": f"{result['data']['name']}, manifest sha256 {result['data']['sha256']}",
        "mined": ", ".join(f"{name} {each['mined']:,}" for name, each in result["splits"].items()),
        "settings": settings,
        "honne": result["honne"],
    }

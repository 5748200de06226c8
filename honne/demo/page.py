"""The demo's report."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path

import lightning
import numpy as np
import pandas as pd
import torch

import honne
from honne.data.world import CODEBOOK, Truth, World, gallery, read_truth
from honne.demo.photograph import CREDIT, Photograph
from honne.demo.results import Results
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
    reliability,
    table,
)

SHOWN = 112
"""Side of the faces in the report, px; the models see them smaller."""

MEASURES = {
    "accuracy": ("accuracy", "share of faces whose true expression is named", True),
    "macro_f1": ("macro-F1", "the same, all expressions counting alike", True),
    "nll": ("log loss", "surprise at the true expression", False),
    "ece": ("calibration error", "gap between confidence and share right", False),
    "kl": ("distance to the votes (KL)", "how far the probabilities are from what ten observers said", False),
    "emd": ("distance to the votes (EMD)", "share of votes that would have to move", False),
}
"""Shown name, meaning, whether more is better."""


def write_page(path: Path, results: Results) -> Path:
    """Write the report.

    Args:
        path: HTML file.
        results: what the demo found.
    """
    page = Page(
        "From faces to figures, end to end",
        "honne drew a small world of faces on which observers disagree, trained two models on it, measured and "
        "compared them, and read a real photograph with the model that it carries. All of it was made on this machine, "
        f"in {_duration(sum(results.times.values()))}, without a network.",
        eyebrow="honne demo" + (" · quick try, the figures mean nothing" if results.quick else ""),
    )
    page.add(_headline(results))
    pictures, truth = gallery(_large(results.world), results.world.n)
    page.section("A world of faces", *_world(results.world, pictures, truth))
    page.section("Two ways to learn from the same faces", *_training(results))
    page.section("How good, and how sure", *_measures(results))
    page.section("What is taken for what", *_confusions(results))
    page.section("Faces on which observers disagree", *_cases(results, pictures))
    page.section("A real photograph", *_photograph(results.photograph))
    page.section("What was run", *_provenance(results))
    return page.write(path)


def _large(world: World) -> World:
    """The same faces, drawn larger for people."""
    return World.from_dict({**world.to_dict(), "size": SHOWN})


def _headline(results: Results) -> Html:
    measured = results.comparison["metrics"]
    accuracy, distance = measured["accuracy"], measured["kl"]
    nearer = 1 - distance["b"] / distance["a"] if distance["a"] else 0.0
    change = accuracy["difference"]
    low, high = (f"{100 * change[end]:+.1f}" for end in ("low", "high"))
    return figures(
        [
            (f"{accuracy['a']:.1%}", "right, after learning from one observer's word per face"),
            (f"{accuracy['b']:.1%}", "right, after learning from ten observers' votes on the same faces"),
            (f"{100 * change['value']:+.1f} points", f"difference; 95 % interval {low} to {high}"),
            (f"{abs(nearer):.0%} {'closer' if nearer >= 0 else 'farther'}", "to what observers say (KL divergence)"),
        ]
    )


def _world(world: World, pictures: np.ndarray, truth: Truth) -> list[Html]:
    parts = [
        paragraph(
            f"{world.n:,} faces of {world.subjects} invented people, drawn from muscle movements. Each shows a known "
            "mixture of expressions, seen by one of four cameras; ten imagined observers vote on it. Training, "
            "validation and test have different people. The models see them at "
            f"{world.size} × {world.size} pixels."
        )
    ]
    strips = []
    share = truth.mixture.max(1)
    for number, name in enumerate(world.classes):
        clear = np.flatnonzero((truth.expression == number) & (share > 0.85))
        chosen = clear[np.unique(truth.subject[clear], return_index=True)[1]][:8]
        units = ", ".join(str(unit) for unit in CODEBOOK[name])
        text = f"action units {units}" if units else "no action unit"
        strip = picture(np.concatenate(list(pictures[chosen]), 1), f"{len(chosen)} drawn faces that show {name}")
        strips.append(f'<div class="strip"><div><b>{html(name)}</b><span>{html(text)}</span></div>{strip}</div>')
    return [*parts, card(Html("".join(strips)))]


def _training(results: Results) -> list[Html]:
    called = {arm.called: arm for arm in results.arms.values()}
    wrong = _wrong_share(results)
    return [
        paragraph(
            "Both models have the same network, the same faces, the same number of steps and the same seed. One learns "
            f"the word of a single observer, which differs from the true expression on {wrong:.0%} of the training "
            "faces because the faces are ambiguous. The other learns how ten observers voted."
        ),
        keys(called),
        columns(
            card(line_chart({name: arm.curve("accuracy") for name, arm in called.items()},
                            x_label="epoch", y_label="accuracy on validation faces", percent=True)),
            card(line_chart({name: arm.curve("loss") for name, arm in called.items()},
                            x_label="epoch", y_label="cross-entropy against the votes, validation")),
        ),
        paragraph("Kept are the weights with the lowest validation loss; they are then calibrated there.", "quiet"),
    ]  # fmt: skip


def _wrong_share(results: Results) -> float:
    truth = read_truth(results.data.root)
    train = truth[truth["split"] == "train"]
    return float((train["label"] != train["expression"]).mean())


def _measures(results: Results) -> list[Html]:
    arms, compared = list(results.arms.values()), results.comparison["metrics"]
    rows = []
    for name, (title, meaning, more) in MEASURES.items():
        if name not in compared:
            continue
        entries = [arm.result["metrics"][name] for arm in arms]
        line = compared[name]
        better = {"A": _dot("better", "var(--one)"), "B": _dot("better", "var(--two)")}.get(line["better"], "unclear")
        text = f"{meaning}; {'more' if more else 'less'} is better"
        rows.append(
            [
                Html(f'<div class="meaning"><b>{html(title)}</b><br><span class="range">{html(text)}</span></div>'),
                *(_estimate(entry) for entry in entries),
                intervals(entries),
                _estimate(line["difference"], signed=True),
                better,
            ]
        )
    clusters = results.comparison["clusters"]
    return [
        paragraph(
            f"On {results.comparison['rows']:,} test faces of people that neither model has seen. Every figure comes "
            f"with its 95 % bootstrap interval; what is resampled are the {clusters} people, because faces of one "
            "person are alike. Differences are paired: both models on the same people."
        ),
        keys(arm.called for arm in arms),
        table(["measure", "one observer", "ten observers", "", "difference", "which"], rows),
    ]


def _dot(text: str, colour: str) -> Html:
    return Html(f'<span class="key"><i style="--colour:{colour}"></i>{html(text)}</span>')


def _estimate(entry: Mapping[str, float], signed: bool = False) -> Html:
    sign = "+" if signed else ""
    value, low, high = (f"{entry[key]:{sign}.3f}" for key in ("value", "low", "high"))
    return Html(f'{value}<br><span class="range">{low} to {high}</span>')


def _confusions(results: Results) -> list[Html]:
    arms = list(results.arms.values())
    names = results.world.classes
    return [
        paragraph(
            "Rows are true expressions, columns what the model said, in per cent. Below, confidence against the share "
            "that was right about the main expression; larger dots stand for more faces. A model of votes lies above "
            "the dashed line by design: where it expects 60 % of the observers to say fear, fear is the right answer."
        ),
        columns(*(card(confusion(arm.result["confusion"], names), title=arm.called) for arm in arms), least=360),
        keys(arm.called for arm in arms),
        columns(card(reliability({arm.called: arm.result["calibration"] for arm in arms})), _rates(results)),
    ]


def _rates(results: Results) -> Html:
    """Per-class F1 of both models."""
    arms = list(results.arms.values())
    found = {name: [arm.result["classes"][name]["f1"] for arm in arms] for name in results.world.classes}
    known = [entry for entries in found.values() for entry in entries if entry["value"] is not None]
    span = (min(entry["low"] for entry in known), max(entry["high"] for entry in known)) if known else None
    rows = []
    for name, entries in found.items():
        complete = all(entry["value"] is not None for entry in entries)
        values = (f"{entry['value']:.2f}" if entry["value"] is not None else "-" for entry in entries)
        rows.append([name, *values, intervals(entries, span) if complete else ""])
    return card(table(["expression", "one", "ten", ""], rows, numbers=(1, 2)), title="F1 by expression")


def _cases(results: Results, pictures: np.ndarray) -> list[Html]:
    plain, votes = (arm.predictions().set_index("id") for arm in results.arms.values())
    classes = list(results.world.classes)
    said = _shares(plain, "true_votes_", classes)
    names = ["ten observers", *(arm.called for arm in results.arms.values())]
    colours = ("var(--neutral)", "var(--one)", "var(--two)")
    legend = Html("".join(_dot(name, colour) for name, colour in zip(names, colours, strict=True)))
    cards = []
    for row in _ambiguous(said):
        shares = [said[row], _shares(plain, "p_", classes)[row], _shares(votes, "p_", classes)[row]]
        top = np.argsort(-np.max(shares, 0), kind="stable")[:4]
        face = pictures[int(plain.index[row].rsplit("-", 1)[1])]
        drawn = picture(face, "drawn face, " + ", ".join(f"{classes[c]} {shares[0][c]:.0%}" for c in top[:2]))
        shown = bars([classes[c] for c in top], [[float(each[c]) for c in top] for each in shares])
        cards.append(card(Html(f'<div class="case">{drawn}<div>{shown}</div></div>')))
    return [
        paragraph(
            "Test faces with the most divided votes, at most one for each pair of expressions. The model that learned "
            "from votes is meant to spread its probability the way observers spread theirs."
        ),
        legend,
        columns(*cards, least=400, stretch=True),
    ]


def _shares(table_: pd.DataFrame, prefix: str, classes: list[str]) -> np.ndarray:
    values = table_[[f"{prefix}{name}" for name in classes]].to_numpy(float)
    return values / values.sum(1, keepdims=True)


def _ambiguous(said: np.ndarray, count: int = 6) -> list[int]:
    """Rows with the most divided votes, each pair of leading classes once."""
    ordered = np.sort(said, 1)
    chosen: dict[tuple[int, ...], int] = {}
    for row in np.argsort(ordered[:, -1] - ordered[:, -2], kind="stable"):
        pair = tuple(sorted(np.argsort(-said[row], kind="stable")[:2].tolist()))
        chosen.setdefault(pair, int(row))
    return list(chosen.values())[:count]


def _photograph(photograph: Photograph | str) -> list[Html]:
    if isinstance(photograph, str):
        return [paragraph(f"Left out on this machine. {photograph}")]
    faces = photograph.table[photograph.table["status"] == "ok"]
    found = "One face was" if len(faces) == 1 else f"{len(faces)} faces were"
    name = html(photograph.model)
    parts = [paragraph(Html(f"{found} found, and read by <code>{name}</code>, the model inside the package."))]
    if not len(faces):
        return parts
    face = faces.iloc[0]
    shares = [float(face[f"p_{name}"]) for name in photograph.classes]
    shown = [
        name for name in ("status", "face_score", "quality", "yaw", "pitch", "roll", "uncertainty") if name in face
    ]
    cells = [face[name] if isinstance(face[name], str) else f"{face[name]:.2f}" for name in shown]
    return [
        *parts,
        columns(
            picture(
                photograph.picture, "astronaut Eileen Collins smiling, with face box and predicted expression", CREDIT
            ),
            card(bars(photograph.classes, [shares], tall=True), title="Predicted apparent expression"),
        ),
        table(["box", *shown], [[", ".join(f"{face[f'box_{side}']:.0f}" for side in "xywh"), *cells]]),
        paragraph(
            Html("Part of a row of the table that <code>honne analyze</code> writes for pictures and videos."), "quiet"
        ),
        *_explanation(photograph.explanation),
    ]


def _explanation(panel: Path | None) -> list[Html]:
    if panel is None:
        return []
    words = Html(
        "Where the model looks, and where coders would look for that expression: <code>honne explain</code> makes such "
        "pictures of any model, with what a map gets that knows nothing of the face beside every agreement."
    )
    return [
        picture(panel, "class activation map, attention and action-unit regions of the same face", CREDIT),
        paragraph(words, "quiet"),
    ]


def _provenance(results: Results) -> list[Html]:
    versions = {"honne": honne.__version__, "torch": torch.__version__, "lightning": lightning.__version__}
    model = next(iter(results.arms.values()))
    run = {
        "seed": results.world.seed,
        "faces": ", ".join(f"{split} {count:,}" for split, count in results.data.schema.counts.items()),
        "data sha256": model.result["data"]["sha256"],
        "models sha256": ", ".join(arm.result["model"]["sha256"][:16] + "…" for arm in results.arms.values()),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores, {_gpu()}",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "time": "; ".join(f"{name} {_duration(seconds)}" for name, seconds in results.times.items()),
    }
    root = results.data.root.parent
    return [
        paragraph("The same by hand, on this data or on your own:"),
        code(
            f"honne train demo --data {root}/world --out {root}/votes --data.targets distribution\n"
            f"honne evaluate {root}/votes/model --data {root}/world --out {root}/votes.json\n"
            f"honne compare {root}/plain.json {root}/votes.json\n"
            "honne analyze photo.jpg clip.mp4 --out results --video\n"
            "honne explain default photo.jpg --out why"
        ),
        card(facts(run)),
        paragraph(
            "Drawn faces show whether a method does what it should, where the truth is known. They say nothing about "
            "how well a model does on people: evaluate it on people for that.",
            "note",
        ),
    ]


def _gpu() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"

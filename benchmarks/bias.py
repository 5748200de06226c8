"""Does IERN help where training never saw an emotion in a look? The same backbone and budget, plain and with IERN.

    python benchmarks/bias.py world --out LAB [--seeds 3] [--jobs 2]
    honne prepare ferplus ZIP --out FER --target-mode majority
    python benchmarks/bias.py ferplus --data FER --out LAB

World: drawn faces in three camera styles, people of their own in each split. FER+: real faces, but the looks are ours:
each face is drawn by lot into one of three camera styles (`honne.data.world.styles`: warm, cold, night), whatever it
shows; six expressions, contempt and disgust left out as too rare. Its test rows are the official validation part
("PublicTest", without pixel copies of training pictures), its validation rows a tenth of the training part.

Both then become three biased folds (bias100) by the bias laboratory (`honne audit RECIPE --bias --folds 3`), each
without a third of the pairs of look and expression in training; together the folds test every pair once. Weights are
those after the last epoch: nothing is selected. The same command again goes on where it stopped.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from PIL import Image

from honne.audit import audit
from honne.console import say
from honne.data.manifest import DataSchema, ImageWriter, PreparedData, replacing, write_manifest
from honne.data.world import World, make_world
from honne.data.world.options import DOMAINS
from honne.data.world.styles import photograph
from honne.faces.align import Alignment
from honne.labels import LabelSchema

BUDGET: dict[str, Any] = {
    "model.backbone": "face_resnet",
    "model.backbone_options": {
        "channels": [16, 32, 64, 96],
        "layers": [1, 1, 1, 1],
        "stem_width": 8,
        "output_stride": 16,
    },
    "model.mean": [0.5] * 3,
    "model.std": [0.5] * 3,
    "model.dropout": 0.0,
    "data.batch_size": 32,
    "data.workers": 0,
    "data.augment.rotation": 5,
    "data.augment.colour": 0.0,
    "data.augment.erase": 0.0,
    "optim.optimizer": "adam",
    "optim.weight_decay": 0.0,
    "optim.clip": 0.0,
    "optim.lr": 1e-3,
    "optim.schedule": "cosine",
    "optim.warmup": 0.1,
    "trainer.ema": 0.0,
    "trainer.patience": 0,
    "trainer.monitor": "last",
}
CURED: dict[str, Any] = {
    "iern.channels": 32,
    "optim.head_lr": 1e-3,
    "optim.warmup_epochs": 0,
    "optim.hold_epochs": 0,
}
EPOCHS = {"world": 20, "ferplus": 15}
ADJUSTED = {"iern": ("none", "stratum"), "erm": ("stratum", "none")}
WORLD = {"n": 9000, "size": 48, "domains": 3, "subjects": 120, "valid_share": 0.15, "test_share": 0.3}
STYLES = ("warm", "cold", "night")
EXPRESSIONS = ("neutral", "happiness", "surprise", "sadness", "anger", "fear")


def styled_ferplus(source: Path, out: Path, rows: int, seed: int = 0) -> None:
    """FER+ in three camera styles, drawn by lot.

    Args:
        source: FER+ as prepared.
        out: folder of the result; left alone where it is there.
        rows: training faces at most; 0 = all.
        seed: of lots, styles' grain and splits.
    """
    if (out / "schema.json").is_file():
        return
    data, random = PreparedData(source), np.random.default_rng(seed)
    frame = data.rows.assign(row=np.arange(len(data)), split=data.rows["split"].replace({"valid": "test"}))
    frame = frame[frame["expression"].isin(EXPRESSIONS)]
    training = random.permutation(frame.index[frame["split"] == "train"].to_numpy())
    held = round(0.1 * len(training))
    frame.loc[training[:held], "split"] = "valid"
    if rows:
        frame = frame.drop(index=training[held + rows :])
    style = random.integers(len(STYLES), size=len(frame))
    size = Alignment.from_dict(data.schema.alignment).size
    out.mkdir(parents=True)
    table = []
    with ImageWriter(out / "images") as images:
        for start in range(0, len(frame), 256):
            some = frame.iloc[start : start + 256]
            faces = [Image.open(io.BytesIO(data.image_bytes(row))).convert("RGB") for row in some["row"]]
            pictures = torch.from_numpy(np.stack([np.asarray(face) for face in faces])).permute(0, 3, 1, 2) / 255
            numbers = torch.tensor([DOMAINS.index(STYLES[each]) for each in style[start : start + 256]])
            grain = torch.from_numpy(random.standard_normal((len(some), 1, size, size), np.float32))
            seen = (photograph(pictures, numbers, grain) * 255).round().byte().permute(0, 2, 3, 1).numpy()
            for picture, number, row in zip(seen, numbers, some.itertuples(), strict=True):
                encoded = io.BytesIO()
                Image.fromarray(picture).save(encoded, "png", compress_level=1)
                values = {name: getattr(row, name) for name in ("id", "split", "expression")}
                table.append(values | {"domain": DOMAINS[number], "image": images.add(encoded.getvalue())})
    schema = DataSchema(
        name="FER+ in three camera styles",
        reader="table",
        labels=LabelSchema(EXPRESSIONS),
        alignment=Alignment("none", size).to_dict(),
        source={"faces": data.schema.name, "styles": ", ".join(STYLES)},
        licence=data.schema.licence,
        options={"seed": seed},
        version=data.schema.version,
    )
    write_manifest(out, pd.DataFrame(table), schema)


def picture(lab: Path, data: PreparedData, path: Path) -> None:
    """A face in every stratum; accuracy of each arm in every cell, held out of training and seen in it.

    Args:
        lab: folder of a finished laboratory.
        data: drawn faces, of which its folds were made.
        path: FILE.png.
    """
    found = pd.read_csv(lab / "bias.csv")
    right = found.assign(right=found["prediction"] == found["label"])
    strata, classes = sorted(found["stratum"].unique()), list(data.schema.labels.expressions)
    figure = plt.figure(figsize=(9.6, 3.8), dpi=110)
    grid = figure.add_gridspec(1, 3, width_ratios=(0.3, 1, 1), left=0.02, right=0.99, top=0.93, bottom=0.17, wspace=0.3)
    faces = grid[0].subgridspec(len(strata), 1, hspace=0.28)
    for place, stratum in enumerate(strata):
        each = figure.add_subplot(faces[place])
        row = int(np.flatnonzero((data.rows["domain"] == stratum) & (data.rows["expression"] == "happiness"))[0])
        each.imshow(Image.open(io.BytesIO(data.image_bytes(row))))
        each.set_title(stratum, fontsize=8, pad=3)
        each.axis("off")
    for place, (where, title) in enumerate({"out": "pairs that training lacked", "in": "pairs that it had"}.items(), 1):
        panels = grid[place].subgridspec(2, 1, hspace=0.12)
        for line, arm in enumerate(("plain", "cured")):
            each = figure.add_subplot(panels[line])
            some = right[(right["distribution"] == where) & (right["arm"] == arm)]
            cells = some.groupby(["stratum", "label"])["right"].mean().unstack().loc[strata, classes]
            each.imshow(cells, cmap="viridis", vmin=0, vmax=1, aspect="auto")
            for (y, x), value in np.ndenumerate(cells.to_numpy()):
                each.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize=7, color="w" if value < 0.6 else "k")
            name = f"{'erm' if arm == 'plain' else 'iern'}: {some['right'].mean():.2f}"
            each.set_ylabel(name, fontsize=9)
            each.set_yticks(range(len(strata)), strata, fontsize=7)
            each.set_xticks(range(len(classes)), classes if line else [], fontsize=7, rotation=35, ha="right")
            each.tick_params(length=0)
            if not line:
                each.set_title(f"accuracy on {title}", fontsize=9)
    with replacing(path) as aside:
        figure.savefig(aside, format="png")
    plt.close(figure)


def main() -> None:
    """Make the data, run the laboratory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=list(EPOCHS))
    parser.add_argument("--data", type=Path, help="FER+ as prepared")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--world-seed", type=int, default=0, help="settings were tried out on 100")
    parser.add_argument("--train", type=int, default=8000, help="training faces of FER+ before a third is left out")
    parser.add_argument("--epochs", type=int, default=0, help="default: EPOCHS")
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--picture", type=Path, help="of the world, FILE.png")
    parser.add_argument("--adjusted", choices=list(ADJUSTED), default="iern", help="which arm has logit adjustment")
    arguments = parser.parse_args()
    out = arguments.out / f"data-{arguments.kind}"
    if arguments.kind == "ferplus":
        if arguments.data is None or arguments.picture:
            parser.error("ferplus needs --data, and its faces are not for showing")
        styled_ferplus(arguments.data, out, arguments.train)
    elif not (out / "schema.json").is_file():
        make_world(out, World(seed=arguments.world_seed, labels="expression", **WORLD))  # type: ignore[arg-type]
    say(f"{len(PreparedData(out)):,} faces in {out}")
    lab = arguments.out / f"lab-{arguments.kind}-{arguments.adjusted}"
    audit(
        "iern",
        out,
        out=lab,
        bias=True,
        folds=arguments.folds,
        seeds=arguments.seeds,
        jobs=arguments.jobs,
        set=BUDGET | {"trainer.epochs": arguments.epochs or EPOCHS[arguments.kind]},
        set_plain={"erm.logit_adjustment": ADJUSTED[arguments.adjusted][0]},
        set_cured=CURED | {"iern.logit_adjustment": ADJUSTED[arguments.adjusted][1]},
    )
    if arguments.picture:
        picture(lab, PreparedData(out), arguments.picture)


if __name__ == "__main__":
    main()

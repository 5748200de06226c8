"""`honne demo`: the main job end to end on what is installed."""

from __future__ import annotations

import logging
from pathlib import Path
from time import perf_counter

import honne
from honne.console import say
from honne.data.manifest import PreparedData
from honne.data.world import World, make_world
from honne.demo.page import write_page
from honne.demo.photograph import Photograph, analyse
from honne.demo.results import Arm, Results
from honne.errors import HonneError

log = logging.getLogger("honne")

ARMS = {"plain": ("one observer's word", "label"), "votes": ("ten observers' votes", "distribution")}
"""Folder -> how the report calls the model, and the training targets."""


def demo(out: Path = Path("honne-demo"), *, seed: int = 0, quick: bool = False) -> None:
    """Show the main job end to end and write one HTML report of it.

    Makes a small world of drawn faces, on whose expression observers disagree; trains one model on the word of a single
    observer and one on the votes of ten; evaluates and compares both; analyses a real photograph with the default
    model. Nothing is downloaded. The same call again goes on where it was interrupted.

    Args:
        out: folder for the report and everything it was made from.
        seed: of the drawn faces and of training.
        quick: a few faces and epochs only, to see that it runs; the figures mean nothing then.

    Raises:
        HonneError: the folder holds something else.
    """
    out = Path(out)
    world = _world(seed, quick)
    times: dict[str, float] = {}

    began = perf_counter()
    data = _data(out / "world", world)
    times["drawing faces"] = perf_counter() - began
    say(f"1/5  {len(data):,} drawn faces of {world.subjects} invented people: {data.root}")

    arms = {}
    for number, (name, (called, targets)) in enumerate(ARMS.items(), 2):
        say(f"{number}/5  training on {called}")
        began = perf_counter()
        overrides = {"data.targets": targets, "trainer.seed": seed, "model.name": name}
        model = honne.train(
            "demo", data=data.root, out=out / name, overrides=overrides | ({"trainer.epochs": 2} if quick else {})
        )
        times[f"training on {called}"] = perf_counter() - began
        began = perf_counter()
        result = honne.evaluate(model, data.root, split="test", out=out / f"{name}.json", seed=seed, show=False)
        times[f"measuring: {called}"] = perf_counter() - began
        arms[name] = Arm(called, out / name, result)

    say("4/5  comparing the two on the same faces")
    comparison = honne.compare(
        out / "plain.json", out / "votes.json", seed=seed, out=out / "comparison.json", show=False
    )

    say("5/5  a real photograph")
    began = perf_counter()
    photograph: Photograph | str
    try:
        photograph = analyse(out / "photograph")
    except HonneError as error:
        photograph = str(error)
        log.warning("The report goes without the photograph. %s", error)
    times["photograph"] = perf_counter() - began

    report = write_page(out / "report.html", Results(world, data, arms, comparison, photograph, times, quick))
    accuracy = comparison["metrics"]["accuracy"]
    say(
        f"\nAccuracy on {comparison['rows']} faces of unseen people: {accuracy['a']:.3f} from one observer's word, "
        f"{accuracy['b']:.3f} from ten observers' votes."
    )
    say(f"Report: {report.resolve()}")


def _world(seed: int, quick: bool) -> World:
    return World(
        n=210 if quick else 2800,
        size=48,
        seed=seed,
        labels="expression",
        ambiguity=0.8,
        annotation="single",
        domains=4,
        subjects=30 if quick else 200,
        valid_share=0.12,
        test_share=0.28,
    )


def _data(folder: Path, world: World) -> PreparedData:
    """The world on disk, drawn now unless an earlier run drew the very same."""
    if not (folder / "schema.json").is_file():
        return make_world(folder, world)
    data = PreparedData(folder)
    if World.from_dict(data.schema.options) != world:
        raise HonneError(
            f"{folder.parent}: holds a demo with another seed or size.", "Choose another --out, or remove that folder."
        )
    return data

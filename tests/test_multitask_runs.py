"""Runs of method multitask, all stages: teacher, students, ensemble; resumed, given, over time, in two processes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file
from test_union_data import relabelled, single_tasks
from torch import Tensor

import honne
from honne import staging, training
from honne.data.manifest import PreparedData
from honne.errors import HonneError, WrongCall
from honne.evaluation import evaluate
from honne.labels import LabelSchema
from honne.methods import frame_cache
from honne.methods.multitask import Multitask
from honne.networks.clips import ClipNetwork

WINDOW = 4
SMALL: dict[str, Any] = {
    "model.backbone": "face_resnet",
    "model.backbone_options": {"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8], "stem_width": 4},
    "model.hidden": 6,
    "model.valence_arousal_bins": 5,
    "model.dropout": 0.2,
    "data.labels": "union",
    "data.sampling": "tasks",
    "data.batch_size": 9,
    "data.workers": 0,
    "data.augment.erase": 0.0,
    "optim.lr": 0.01,
    "trainer.epochs": 1,
    "trainer.accelerator": "cpu",
    "trainer.checkpoint_steps": 2,
    "multitask.students": 2,
    "multitask.student_epochs": 1,
}


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Any:
    """Bootstraps and curves are tested elsewhere; they are half of the time of a run as small as these."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "draw_curves", lambda *_: None)
        patch.setattr(staging, "evaluate", lambda *args, **options: evaluate(*args, **options, replicates=3))
        yield


@dataclass
class Tried:
    """A run, and what it was made of."""

    recipe: Path
    data: list[Path]
    out: Path


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Tried:
    root = tmp_path_factory.mktemp("multitask")
    (root / "small.yaml").write_text(yaml.safe_dump({"method": "multitask"}))
    made = Tried(root / "small.yaml", single_tasks(root / "data", frames=6), root / "run")
    assert train(made, made.out) == made.out / "model"
    return made


def train(tried: Tried, out: Path, data: list[Path] | None = None, **options: Any) -> Path:
    overrides = SMALL | {name.replace("__", "."): value for name, value in options.items()}
    return honne.train(tried.recipe, data=data or tried.data, out=out, overrides=overrides)


def weights(run: Path) -> dict[str, Tensor]:
    return load_file(run / "model" / "model.safetensors")


def assert_same_weights(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name, value in one.items() if not torch.equal(value, other[name])] == []


def calls_of(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[Any]:
    original, calls = getattr(owner, name), []

    def counted(*args: Any, **options: Any) -> Any:
        calls.append(args)
        return original(*args, **options)

    monkeypatch.setattr(owner, name, counted)
    return calls


# --- stages --------------------------------------------------------------------------------------------------------


def test_a_run_leaves_teacher_students_ensemble_and_figures(tried: Tried) -> None:
    out = tried.out
    model = honne.load(out / "model")
    assert model.schema == LabelSchema(*[
        getattr(PreparedData(each).schema.labels, task)
        for each, task in zip(tried.data, ("expressions", "action_units", "valence_arousal"), strict=True)
    ])  # fmt: skip
    assert model.config.network["kind"] == "ensemble"
    assert len({*model.thresholds.values(), 0.5}) > 2
    assert model.config.temperature != 1
    assert model.name == "run"
    assert model.config.training["members"] == ["run, student 0", "run, student 1"]

    figures = pd.read_csv(out / "figures.csv")
    assert list(figures["model"].unique()) == ["teacher", "student_0", "student_1", "ensemble"]
    assert set(figures["measure"]) >= {"macro_f1", "au_f1", "ccc"}
    assert (figures["split"] == "valid").all()
    counts = json.loads((out / "labels.json").read_text())
    train_rows = [line for line in counts["data"] if line["split"] == "train"]
    assert counts["epoch"]["expression"] == counts["epoch"]["rows"] // 3
    assert [line["action_units"] == line["rows"] for line in train_rows] == [False, True, False]

    members = [honne.load(out / name / "model") for name in ("student_0", "student_1")]
    crops = np.random.default_rng(0).integers(0, 255, (3, 32, 32, 3), np.uint8)
    found, parts = model.predict(crops), [each.predict(crops) for each in members]
    assert found.valence_arousal is not None
    assert found.action_units is not None
    torch.testing.assert_close(found.valence_arousal, torch.stack([p.valence_arousal for p in parts]).mean(0))  # type: ignore[misc]
    units = torch.stack([p.action_units.sigmoid() for p in parts]).mean(0)  # type: ignore[union-attr]
    torch.testing.assert_close(found.action_units.sigmoid(), units)
    assert not torch.equal(*[p.action_units for p in parts])  # type: ignore[arg-type]


def test_a_finished_run_is_not_begun_again_and_another_recipe_is_refused(
    tried: Tried, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = calls_of(monkeypatch, Multitask, "training_step")
    opened = calls_of(monkeypatch, training, "open_module")
    train(tried, tried.out)
    assert not begun
    assert not opened
    with pytest.raises(WrongCall, match="another recipe"):
        train(tried, tried.out, multitask__temperature=2.0)


def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    tried: Tried, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the middle of a student's epoch, one step after its last checkpoint; then while a model is measured."""
    out, original, steps = tmp_path / "run", Multitask.training_step, []
    shutil.copytree(tried.out / "teacher", out / "teacher")
    shutil.copytree(tried.out / "student_0", out / "student_0")
    recipe = (tried.out / "recipe.yaml").read_text()
    (out / "recipe.yaml").write_text(recipe)

    def dies(self: Multitask, batch: Any, step: int) -> None:
        steps.append(step)
        if len(steps) == 4:
            raise MemoryError
        original(self, batch, step)

    monkeypatch.setattr(Multitask, "training_step", dies)
    recorded = yaml.safe_load((tried.out / "student_1" / "recipe.yaml").read_text())
    assert recorded["trainer"]["seed"] == 2
    with pytest.raises(MemoryError):
        resume(tried, out)
    assert not (out / "student_1" / "model").exists()
    monkeypatch.setattr(Multitask, "training_step", original)

    measured, calls = staging.measure, []

    def dies_measuring(*args: Any) -> Any:
        calls.append(args)
        raise MemoryError

    monkeypatch.setattr(training, "measure", dies_measuring)
    left = calls_of(monkeypatch, Multitask, "training_step")
    with pytest.raises(MemoryError):
        resume(tried, out)
    assert [step for _, _, step in left] == [2, 3]  # what was left of the epoch of four
    monkeypatch.setattr(training, "measure", measured)
    monkeypatch.setattr(staging, "measure", dies_measuring)
    with pytest.raises(MemoryError):
        resume(tried, out)
    assert (out / "student_1" / "model" / "card.md").stat().st_size > 0
    monkeypatch.setattr(staging, "measure", measured)
    resume(tried, out)
    assert len(left) == 2
    for part in (".", "student_1"):
        assert_same_weights(weights(out / part), weights(tried.out / part))
    columns = ["model", "data", "measure", "value"]
    one, other = (pd.read_csv(run / "figures.csv")[columns] for run in (out, tried.out))
    pd.testing.assert_frame_equal(one, other)


def resume(tried: Tried, out: Path) -> None:
    """The copies of stages name the first run and its teacher; recipes are compared as text."""
    for path in out.rglob("recipe.yaml"):
        path.write_text(path.read_text().replace(str(tried.out), str(out)))
    train(tried, out)


def test_without_students_the_teacher_is_the_model(tried: Tried, tmp_path: Path) -> None:
    options: dict[str, Any] = {"multitask__students": 0, "multitask__teacher_kept": "last", "trainer__epochs": 2}
    train(tried, tmp_path / "run", **options)
    assert_same_weights(weights(tmp_path / "run"), weights(tmp_path / "run" / "teacher"))
    assert list(pd.read_csv(tmp_path / "run" / "figures.csv")["model"].unique()) == ["teacher", "model"]
    assert honne.load(tmp_path / "run" / "model").config.training["epoch"] == 1  # the last one


def test_the_teacher_may_join_the_ensemble(tried: Tried, tmp_path: Path) -> None:
    options: dict[str, Any] = {"multitask__students": 1, "multitask__members": "all", "trainer__epochs": 1}
    run = tmp_path / "run"
    train(tried, run, **options, trainer__batches=1)
    assert honne.load(run / "model").config.network["options"]["members"] == 2
    joined = weights(run)
    for number, part in enumerate(("student_0", "teacher")):
        own = {name.removeprefix(f"members.{number}."): value for name, value in joined.items()
               if name.startswith(f"members.{number}.")}  # fmt: skip
        assert_same_weights(own, weights(run / part))
    with pytest.raises(WrongCall, match="takes in the teacher that is trained"):
        train(tried, tmp_path / "other", **options, multitask__teacher=str(run / "teacher" / "model"))


def test_generations_teach_the_next(tried: Tried, tmp_path: Path) -> None:
    given: dict[str, Any] = {"multitask__teacher": str(tried.out / "model"), "multitask__generations": 2}
    run = tmp_path / "run"
    train(tried, run, **given, trainer__batches=1)
    assert sorted(path.parent.name for path in run.glob("student_*/model")) == [f"student_{i}" for i in range(4)]
    taught_by = [
        yaml.safe_load((run / f"student_{i}" / "recipe.yaml").read_text())["multitask"]["teacher"] for i in range(4)
    ]
    assert taught_by == [str(tried.out / "model")] * 2 + [str(run / "students" / "model")] * 2
    assert not (run / "teacher").exists()
    names = list(pd.read_csv(run / "figures.csv")["model"].unique())
    assert names == [*(f"student_{i}" for i in range(4)), "students", "ensemble"]
    seconds = [weights(run / f"student_{i}") for i in (2, 3)]
    joined = weights(run)
    for number, state in enumerate(seconds):
        assert all(torch.equal(joined[f"members.{number}.{name}"], value) for name, value in state.items())


def test_one_student_of_a_given_teacher_and_some_classes(tried: Tried, tmp_path: Path) -> None:
    """Data with a class that is not learned; the model is the one student."""
    eight = (*PreparedData(tried.data[0]).schema.labels.expressions, "contempt")
    count = len(PreparedData(tried.data[0]))
    more = relabelled(
        tried.data[0], tmp_path / "eight", LabelSchema(eight), expression=[eight[row % 8] for row in range(count)]
    )
    with pytest.raises(HonneError, match="different label schemas"):
        train(tried, tmp_path / "a", [more, *tried.data[1:]], multitask__teacher=str(tried.out / "model"))
    options: dict[str, Any] = {"multitask__students": 1, "data__expressions": ",".join(eight[:7])}
    out = tmp_path / "run"
    train(tried, out, [more, *tried.data[1:]], **options, multitask__teacher=str(tried.out / "teacher" / "model"))
    assert_same_weights(weights(out), weights(out / "student_0"))
    figures = pd.read_csv(out / "figures.csv")
    assert "macro_f1" in set(figures[figures["data"] == "eight"]["measure"])


def test_what_does_not_fit_is_refused_with_a_sentence(tried: Tried, tmp_path: Path) -> None:
    student = str(tried.out / "student_0" / "model")
    for number, (options, words) in enumerate((
        ({"trainer__accumulate": 2}, "steps after every batch"),
        ({"data__labels": "same"}, "different label schemas"),
        ({"data__batch_size": 100}, "training rows with expression make no batch of 100"),
        ({"data__expressions": "neutral,pain"}, "pain"),
        ({"multitask__teacher": str(tried.out)}, "not the folder of a model"),
        ({"model__frames": student}, "Add --model.window"),
        ({"model__window": WINDOW}, "frozen would never learn to see"),
        ({"model__window": WINDOW, "model__frames": str(tried.out / "model")}, "cannot see single frames for another"),
        ({"model__window": WINDOW, "model__frames": str(tried.out)}, "not the folder of a model"),
        ({"model__window": WINDOW, "model__frames": student, "data__action_units": "1,2"}, "different label schemas"),
        ({"model__window": WINDOW, "model__frames": student, "model__mean": [0.5] * 3}, "another mean and std"),
        (
            {"model__window": WINDOW, "model__frames": student, "multitask__teacher": student},
            "looks at images, and the students",
        ),
    )):  # fmt: skip
        with pytest.raises(HonneError, match=words) as raised:
            train(tried, tmp_path / str(number), **options)  # type: ignore[arg-type]
        assert raised.value.hint
    single = {name: value for name, value in SMALL.items() if not name.startswith(("multitask", "data.sampling"))}
    for recipe in ("erm", "dmue"):
        options = single | {"model.window": WINDOW, "model.frozen": "none"}
        with pytest.raises(WrongCall, match=f"method {recipe} takes single faces"):
            honne.train(recipe, data=tried.data[0], out=tmp_path / recipe, overrides=options)


# --- over time -----------------------------------------------------------------------------------------------------


def test_windows_over_frozen_frames(tried: Tried, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the frames' network sees is computed once for teacher and students, and it stays as it is."""
    computed = calls_of(monkeypatch, frame_cache, "_compute")
    frames = tried.out / "student_0" / "model"
    out = tmp_path / "run"
    options: dict[str, Any] = {"model__window": WINDOW, "model__recurrent": 4, "data__batch_size": 3}
    train(tried, out, **options, model__frames=str(frames))
    assert len(computed) == 1
    [path] = out.glob("frame_features.*.npy")
    kept = np.load(path)
    assert kept.shape == (3 * 48, 3 * 6)
    assert np.isfinite(kept).all()

    before, after = load_file(frames / "model.safetensors"), weights(out)
    for name, value in before.items():
        assert torch.equal(after[f"frames.{name}"], value), name
    assert {name.partition(".")[0] for name in after} == {"frames", "members"}
    model = honne.load(out / "model")
    assert model.length == WINDOW
    crops = np.random.default_rng(0).integers(0, 255, (6, 32, 32, 3), np.uint8)
    said = model.over_time(model.frame_features(crops), torch.tensor([[0, 1, 2, 3], [2, 3, 4, 5]]))
    assert said.expression is not None
    assert said.expression.isfinite().all()
    assert {"teacher", "student_0", "student_1", "ensemble"} == set(pd.read_csv(out / "figures.csv")["model"])

    # A teacher of the same frames is told the same features; one of other frames would be told nonsense.
    again = tmp_path / "again"
    given: dict[str, Any] = {"multitask__teacher": str(out / "model"), "multitask__students": 1}
    train(tried, again, **options, **given, model__frames=str(frames), trainer__batches=1)
    assert_same_weights(weights(again), weights(again / "student_0"))
    with pytest.raises(HonneError, match="looks at frames with another network"):
        train(tried, tmp_path / "other", **options, **given, model__frames=str(tried.out / "student_1" / "model"))


@pytest.mark.parametrize("frozen", ["weights", "none"])
def test_windows_over_frames_that_move(tried: Tried, tmp_path: Path, frozen: str) -> None:
    options: dict[str, Any] = {"model__window": WINDOW, "model__recurrent": 4, "data__batch_size": 3}
    frames = tried.out / "student_0" / "model"
    out = tmp_path / "run"
    train(tried, out, **options, model__frames=str(frames), model__frozen=frozen, multitask__students=0)
    before, after = load_file(frames / "model.safetensors"), weights(out)
    moved = {name for name, value in before.items() if not torch.equal(after[f"frames.{name}"], value)}
    network = honne.load(out / "model").network
    assert isinstance(network, ClipNetwork)
    learned = {name for name in before if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    assert any(name.startswith("backbone.") for name in moved - learned)
    assert bool(moved & learned) == (frozen == "none")
    assert not list(out.rglob("frame_features*"))


def test_fresh_frames_learn(tried: Tried, tmp_path: Path) -> None:
    options: dict[str, Any] = {"model__window": WINDOW, "model__frozen": "none", "data__batch_size": 3}
    made = train(tried, tmp_path / "run", **options, multitask__students=0, trainer__batches=1)
    assert honne.load(made).length == WINDOW


# --- processes -----------------------------------------------------------------------------------------------------

SCRIPT = """
import json, sys
from pathlib import Path
import honne, torch
from honne import staging, training
from honne.evaluation import evaluate
from honne.methods.multitask import Multitask

staging.evaluate = lambda *args, **options: evaluate(*args, **options, replicates=3)
training.draw_curves = lambda *_: None

def agree(method):
    own = {name: value.detach() for name, value in method.named_parameters()}
    shares = [None] * method.trainer.world_size
    torch.distributed.all_gather_object(shares, own)
    unlike = [name for name in own if not torch.equal(shares[0][name], shares[1][name])]
    if method.global_rank == 0:
        with Path(sys.argv[2], "unlike.txt").open("a") as file:
            file.write(json.dumps([len(own), unlike]) + "\\n")

if __name__ == "__main__":
    Multitask.on_train_end = agree
    data = sys.argv[1].split("|")
    honne.train(sys.argv[4], data=data, out=sys.argv[2], overrides=json.loads(sys.argv[3]))
"""


def test_two_processes_stay_alike_through_all_stages(tried: Tried, tmp_path: Path) -> None:
    options = SMALL | {"trainer.devices": 2, "data.batch_size": 4, "optim.clip": 1.0, "trainer.batches": 2}
    options |= {"multitask.teacher": str(tried.out / "teacher" / "model")}
    script, out = tmp_path / "run.py", tmp_path / "run"
    script.write_text(SCRIPT)
    data = "|".join(map(str, tried.data))
    words = [sys.executable, str(script), data, str(out), json.dumps(options), str(tried.recipe)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in (out / "unlike.txt").read_text().splitlines()]
    assert [unlike for _, unlike in found] == [[], []]
    assert honne.load(out / "model").config.network["kind"] == "ensemble"
    assert list(pd.read_csv(out / "figures.csv")["model"].unique()) == ["student_0", "student_1", "ensemble"]

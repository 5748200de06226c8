"""The synthetic world: labels agree with drawings, knobs do what they say, seeds repeat."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from honne.data.manifest import PreparedData
from honne.data.sequences import SequenceReader, SequenceWriter
from honne.data.world import CODEBOOK, Talks, World, gallery, make_sequences, make_world, read_truth, rows, sample
from honne.data.world.geometry import ACTION_UNITS, MIRROR, TEMPLATE, face_points, project
from honne.errors import HonneError, WrongCall

SMALL = World(n=120, size=32, subjects=12, ambiguity=0.6)


def _points(**units: float) -> np.ndarray:
    """(92, 3) of the average face with some action units, e.g. au12=5."""
    intensities = np.zeros((1, len(ACTION_UNITS)))
    for name, value in units.items():
        intensities[0, ACTION_UNITS.index(int(name[2:]))] = value
    return face_points(np.zeros((1, 10)), intensities, np.zeros(1))[0]


def test_muscles_move_what_their_names_say() -> None:
    rest = _points()
    down = 1
    assert (_points(au12=5)[[48, 54], down] < rest[[48, 54], down] - 0.1).all()  # lip corners go up
    assert (_points(au15=5)[[48, 54], down] > rest[[48, 54], down] + 0.1).all()
    assert (_points(au1=5)[[21, 22], down] < rest[[21, 22], down] - 0.1).all()
    assert (_points(au4=5)[[21, 22], down] > rest[[21, 22], down] + 0.1).all()
    assert _points(au26=5)[8, down] > rest[8, down] + 0.2
    opening = lambda face: face[47, down] - face[43, down]  # noqa: E731
    assert opening(_points(au5=5)) > opening(rest) > opening(_points(au7=5)) > opening(_points(au43=5)) >= 0
    everything = _points(**{f"au{unit}": 5.0 for unit in ACTION_UNITS})
    assert (everything[[67, 66, 65], down] >= everything[[61, 62, 63], down] - 1e-9).all()  # the mouth never turns over


def test_the_head_is_symmetric_and_turns_the_right_way() -> None:
    np.testing.assert_allclose(TEMPLATE[MIRROR] * (-1, 1, 1), TEMPLATE)
    nose, middle = 30, 27

    def seen(*pose: float) -> np.ndarray:
        return project(TEMPLATE[None], np.array([pose]), np.ones(1), np.zeros((1, 2)))[0]

    assert seen(20, 0, 0)[nose, 0] > 0.2  # yaw: nose to image right
    assert seen(0, 20, 0)[nose, 1] - seen(0, 20, 0)[middle, 1] < seen(0, 0, 0)[nose, 1] - seen(0, 0, 0)[middle, 1]
    assert seen(0, 0, 20)[16, 1] > seen(0, 0, 20)[0, 1]  # roll: clockwise


def test_labels_agree_with_each_other() -> None:
    truth = sample(World(n=700, size=32, seed=3))
    unit = lambda number: truth.intensities[:, ACTION_UNITS.index(number)]  # noqa: E731
    happy = truth.expression == World().classes.index("happiness")
    assert (unit(6)[happy] > 1).all()
    assert (unit(12)[happy] > 1).all()
    assert (unit(12)[~happy] == 0).all()
    assert (truth.valence_arousal[happy, 0] > 0.3).all()
    np.testing.assert_allclose(truth.mixture.sum(1), 1)
    assert (truth.votes.sum(1) == 10).all()
    assert (truth.label == truth.expression).all()
    counts = np.bincount(truth.expression[truth.split == "train"])
    assert counts.max() - counts.min() <= 1  # balanced


def test_every_expression_changes_the_picture() -> None:
    pictures, truth = gallery(replace(SMALL, ambiguity=0.0, size=48), 120)
    assert pictures.shape == (120, 48, 48, 3)
    assert pictures.dtype == np.uint8
    means = np.stack([pictures[truth.expression == c].mean(0) for c in range(7)])
    for first in range(7):
        for second in range(first):
            assert np.abs(means[first] - means[second]).mean() > 2


def test_smiles_show_where_the_landmarks_are() -> None:
    """Teeth between the inner lip landmarks of a happy face: drawing and landmarks share one geometry."""
    world = World(n=70, size=96, subjects=10)
    pictures, truth = gallery(world, 70)
    for i in np.flatnonzero(truth.expression == 1)[:6]:
        x, y = truth.points[i, [61, 62, 63, 65, 66, 67]].mean(0).astype(int)
        assert pictures[i, y - 3 : y + 4, x - 2 : x + 3].astype(int).min(-1).max() > 140  # something nearly white


def test_seed_repeats_and_differs() -> None:
    first, _ = gallery(SMALL, 16)
    again, _ = gallery(SMALL, 16)
    other, _ = gallery(replace(SMALL, seed=1), 16)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_subjects_stay_in_one_split() -> None:
    truth = sample(World(n=600, size=32, subjects=20))
    splits = {subject: set(truth.split[truth.subject == subject]) for subject in np.unique(truth.subject)}
    assert all(len(found) == 1 for found in splits.values())
    assert {"train", "valid", "test"} == set.union(*splits.values())


@pytest.mark.parametrize("pattern", ["paired", "latin"])
def test_bias_ties_class_and_camera(pattern: str) -> None:
    world = World(n=4000, size=32, domains=3, bias=1.0, pattern=pattern, test_domains="reversed")
    truth = sample(world)
    own = (truth.expression + world.fold) % 3 == truth.domain
    train = truth.split == "train"
    assert own[train].all() if pattern == "paired" else not own[train].any()
    assert own[truth.split == "test"].any() != own[train].any()
    half = sample(replace(world, bias=0.5, pattern="paired", test_domains="even"))
    own = (half.expression + world.fold) % 3 == half.domain
    assert own[half.split == "train"].mean() == pytest.approx(0.5 + 0.5 / 3, abs=0.04)
    assert own[half.split == "test"].mean() == pytest.approx(1 / 3, abs=0.06)


def test_ambiguity_noise_and_annotation() -> None:
    clear, mixed = sample(World(n=2000, size=32)), sample(World(n=2000, size=32, ambiguity=1.0))
    assert clear.mixture.max(1).min() == 1
    assert 0.5 <= mixed.mixture.max(1).min() < 0.6
    noisy = sample(World(n=4000, size=32, label_noise=0.2))
    train = noisy.split == "train"
    assert (noisy.label != noisy.expression)[train].mean() == pytest.approx(0.2, abs=0.03)
    assert (noisy.label == noisy.expression)[~train].all()
    single = sample(World(n=4000, size=32, ambiguity=1.0, annotation="single"))
    train = single.split == "train"
    assert (single.label != single.expression)[train].mean() == pytest.approx(0.25, abs=0.04)


def test_sequences_go_from_neutral_and_back() -> None:
    truth = sample(World(n=210, size=32, frames=15, subjects=10))
    strength = truth.intensities.sum(1).reshape(14, 15)
    assert (strength[:, [0, -1]] < 1e-6).all()
    steps = np.abs(np.diff(strength, axis=1)).max(1)
    assert (steps <= 0.55 * strength.max(1)).all()  # smooth
    assert (truth.time.reshape(14, 15) == np.arange(15) / 12.5).all()
    assert len(np.unique(truth.video)) == 14


def test_prepared_world_has_what_was_asked(tmp_path) -> None:
    data = make_world(tmp_path / "w", replace(SMALL, labels="expression+va", unlabelled=0.3, domains=2, frames=4))
    assert isinstance(data, PreparedData)
    assert data.schema.labels.expressions == SMALL.classes
    assert data.schema.labels.action_units == ()
    assert "au" not in data.rows
    assert 0.1 < data.rows["expression"].isna().mean() < 0.5
    assert np.isnan(data.stack("valence")).any()
    assert data.stack("landmarks").shape == (120, 136)
    assert set(data.rows["domain"]) == {"studio", "warm"}
    assert data.rows.groupby("video")["time"].max().eq(3 / 12.5).all()
    truth = read_truth(tmp_path / "w")
    labelled = data.rows["expression"].notna()
    assert (truth["label"][labelled] == data.rows["expression"][labelled]).all()
    with pytest.raises(HonneError, match="not empty"):
        make_world(tmp_path / "w", SMALL)


def test_rows_are_what_the_data_set_holds(tmp_path) -> None:
    world = replace(SMALL, n=24)
    data = make_world(tmp_path / "w", world)
    given = list(rows(world))
    assert [row.id for row in given] == data.rows["id"].tolist()
    np.testing.assert_array_equal(given[5].au, data.rows["au"][5])
    assert set(data.schema.labels.action_units) == {unit for name in world.classes for unit in CODEBOOK[name]}


@pytest.mark.parametrize(
    "knobs", [{"bias": 1.5}, {"classes": ("happiness", "fear")}, {"labels": "smile"}, {"domains": 9}, {"n": 0}]
)
def test_wrong_knobs_are_refused(knobs: dict) -> None:
    with pytest.raises(WrongCall):
        World(**knobs)


def test_feature_sequences(tmp_path) -> None:
    talks = Talks(n=200, subjects=10, missing=0.3, agreement=1.0)
    data = make_sequences(tmp_path / "t", talks)
    reader = SequenceReader(tmp_path / "t" / "sequences")
    assert reader.widths() == talks.widths
    shapes = [{name: features.shape for name, features in reader.read(r).items()} for r in data.rows["sequence"]]
    for name, (short, long) in talks.lengths.items():
        lengths = np.array([shape[name][0] for shape in shapes])
        assert all(shape[name][1] == talks.widths[name] for shape in shapes)
        assert 0.1 < (lengths == 0).mean() < 0.5
        present = lengths[lengths > 0]
        assert short <= present.min() < present.max() <= long
    assert all(any(length for length, _ in shape.values()) for shape in shapes)
    assert data.rows.groupby("subject")["split"].nunique().max() == 1
    assert (data.rows["domain"] == "agrees").eq(data.rows["split"] != "test").all()


def test_the_dominant_modality_misleads(tmp_path) -> None:
    """A nearest-mean reader of the dominant modality is right in training and wrong at test time; of another, right."""
    data = make_sequences(tmp_path / "t", Talks(n=600, agreement=1.0))
    reader = SequenceReader(tmp_path / "t" / "sequences")
    label, train = data.rows["expression"].to_numpy(), (data.rows["split"] == "train").to_numpy()

    def accuracy(modality: str) -> float:
        means = np.stack([reader.read(reference)[modality].mean(0) for reference in data.rows["sequence"]])
        centres = {name: means[train & (label == name)].mean(0) for name in np.unique(label)}
        guess = [min(centres, key=lambda name: np.square(centres[name] - each).sum()) for each in means[~train]]
        return float((np.array(guess) == label[~train]).mean())

    assert accuracy("vision") > 0.5
    assert accuracy("text") < 0.5


def test_sequence_writer_refuses_what_does_not_fit(tmp_path) -> None:
    with SequenceWriter(tmp_path / "s", {"a": 2}) as writer:
        with pytest.raises(HonneError, match="expected"):
            writer.add({"a": np.zeros((3, 3))})
        with pytest.raises(HonneError, match="step 1"):
            writer.add({"a": np.array([[0, 0], [np.nan, 0]])})
        with pytest.raises(HonneError, match="unknown modality"):
            writer.add({"b": np.zeros((3, 2))})
        assert writer.add({"a": np.ones((3, 2))}) == "00000:0"
        assert writer.add({}) == "00000:1"
    read = SequenceReader(tmp_path / "s").read
    assert read("00000:0")["a"].tolist() == [[1, 1]] * 3
    assert read("00000:1")["a"].shape == (0, 2)

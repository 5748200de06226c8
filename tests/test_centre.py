"""The central share of a picture: the same pixels when training is measured, when evaluating and when analysing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import honne
from honne.data.cropping import DMUE_TEMPLATE
from honne.data.manifest import DataSchema, ImageWriter, PreparedData, write_manifest
from honne.data.prepare import prepare
from honne.data.transforms import Augment, transform
from honne.errors import WrongCall
from honne.evaluation.running import run_model
from honne.faces.align import FER2013_TEMPLATE, Alignment
from honne.faces.face import Face
from honne.faces.geometry import transform_points
from honne.labels import LabelSchema

CENTRE = 0.875


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def test_pixels_are_copied_and_landmarks_and_maps_move_along() -> None:
    image, points = noise(32, 32, 3), np.random.default_rng(0).uniform(0, 32, (1, 68, 2))
    maps = noise(1, 2, 32, 32) / 255
    moved = transform([image], 28, centre=CENTRE, landmarks=points, heatmaps=maps)
    assert (moved.images[0].permute(1, 2, 0).numpy() == image[2:30, 2:30]).all()
    assert moved.landmarks is not None
    assert moved.heatmaps is not None
    np.testing.assert_allclose(moved.landmarks, points - 2, atol=1e-4)
    whole = transform([image], 32, landmarks=points, heatmaps=maps).heatmaps
    assert whole is not None
    assert (moved.heatmaps - whole).abs().max() > 0.1
    turned = transform([image], 28, Augment(warp=1, rotation=1e-9), [np.random.default_rng(0)], centre=CENTRE)
    assert turned.images.shape == (1, 3, 28, 28)


@pytest.mark.parametrize("kind", ["none", "box", "points", "upright"])
def test_an_alignment_keeps_the_centre_of_what_it_frames(kind: str) -> None:
    image = noise(90, 120, 3)
    points = np.array(FER2013_TEMPLATE) * 40 + (30, 20)
    face = Face(np.array([30, 20, 40, 40.0]), points=points)
    whole = Alignment(kind, 64, template=FER2013_TEMPLATE)  # type: ignore[arg-type]
    inner = Alignment(kind, 56, template=FER2013_TEMPLATE, centre=CENTRE)  # type: ignore[arg-type]
    assert (inner.crop(image, face) == whole.crop(image, face)[4:60, 4:60]).all()
    framed = transform_points(whole.matrix(image, face), points)
    np.testing.assert_allclose(transform_points(inner.matrix(image, face), points), framed - 4)
    assert Alignment.from_dict(inner.to_dict()) == inner


@pytest.mark.parametrize("centre", [0.0, 1.2, float("nan")])
def test_what_is_no_share_is_refused(centre: float) -> None:
    with pytest.raises(WrongCall, match="centre is"):
        transform([noise(8, 8)], 8, centre=centre)


def test_a_model_is_shown_the_same_pixels_by_evaluation_and_analysis(tmp_path: Path) -> None:
    rows, pictures = [], [noise(16, 16, 3, seed=i) for i in range(24)]
    with ImageWriter(tmp_path / "data" / "images") as images:
        for i, picture in enumerate(pictures):
            Image.fromarray(picture).save(tmp_path / "picture.png")
            reference = images.add((tmp_path / "picture.png").read_bytes())
            split, label = "valid" if i >= 16 else "train", ("sadness", "happiness")[i % 2]
            rows.append({"id": f"{i}", "split": split, "image": reference, "expression": label})
    labels = LabelSchema(("happiness", "sadness"))
    schema = DataSchema("noise", "test", labels, Alignment("none", 16).to_dict())
    write_manifest(tmp_path / "data", pd.DataFrame(rows), schema)
    options = {
        "model.backbone": "face_resnet",
        "model.backbone_options": {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_width": 8},
        "data.centre": 0.75,
        "data.workers": 0,
        "data.batch_size": 8,
        "trainer.epochs": 1,
        "trainer.accelerator": "cpu",
    }
    model = honne.load(honne.train("erm", data=tmp_path / "data", out=tmp_path / "run", overrides=options))
    assert (model.alignment.size, model.alignment.centre) == (12, 0.75)
    evaluated = run_model(model, PreparedData(tmp_path / "data"), "valid").expression
    crops = np.stack([model.alignment.crop(picture, Face(np.array([0, 0, 16, 16.0]))) for picture in pictures[16:]])
    analysed = model.predict(crops).expression
    assert evaluated is not None
    assert analysed is not None
    torch.testing.assert_close(evaluated, analysed.softmax(1))
    assert (crops == np.stack(pictures[16:])[:, 2:14, 2:14]).all()


def test_faces_are_brought_to_where_dmue_has_them(tmp_path: Path) -> None:
    template = np.array(DMUE_TEMPLATE)
    assert (template > 0.3).all()
    assert (template < 0.75).all()
    assert template[0, 1] == template[1, 1]
    points = template * 80 + (10, 5)
    landmarks = np.zeros((68, 2))
    landmarks[36:42], landmarks[42:48], landmarks[30], landmarks[48], landmarks[54] = points
    cells = {f"{axis}_{i}": [value] for i, xy in enumerate(landmarks) for axis, value in zip("xy", xy, strict=True)}
    Image.fromarray(noise(100, 100, 3)).save(tmp_path / "face.png")
    pd.DataFrame({"path": ["face.png"], "label": ["happy"], "split": ["train"]} | cells).to_csv(tmp_path / "t.csv")
    prepare("table", tmp_path / "t.csv", tmp_path / "data", align="dmue", size=64)
    data = PreparedData(tmp_path / "data")
    alignment = Alignment.from_dict(data.schema.alignment)
    assert (alignment.kind, alignment.size) == ("points", 64)
    moved = data.stack("landmarks", np.array([0]))
    assert moved is not None
    np.testing.assert_allclose(moved.reshape(68, 2)[[36, 42, 30, 48, 54]], template * 64, atol=1e-3)

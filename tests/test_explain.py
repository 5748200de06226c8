"""`honne explain` and `analyze --explain` on drawn faces, whose landmarks are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from honne import analysis, cli
from honne.cues.codebook import UNITS, codebook
from honne.cues.drawing import GRID, REGIONS, action_unit_maps
from honne.data.world import World, gallery
from honne.errors import HonneError, WrongCall
from honne.explain import gallery as galleries
from honne.explain.agreement import PLACES, agreement, expression_maps, sentence, sits_on, unit_text
from honne.explain.explainer import Explainer
from honne.explain.explaining import explain
from honne.explain.pictures import GAP, MARGIN, TILE, panel
from honne.labels import LabelSchema
from honne.models import Model, ModelConfig
from honne.networks.face import FaceNetwork

SIDE = 64
CLASSES = ("neutral", "happiness", "surprise", "sadness", "anger")
OPTIONS: dict[str, Any] = {
    "backbone": "face_resnet",
    "backbone_options": {"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8], "stem_width": 4, "output_stride": 16},
}
TABLE = torch.from_numpy(codebook("facs").table(CLASSES))
HAPPINESS, SADNESS = TABLE[1], TABLE[3]


@pytest.fixture(scope="module")
def faces() -> tuple[np.ndarray, np.ndarray]:
    """(4, `SIDE`, `SIDE`, 3) drawn faces and their (4, 68, 2) landmarks."""
    pictures, truth = gallery(World(n=8, size=SIDE, seed=3), 4)
    return pictures, truth.points[:4, :68].astype(np.float32)


def make(expressions: tuple[str, ...] = CLASSES, **changes: Any) -> Model:
    torch.manual_seed(0)
    schema = LabelSchema(expressions, () if expressions else (1,))
    network = FaceNetwork(schema, **OPTIONS)
    config = {"network": {"kind": "face", "options": OPTIONS}, "mean": [0.5] * 3, "std": [0.25] * 3}
    alignment = {"kind": "none", "size": SIDE}
    return Model(ModelConfig("tiny", "erm", labels=schema, alignment=alignment, **config, **changes), network)


@pytest.fixture
def photos(tmp_path: Path, faces: tuple[np.ndarray, np.ndarray]) -> Path:
    """Two faces, an empty picture and a broken one, with a table of the landmarks beside them."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, image in zip(("a", "b"), faces[0], strict=False):
        Image.fromarray(image).save(folder / f"{name}.png")
    Image.new("RGB", (SIDE, SIDE)).save(folder / "empty.png")
    (folder / "broken.png").write_bytes(b"no picture")
    names = [f"{axis}_{number}" for number in range(68) for axis in "xy"]
    rows = pd.DataFrame(faces[1][:3].reshape(3, -1), columns=names)
    rows["source"], rows["frame"] = ["a.png", "b.png", "empty.png"], [0, 0, 7]  # of `empty.png` another frame
    rows["score"] = 0.9
    rows.to_csv(tmp_path / "known.csv", index=False)
    return folder


def finder(photos: Path) -> str:
    return f"table:{photos.parent / 'known.csv'}"


def blobs(points: torch.Tensor, width: float) -> torch.Tensor:
    """(B, GRID, GRID) Gaussians at points (B, K, 2) px."""
    steps = (torch.arange(GRID) + 0.5) / GRID * SIDE
    squares = (steps[:, None, None] - points[:, :, 1, None, None, None]) ** 2
    away = squares[..., 0] + (steps - points[:, :, 0, None, None]) ** 2
    return (-away / (2 * width**2)).exp().amax(1)


def test_a_map_sits_where_it_was_put(faces: tuple[np.ndarray, np.ndarray]) -> None:
    landmarks = torch.from_numpy(faces[1])
    corners = blobs(landmarks[:, [48, 54]], SIDE / 16)
    for shown, units, text in ((HAPPINESS, (12,), "AU12"), (SADNESS, (15,), "AU15"), (TABLE[0], (12, 15), "AU12/15")):
        for regions in sits_on(corners, landmarks, shown.expand(4, -1), SIDE):
            assert regions[0].units == units
            assert regions[0].place == "lip corners"
            assert regions[0].lift > 5
            assert unit_text(regions).split()[0] == text
    cheeks_too = corners + blobs(landmarks[:, [41, 46]] + torch.tensor([0, SIDE / 6]), SIDE / 16)
    regions = sits_on(cheeks_too, landmarks, HAPPINESS.expand(4, -1), SIDE)[0]
    assert {each.units for each in regions[:2]} == {(6,), (12,)}
    assert sentence("attention", regions[:1]) in (
        "attention sits on cheeks: AU 6",
        "attention sits on lip corners: AU 12",
    )
    assert " and " in sentence("attention", regions)


def test_every_region_is_found_by_its_own_map(faces: tuple[np.ndarray, np.ndarray]) -> None:
    landmarks = torch.from_numpy(faces[1][:1]).expand(len(REGIONS), -1, -1)
    units = torch.tensor([[unit == region for unit in UNITS] for region in REGIONS])
    maps = action_unit_maps(landmarks, units, SIDE)
    found = sits_on(maps, landmarks, units, SIDE)
    assert [each[0].units for each in found] == [(region,) for region in REGIONS]
    assert [each[0].place for each in found] == [PLACES[region] for region in REGIONS]


def test_coarse_maps_of_the_codebook_sit_on_its_action_units(faces: tuple[np.ndarray, np.ndarray]) -> None:
    landmarks = torch.from_numpy(faces[1]).repeat(len(CLASSES) - 1, 1, 1)
    shown = TABLE[1:].repeat_interleave(4, 0)
    maps = torch.nn.functional.adaptive_avg_pool2d(action_unit_maps(landmarks, shown, SIDE), 8)
    regions = [region for each in sits_on(maps, landmarks, shown, SIDE) for region in each]
    assert np.mean([region.expected for region in regions]) > 0.8


def test_an_even_map_and_an_unknown_face_sit_nowhere(faces: tuple[np.ndarray, np.ndarray]) -> None:
    landmarks = torch.from_numpy(faces[1][:2]).clone()
    landmarks[1] = torch.nan
    maps = torch.ones(2, GRID, GRID)
    maps[1] = blobs(torch.full((1, 1, 2), SIDE / 2), 4)[0]
    found = sits_on(maps, landmarks, HAPPINESS.expand(2, -1), SIDE)
    assert found == [(), ()]
    assert "no action unit" in sentence("attention", found[0])


def test_agreement_and_what_it_is_compared_with(faces: tuple[np.ndarray, np.ndarray]) -> None:
    landmarks = torch.from_numpy(faces[1][:2])
    cues = expression_maps(landmarks, TABLE, SIDE)
    found = agreement(cues[:, 1], cues, TABLE, torch.tensor([1, 1]))
    torch.testing.assert_close(found.cosine, torch.ones(2))
    assert (found.others < 0.9).all()
    assert ((found.blob > 0.2) & (found.blob < 0.9)).all()
    neutral = agreement(cues[:, 1], cues, TABLE, torch.tensor([0, 0]))
    assert all(each.isnan().all() for each in (neutral.cosine, neutral.blob, neutral.others))


def test_command_line(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, model = photos.parent / "out", make().save(photos.parent / "model", metrics={}, card="")
    words = ["explain", str(model), str(photos), "--out", str(out), "--finder", finder(photos), "--target", "Happy"]
    assert cli.main(words) == 3
    assert "broken.png" in capsys.readouterr().out
    rows = pd.read_csv(out / "explanations.csv")
    assert rows.columns.tolist() == galleries.COLUMNS
    names = ["a.png", "b.png", "broken.png", "empty.png"]
    assert rows["source"].map(lambda source: Path(source).name).tolist() == names
    assert rows["status"].str.replace("low_quality", "ok").tolist() == ["ok", "ok", "error", "no_face"]
    assert rows["expression"][:2].eq("happiness").all()
    assert rows[["cosine", "attention_cosine", "blob", "others", "p"]][:2].ge(0).all(axis=None)
    assert rows[["cosine", "expression", "picture"]][2:].isna().all(axis=None)
    arrays = np.load(out / "explanations.npz")
    assert {name: arrays[name].shape for name in arrays} == {
        "map": (4, 8, 8), "attention": (4, 8, 8), "cue": (4, GRID, GRID), "landmarks": (4, 68, 2)
    }  # fmt: skip
    assert np.isfinite(arrays["map"][:2]).all()
    assert np.isnan(arrays["map"][2:]).all()
    note = json.loads((out / "explanations.json").read_text())
    assert note["outputs are"] == "predicted apparent expression"
    assert note["settings"]["target"] == "happiness"
    regions = [region for face in note["faces"][:2] for region in face["regions"] + face["attention_regions"]]
    assert all({"units", "expected", "place", "share", "lift"} == set(region) for region in regions)
    assert (
        sorted(path.name for path in out.glob("*.png"))
        == rows["picture"][:2].tolist()
        == ["a_face0.png", "b_face0.png"]
    )

    assert cli.main(words) == 1
    assert "--overwrite" in capsys.readouterr().err
    (out / "mine.png").write_bytes(b"")
    assert cli.main(["explain", str(model), str(photos / "a.png"), *words[3:], "--overwrite"]) == 0
    assert sorted(path.name for path in out.glob("*.png")) == ["a_face0.png", "mine.png"]


@pytest.mark.parametrize(("kind", "tiles"), [("layercam", 4), ("attention", 3), ("au", 3)])
def test_kinds_of_maps(kind: str, tiles: int, photos: Path, faces: tuple[np.ndarray, np.ndarray]) -> None:
    out = photos.parent / kind
    done = explain(make(), [str(photos / "a.png")], out=out, map=kind, finder=finder(photos), target="anger")
    row = done.rows.iloc[0]
    with Image.open(out / row["picture"]) as image:
        assert image.width == 2 * MARGIN + tiles * TILE + (tiles - 1) * GAP
    assert (row["cosine"] == row["attention_cosine"]) == (kind != "layercam")
    arrays = np.load(out / "explanations.npz")
    np.testing.assert_allclose(arrays["landmarks"][0], faces[1][0], atol=1e-3)
    wanted = action_unit_maps(torch.from_numpy(faces[1][:1]), TABLE[4:5], SIDE)[0]
    np.testing.assert_allclose(arrays["cue"][0], wanted, atol=1e-4)
    if kind == "au":
        np.testing.assert_array_equal(arrays["map"], arrays["cue"])


def test_without_landmarks_or_action_units_there_is_no_agreement(
    photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, target, where in (("cropped", "anger", "cropped"), ("neutral", "neutral", finder(photos))):
        out = photos.parent / name
        rows = explain(make(), [str(photos / "a.png")], out=out, target=target, finder=where, map="au").rows
        assert "cosine" not in rows.dropna(axis=1)
        assert (out / rows["picture"][0]).is_file()
    assert "1 faces are not known" in caplog.text


def test_wrong_calls(photos: Path) -> None:
    out, picture = photos.parent / "none", [str(photos / "a.png")]
    for wrong, text in (
        ({"target": "hapiness"}, "Did you mean 'happiness'"),
        ({"map": "layrcam"}, "Did you mean 'layercam'"),
        ({"layer": "9"}, "no layer '9'"),
        ({"landmarks": "none"}, "not one of"),
        ({"fps": 0}, "fps"),
    ):
        with pytest.raises(WrongCall, match=text):
            explain(make(), picture, out=out, finder="cropped", **wrong)  # type: ignore[arg-type]
    with pytest.raises(WrongCall, match="camera"):
        explain(make(), ["camera:0"], out=out)
    with pytest.raises(HonneError, match="no expressions"):
        explain(make(()), picture, out=out, finder="cropped")
    with pytest.raises(HonneError, match="no codebook 'mine'"):
        explain(make(), picture, out=out, finder="cropped", codebook="mine")
    (photos.parent / "file").touch()
    with pytest.raises(HonneError, match="cannot be written"):
        explain(make(), picture, out=photos.parent / "file", finder="cropped")
    assert not out.exists()


def test_the_models_own_settings_are_the_defaults() -> None:
    own = {"map": "gradcam", "aligned": "4-5", "cue": "action_units", "codebook": "reference"}
    explainer = Explainer(make(explanation=own))
    assert explainer.settings() == {
        "map": "gradcam", "layer": "last", "attention of layer": "5", "codebook": "reference"
    }  # fmt: skip


def test_explanations_do_not_depend_on_the_batch(faces: tuple[np.ndarray, np.ndarray]) -> None:
    explainer = Explainer(make())
    together = explainer(*faces)
    for number, each in enumerate(together):
        alone = explainer(*(part[number : number + 1] for part in faces))[0]
        np.testing.assert_allclose(alone.map, each.map, atol=1e-4)
        assert abs(alone.cosine - each.cosine) < 1e-4
        assert unit_text(alone.regions) == unit_text(each.regions)


def test_long_names_fit_into_the_panel(faces: tuple[np.ndarray, np.ndarray]) -> None:
    explainer = Explainer(make(), codebook="reference")
    explained = explainer(faces[0][:1], faces[1][:1], ["anger"])[0]  # nine action units
    assert panel(faces[0][0], explained, explainer, "a very long name " * 30).height > TILE


def test_analysis_with_explanations(photos: Path) -> None:
    out = photos.parent / "tables"
    options: dict[str, Any] = {"finder": finder(photos)}
    plain = analysis.analyze([str(photos)], model=make(), **options)
    analysis.analyze([str(photos)], model=make(), out=out, explain=True, **options)
    rows = pd.read_parquet(out / "photos.parquet")
    assert rows.columns.tolist()[-2:] == ["attention_au", "au_agreement"]
    pd.testing.assert_frame_equal(rows[plain.columns], plain, check_dtype=False)
    note = json.loads((out / "photos.json").read_text())
    assert note["explained"] == "photos_explained"
    explained = pd.read_csv(out / "photos_explained" / "explanations.csv")
    assert explained["expression"].tolist() == rows["expression"].dropna().tolist()
    assert all((out / "photos_explained" / name).is_file() for name in explained["picture"])
    in_memory = analysis.analyze([str(photos)], model=make(), explain=True, **options)
    np.testing.assert_allclose(in_memory["au_agreement"], rows["au_agreement"])
    assert in_memory["attention_au"].tolist() == rows["attention_au"].tolist()


def test_a_video_is_explained_once_a_second_and_goes_on(
    tmp_path: Path, faces: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("av")
    from honne.analysis.video import ClipWriter

    with ClipWriter(tmp_path / "clip.mp4") as clip:
        for number in range(11):
            clip.add(faces[0][number % 4], number / 4)  # four frames a second
    options: dict[str, Any] = {"model": make(), "finder": "cropped", "explain": True}
    rows = analysis.analyze([str(tmp_path / "clip.mp4")], **options)
    close = galleries.Gallery.close

    def broken(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(galleries.Gallery, "close", broken)
    with pytest.raises(KeyboardInterrupt):
        analysis.analyze([str(tmp_path / "clip.mp4")], out=tmp_path / "out", **options)
    assert not (tmp_path / "out" / "clip.parquet").exists()
    monkeypatch.setattr(galleries.Gallery, "close", close)
    analysis.analyze([str(tmp_path / "clip.mp4")], out=tmp_path / "out", **options)
    again = pd.read_parquet(tmp_path / "out" / "clip.parquet")
    pd.testing.assert_frame_equal(again, rows, check_dtype=False)
    pictures = sorted(path.name for path in (tmp_path / "out" / "clip_explained").glob("*.png"))
    assert pictures == [f"clip_{frame:06d}_face0.png" for frame in (0, 4, 8)]


def test_a_model_that_names_no_expressions_is_refused_before_anything_is_read(photos: Path) -> None:
    with pytest.raises(HonneError, match="no expressions"):
        analysis.analyze([str(photos)], model=make(()), explain=True)

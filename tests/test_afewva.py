"""The AFEW-VA reader, on an imitation of its layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from honne.data.manifest import PreparedData
from honne.data.prepare import prepare
from honne.data.readers import Bad, Row, afewva, drawn_split
from honne.errors import HonneError

CLIPS = {"01/001": "Ann Actor", "01/002": "", "12/600": "Ann Actor", "12/599": None}


def landmarks(shift: float = 0.0) -> list[list[float]]:
    """A face in a picture of 90 x 80 px."""
    points = np.full((68, 2), 45.0)
    points[36:42], points[42:48], points[30], points[48], points[54] = (33, 30), (57, 30), (45, 42), (35, 54), (55, 54)
    return (points + shift).tolist()


def write(root: Path, **changed: Any) -> Path:
    """Three frames a clip; the keywords replace values of frame 1 of clip 001."""
    for number, (clip, actor) in enumerate(CLIPS.items()):
        folder = root / clip
        folder.mkdir(parents=True, exist_ok=True)
        frames = {}
        for frame in (2, 0, 1):
            pixels = np.random.default_rng(10 * number + frame).integers(0, 255, (80, 90, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{frame:05d}.png")
            values = {"valence": frame - 2 * number, "arousal": 10 - frame}
            frames[f"{frame:05d}"] = {"landmarks": landmarks(frame), **values}
        if clip == "01/001":
            frames["00001"] = {key: value for key, value in (frames["00001"] | changed).items() if value is not None}
        whole = {"frames": frames} | ({} if actor is None else {"actor": actor})
        (folder / f"{folder.name}.json").write_text(json.dumps(whole))
    return root


def read(root: Path, **options: Any) -> tuple[dict[str, Row], list[Bad]]:
    entries = list(afewva.read(root, **options))
    return {e.id: e for e in entries if isinstance(e, Row)}, [e for e in entries if isinstance(e, Bad)]


def test_clips(tmp_path: Path) -> None:
    root = write(tmp_path)
    (root / "12/600/00002.png").unlink()
    rows, bad = read(root)
    assert [name for name in rows if name.startswith("002")] == ["002/00000", "002/00001", "002/00002"]
    assert len(rows) == 11
    row = rows["600/00001"]
    assert (row.video, row.subject, row.time) == ("600", "Ann Actor", 1 / 25)
    assert (row.valence, row.arousal) == pytest.approx((-0.3, 0.9))
    np.testing.assert_array_equal(row.landmarks, np.float32(landmarks(1)))
    assert rows["002/00000"].subject is None
    for name, row in rows.items():
        assert row.split == drawn_split(row.subject or name[:3])
    assert [(entry.reason, entry.kind) for entry in bad] == [("row without image", "image")]
    assert {row.split for row in read(root, splits="train")[0].values()} == {"train"}


def test_scaled() -> None:
    np.testing.assert_array_equal(afewva.scaled(np.array([[-10, 0], [5, 10]])), [[-1, 0], [0.5, 1]])


def test_end_to_end(tmp_path: Path) -> None:
    assert prepare("afewva", write(tmp_path / "AFEW-VA"), tmp_path / "data") == 0
    data = PreparedData(tmp_path / "data")
    assert data.schema.labels.valence_arousal
    assert len(data.rows) == 12
    assert {"video", "time", "valence", "arousal", "landmarks", "subject"} <= set(data.rows.columns)
    points = np.stack(data.rows["landmarks"]).reshape(-1, 68, 2)
    assert np.ptp(points, axis=0).max() < 1e-3  # the shift of the face is taken out
    assert points.min() > 0
    assert points.max() < 112
    card = (tmp_path / "data/card.md").read_text()
    assert "4 clips, 2 with the actor's name" in card


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"valence": 11}, r"valence 11, arousal 9: not in \[-10, 10\]"),
        ({"arousal": float("nan")}, "arousal nan: not in"),
        ({"valence": "high"}, "no numbers for valence"),
        ({"arousal": None}, "no numbers for valence"),
        ({"landmarks": [[1, 2]]}, r"landmarks are \(1, 2\), not 68"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    root = write(tmp_path / "AFEW-VA", **changed)
    with pytest.raises(HonneError, match=rf"001\.json, frame 00001: .*{message}"):
        prepare("afewva", root, tmp_path / "data")
    _, bad = read(root)
    assert [entry.kind for entry in bad] == ["label"]


def test_broken_files(tmp_path: Path) -> None:
    root = write(tmp_path)
    (root / "01/001/001.json").write_text('{"frames": {')
    (root / "01/002/002.json").write_text("[]")
    rows, bad = read(root)
    assert {row.video for row in rows.values()} == {"599", "600"}
    assert [(entry.reason, entry.kind) for entry in bad] == [("broken file", "label")] * 2
    with pytest.raises(HonneError, match="expects the folders 01 to 12"):
        list(afewva.read(root / "01/001/nothing"))

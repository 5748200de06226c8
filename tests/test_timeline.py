"""The timeline of a video and the panels of an annotated frame: what is drawn, from tables whose content is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageColor

from honne import analysis
from honne.analysis import table, timeline, video
from honne.analysis.timeline import Timeline, clock, expression_colours
from honne.errors import WrongCall
from honne.labels import LabelSchema

CLASSES = ("neutral", "happiness", "anger")
ALL = LabelSchema(CLASSES, (1, 12), True)


def rows_of(labels: LabelSchema, faces: list[int | None], times: np.ndarray) -> pa.Table:
    """Decided rows, one a frame: happiness 0.8; AU12 on in even frames; frame 3 of low quality, 4 and 5 abstained."""
    layout, count = table.Layout(labels), len(faces)
    seen = np.array([face is not None for face in faces])
    status = [("low_quality" if n == 3 else "abstained" if n in (4, 5) else "ok") for n in range(count)]
    columns: dict[str, object] = {name: [None] * count for name in layout.raw_schema.names}
    columns |= {"_position": range(count), "frame": range(count), "face": faces, "time": times}
    columns |= {"status": [s if there else "no_face" for s, there in zip(status, seen, strict=True)]}
    figures = {
        "p_neutral": 0.1,
        "p_happiness": 0.8,
        "p_anger": 0.1,
        "uncertainty": 0.4,
        "valence": 0.5,
        "arousal": -0.5,
    }
    for column in layout.signals:
        value = np.arange(count) % 2 == 0 if column.name == "au12" else np.full(count, figures.get(column.name, 0.2))
        columns[column.name] = np.where(seen, value, np.nan)
    raw = pa.table({n: pa.array(columns[n], layout.raw_schema.field(n).type, from_pandas=True) for n in columns})
    for unit in labels.action_units:
        on = pa.array(np.nan_to_num(raw[f"au{unit:02d}"].to_numpy()) >= 0.5, pa.bool_(), mask=~seen)
        raw = raw.append_column(f"au{unit:02d}_on", on)
    return raw


def filled(labels: LabelSchema, rows: pa.Table, size: int = 7) -> Timeline:
    parts = [rows.slice(start, size) for start in range(0, len(rows), size)]
    made = Timeline((part.select(["_position", "time", "face"]) for part in parts), table.Layout(labels))
    made.fill(iter(parts))
    return made


def test_bins_are_frames_at_their_own_times() -> None:
    times = np.array([0, 0.1, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    made = filled(ALL, rows_of(ALL, [0, 0, None, 0, 0, 0, None, 0], times), 3)
    assert made.step == 1
    assert np.allclose(made.edges[:-1], times)
    assert made.edges[-1] == pytest.approx(1.0 + 1 / 7)  # the last frame lasts as long as the others on average
    assert made.counts[0].sum(1).tolist() == [1, 1, 0, 1, 1, 1, 0, 1]
    assert made.counts[0].argmax(1)[[0, 3, 4, 5]].tolist() == [0, 1, 2, 2]
    assert made.on[0, :, 1].tolist() == [1, 0, 0, 0, 1, 0, 0, 0]


def test_long_videos_are_binned_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "MOST_BINS", 100)
    faces: list[int | None] = [0] * 600 + [None] * 300 + [0] * 105
    times = np.arange(1005) / 10
    for size in (1, 64, 1005):
        made = filled(ALL, rows_of(ALL, faces, times), size)
        assert made.step == 16
        assert np.allclose(made.edges[:-1], times[::16])
        assert made.edges[-1] == pytest.approx(100.5)
        assert made.counts.sum() == 705
        assert made.totals.shape[1] == 63 == len(made.edges) - 1
        assert (made.counts[0].sum(1) == 0).sum() == 18  # whole bins without a face


def test_the_faces_seen_most_are_drawn() -> None:
    faces: list[int | None] = [n % 7 for n in range(70)] + [3] * 5 + [6, 5, 2]
    made = filled(ALL, rows_of(ALL, faces, np.arange(78) / 25))
    assert made.faces == [2, 3, 5, 6]
    assert "4 most seen of 7 faces" in made._foot("model m")
    assert Timeline([], table.Layout(ALL)).faces == []


@pytest.mark.parametrize(
    "labels",
    [ALL, LabelSchema(CLASSES), LabelSchema((), (1, 12)), LabelSchema((), (), True), LabelSchema(("calm", "pain"))],
)
def test_picture_has_the_models_panels(labels: LabelSchema, tmp_path: Path) -> None:
    faces: list[int | None] = [0] * 20 + [None] * 20
    made = filled(labels, rows_of(labels, faces, np.arange(40) / 25))
    made.draw(tmp_path / "a.png", "a.mp4", "model m")
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))
    left = pixels[:, : pixels.shape[1] // 2]

    def drawn(colour: str) -> int:
        return int((left == np.array(ImageColor.getrgb(colour))).all(2).sum())

    assert (drawn(timeline.EXPRESSION_COLOURS["happiness"]) > 10_000) == (labels.expressions == CLASSES)
    assert (drawn(timeline.VISIBLE) > 500) == bool(labels.action_units)
    assert (drawn(timeline.AROUSAL) > 500) == (labels.valence_arousal or "anger" in labels.expressions)
    assert drawn(timeline.STATUS_COLOURS["abstained"]) > 300
    assert (pixels[:, 700:1400] == np.array(ImageColor.getrgb(timeline.GAP))).all(2).sum() > 5000  # nobody there


def test_words_and_colours() -> None:
    assert [clock(time) for time in (0, 7, 0.3, 0.25, 65, 3723)] == [
        "0:00",
        "0:07",
        "0:00.3",
        "0:00.25",
        "1:05",
        "1:02:03",
    ]
    for names in (CLASSES, (*timeline.EXPRESSION_COLOURS, "other"), ("calm", "pain", "happiness")):
        colours = expression_colours(names)
        assert len(set(colours)) == len(names)
    assert len(expression_colours([str(n) for n in range(30)])) == 30
    with pytest.raises(WrongCall, match="--timeline needs --out"):
        analysis.analyze(["a.mp4"], timeline=True)


def annotated(labels: LabelSchema, box: tuple[float, ...], trails: dict[int, video.Trail] | None = None) -> np.ndarray:
    row = rows_of(labels, [0], np.zeros(1)).to_pylist()[0] | {"expression": "happiness"}
    row |= {f"box_{side}": value for side, value in zip("xywh", box, strict=True)}
    return np.asarray(video.annotate(np.full((480, 640, 3), 128, np.uint8), [row], table.Layout(labels), "", 0, trails))


def test_panel_shows_all_three_tasks_and_the_trail() -> None:
    box = (100, 80, 160, 200)
    plain, whole = annotated(LabelSchema(CLASSES), box), annotated(ALL, box)
    panel = (slice(80, 330), slice(268, 474))
    dark = [(picture[panel].max(2) < 75).sum() for picture in (plain, whole)]
    assert dark[1] > dark[0] + 10_000  # a higher panel: action units, valence and arousal
    trailed = annotated(ALL, box, {0: [(-0.8, 0.8), (0.5, -0.5)]})
    changed = np.argwhere((trailed != whole).any(2))
    assert len(changed) > 30
    assert np.ptp(changed, axis=0).max() <= 66  # within the little square
    small = annotated(ALL, (100, 80, 60, 60))
    assert (small[panel] == 128).all()  # a small face gets a label over it instead


def test_trails_are_short_and_each_faces_own() -> None:
    trails = video._Trails(table.Layout(ALL))
    for n in range(20):
        found = trails.after([{"face": 0, "valence": n / 20, "arousal": 0.0}, {"face": None}], n / 10)
    assert found == {0: [(n / 20, 0.0) for n in range(14, 20)]}
    assert trails.after([], 10.0) == {}

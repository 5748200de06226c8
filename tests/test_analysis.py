"""The analysis table: contract, streaming, resuming, smoothing, baselines, writers, engines, bad input.

Videos are coloured squares on black; a scripted finder takes a red and a green square for faces, and a tiny network
reads their colour. What the table must say is therefore known.
"""

from __future__ import annotations

import errno
import json
import os
import signal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from PIL import Image
from torch import nn

import honne
from honne import analysis
from honne.analysis import baseline, inputs, parts, pipeline, run, smoothing, table, writers
from honne.analysis.settings import Baseline, Settings, Smoothing
from honne.batch import Batch, Prediction
from honne.errors import HonneError, WrongCall
from honne.faces.align import Alignment
from honne.faces.face import Face
from honne.faces.media import Frame
from honne.labels import LabelSchema
from honne.models import Model, ModelConfig

av = pytest.importorskip("av")

CLASSES = ("neutral", "happiness", "surprise")
LABELS = LabelSchema(CLASSES, (1, 12), True)
COLUMNS = [
    *("source", "frame", "time", "face", "status", "message", "box_x", "box_y", "box_w", "box_h", "face_score"),
    *("quality", "yaw", "pitch", "roll", "expression", "p_neutral", "p_happiness", "p_surprise", "uncertainty"),
    *("valence", "arousal", "au01", "au12", "au01_on", "au12_on"),
]
SIDE = 96


class Colours(nn.Module):
    """Logits that are a fixed mix of the crop's mean colour."""

    def __init__(self, labels: LabelSchema) -> None:
        super().__init__()
        self.labels = labels
        self.mix = nn.Parameter(torch.tensor([[-6.0, 1, 0], [12, -1, 0], [0, 3, 2]]))

    def forward(self, batch: Batch) -> Prediction:
        logits = batch.images.mean((2, 3)) @ self.mix.T
        return Prediction(
            expression=logits,
            action_units=logits[:, :2] if self.labels.action_units else None,
            valence_arousal=(logits[:, 1:] / 10).tanh() if self.labels.valence_arousal else None,
        )


def model(labels: LabelSchema = LABELS, **options: object) -> Model:
    alignment = Alignment("box", 16, 1.0).to_dict()
    config = ModelConfig("colours", "erm", {}, labels, [0.0] * 3, [1.0] * 3, alignment, 1.0, {12: 0.8}, **options)
    return Model(config, Colours(labels))


class Squares:
    """Finds red and green squares; remembers how many images it was shown, and stops at one if told to."""

    shown = 0
    stop_at = -1

    def find(self, image: np.ndarray) -> list[Face]:
        Squares.shown += 1
        if Squares.shown == Squares.stop_at:
            raise KeyboardInterrupt
        found = []
        for channel in (0, 1):
            rows, columns = np.nonzero((image[..., channel] > 70) & (image[..., 1 - channel] < 50))
            if len(rows) > 40:
                box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
                found.append(Face(np.array(box, float), 0.9, pose=np.array([1.0, 2.0, 3.0])))
        return found


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    Squares.shown, Squares.stop_at = 0, -1
    monkeypatch.setattr(pipeline, "make_finder", lambda name: Squares())
    monkeypatch.setattr(pipeline, "quality", lambda image, face: 0.05 if face.box[2] < 18 else 0.9)


def picture(number: int, red: bool = True, green: bool = False, size: int = 24) -> np.ndarray:
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    brightness = 110 + 14 * (number * 7 % 11)
    for here, channel, left in ((red, 0, 8), (green, 1, 60)):
        if here:
            top = 20 + number % 13
            image[top : top + size, left : left + size, channel] = brightness
    return image


def film(path: Path, pictures: list[np.ndarray], times: list[float] | None = None) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "1"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv444p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, image in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = round(1000 * (times[number] if times else number / 25))
            frame.time_base = Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """90 frames, 25 a second: red throughout but for frames 40-49, green from frame 20 on."""
    pictures = [picture(n, red=not 40 <= n < 50, green=n >= 20) for n in range(90)]
    return film(tmp_path_factory.mktemp("clip") / "clip.mp4", pictures)


def test_table_contract(tmp_path: Path) -> None:
    times = [0.0, 0.04, 0.2, 0.21, 0.5, 1.0]  # variable frame rate
    video = film(tmp_path / "a.mp4", [picture(n, red=n < 4) for n in range(6)], times)
    rows = analysis.analyze([str(video)], model=model())
    assert list(rows.columns) == COLUMNS
    assert rows["source"].eq(str(video)).all()
    assert rows["frame"].tolist() == list(range(6))
    assert np.allclose(rows["time"], times, atol=2e-3)
    assert rows["status"].tolist() == ["ok"] * 4 + ["no_face"] * 2
    assert rows["face"][:4].eq(0).all()
    seen, unseen = rows[:4], rows[4:]
    assert unseen.drop(columns=["source", "frame", "time", "status"]).isna().all(axis=None)
    probabilities = seen[[f"p_{name}" for name in CLASSES]]
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    assert seen["expression"].tolist() == [CLASSES[i] for i in probabilities.to_numpy().argmax(1)]
    assert seen["uncertainty"].between(0, 1).all()
    assert (seen["au01_on"] == (seen["au01"] >= 0.5)).all()
    assert (seen["au12_on"] == (seen["au12"] >= 0.8)).all()
    assert abs(seen["box_w"] - 24).max() <= 2
    assert seen[["yaw", "pitch", "roll"]].eq([1, 2, 3]).all(axis=None)


def test_columns_that_the_model_cannot_fill_are_absent(clip: Path) -> None:
    rows = analysis.analyze([str(clip)], model=model(LabelSchema(CLASSES)), fps=5)
    assert list(rows.columns) == COLUMNS[:20]
    assert sorted(set(rows["frame"])) == list(range(0, 90, 5))


def test_statuses_say_why(tmp_path: Path) -> None:
    video = film(tmp_path / "a.mp4", [picture(0), picture(0, size=14), picture(0, red=False, green=True)])
    rows = analysis.analyze([str(video)], model=model(), abstain=0.5)
    assert rows["status"].tolist() == ["ok", "low_quality", "abstained"]
    assert rows["message"][1].startswith("quality 0.05 is below")
    assert rows["message"][2].startswith("uncertainty 0.")
    assert rows["p_neutral"].notna().all()
    assert analysis.analyze([str(video)], model=model(abstain=0.5)).equals(rows)
    with pytest.raises(WrongCall, match="abstain"):
        analysis.analyze([str(video)], model=model(), abstain=1.5)


def test_tracks_are_stable_and_chunks_change_nothing(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = analysis.analyze([str(clip)], model=model(), smooth="median:5")
    assert len(whole) == 80 + 70
    red = whole[whole["box_x"] < 30]
    assert red["face"].eq(0).all()
    assert whole.drop(red.index)["face"].eq(1).all()
    for part, batch in ((1000, 1), (7, 3), (16, 32)):
        monkeypatch.setattr(parts, "PART_FRAMES", part)
        monkeypatch.setattr(pipeline, "PART_FRAMES", part)
        monkeypatch.setattr(run, "PART_FRAMES", part)
        again = analysis.analyze([str(clip)], model=model(), smooth="median:5", batch_size=batch)
        pd.testing.assert_frame_equal(again, whole, rtol=0, atol=1e-6)


def shorten_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (parts, pipeline, run):
        monkeypatch.setattr(module, "PART_FRAMES", 16)


def test_interrupted_video_goes_on(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_parts(monkeypatch)
    options = {"model": model(), "smooth": "exponential:0.4", "baseline": "first:1s"}
    analysis.analyze([str(clip)], out=tmp_path / "whole", **options)
    Squares.shown, Squares.stop_at = 0, 60
    with pytest.raises(KeyboardInterrupt, match="run the same command again"):
        analysis.analyze([str(clip)], out=tmp_path / "broken", **options)
    assert not list((tmp_path / "broken").glob("clip.*"))
    Squares.shown, Squares.stop_at = 0, -1
    (done,) = analysis.analyze([str(clip)], out=tmp_path / "broken", **options).done
    assert 90 - 60 <= Squares.shown <= 90 - 32  # the parts that were written are not read again
    assert done.table.read_bytes() == (tmp_path / "whole" / "clip.parquet").read_bytes()
    assert [path.name for path in sorted((tmp_path / "broken").iterdir())] == ["clip.json", "clip.parquet"]


def test_finished_inputs_are_skipped_and_others_never_overwritten(clip: Path, tmp_path: Path) -> None:
    analysis.analyze([str(clip)], model=model(), out=tmp_path)
    note = json.loads((tmp_path / "clip.json").read_text())
    assert note["outputs are"] == "predicted apparent expression"
    assert note["honne"] == honne.__version__
    assert note["model"]["sha256"] == model().sha256
    assert note["settings"]["smooth"] == "none"
    assert len(note["input"]["sha256"]) == 64
    assert note["counts"] == {"ok": 150}
    assert note["started"] <= note["ended"]
    Squares.shown = 0
    analysis.analyze([str(clip)], model=model(), out=tmp_path, batch_size=5)
    assert Squares.shown == 0
    with pytest.raises(HonneError, match="another input, model or settings"):
        analysis.analyze([str(clip)], model=model(), out=tmp_path, smooth="mean:3")
    analysis.analyze([str(clip)], model=model(), out=tmp_path, smooth="mean:3", format="csv", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.csv", "clip.json"]


def test_folders_stills_and_bad_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "photos"
    (folder / "deeper").mkdir(parents=True)
    for number in range(3):
        Image.fromarray(picture(number)).save(folder / f"{number}.png")
    Image.fromarray(picture(0, red=False)).save(folder / "deeper" / "nobody.jpg")
    (folder / "text.jpg").write_text("not a picture")
    film(folder / "deeper" / "0.mp4", [picture(0), picture(1)])
    named = [str(folder), str(folder / "0.png"), str(tmp_path / "missing.mp4"), "camera:63"]
    assert analysis.command(named, model=model(), out=tmp_path / "out", finder="scripted") == 3
    printed = capsys.readouterr().out
    assert "text.jpg" in printed
    assert "missing.mp4: no such file" in printed
    assert "camera:63" in printed
    tables = {path.stem: pd.read_parquet(path) for path in (tmp_path / "out").glob("*.parquet")}
    assert sorted(tables) == ["0_mp4", "0_png", "camera_63", "missing", "photos"]
    assert all(list(each.columns) == COLUMNS for each in tables.values())
    photos = tables["photos"].set_index("source")
    assert photos.loc[str(folder / "text.jpg"), "status"] == "error"
    assert "text.jpg" in photos.loc[str(folder / "text.jpg"), "message"]
    assert photos.loc[str(folder / "deeper" / "nobody.jpg"), "status"] == "no_face"
    assert photos["status"].tolist().count("ok") == 3
    assert tables["missing"]["status"].tolist() == ["error"]
    still = analysis.analyze([str(folder / "0.png")], model=model())
    assert (still["frame"].item(), still["time"].item(), still["face"].item()) == (0, 0.0, 0)
    assert analysis.command([str(folder / "0.png")], model=model()) == 0
    assert "happiness" in capsys.readouterr().out
    # What was not there before may be analysed later without --overwrite.
    film(tmp_path / "missing.mp4", [picture(0)])
    assert (
        analysis.command([str(tmp_path / "missing.mp4")], model=model(), out=tmp_path / "out", finder="scripted") == 0
    )


def test_names_do_not_clash(tmp_path: Path) -> None:
    for name in ("a/x.mp4", "b/x.mp4", "b/x.avi", "b/y.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"0")
    named = [str(tmp_path / name) for name in ("a/x.mp4", "b/x.mp4", "b/x.avi", "b/y.mp4", "b/y.mp4")]
    assert [each.name for each in inputs.plan(named)] == ["a_x_mp4", "b_x_mp4", "x_avi", "y"]
    assert [each.name for each in inputs.plan([str(tmp_path), str(tmp_path / "b")])][-1] == "y"
    with pytest.raises(WrongCall):
        inputs.plan([])


def test_cut_off_video_keeps_its_good_frames(clip: Path, tmp_path: Path) -> None:
    with av.open(str(clip)) as source, av.open(str(tmp_path / "cut.mkv"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    content = (tmp_path / "cut.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(content[: len(content) * 2 // 3])
    report = analysis.analyze([str(tmp_path / "cut.mkv")], model=model(), out=tmp_path / "out", video=True)
    rows = pd.read_parquet(report.done[0].table)
    assert rows["status"].iloc[-1] == "error"
    assert "cut.mkv" in report.failed[0].failures[0]
    assert rows["status"].tolist().count("ok") > 20
    assert (tmp_path / "out" / "cut_annotated.mp4").is_file()


def test_thirty_faces_and_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    boxes = [np.array([x, y, 20, 20], float) for y in range(0, 96, 20) for x in range(0, 120, 20)]
    monkeypatch.setattr(Squares, "find", lambda self, image: [Face(box) for box in boxes] if image.any() else [])
    Image.fromarray(np.full((96, 120, 3), 90, np.uint8)).save(tmp_path / "many.png")
    Image.fromarray(np.zeros((1, 1, 3), np.uint8)).save(tmp_path / "none.png")
    rows = analysis.analyze([str(tmp_path / "many.png"), str(tmp_path / "none.png")], model=model(), batch_size=7)
    assert rows["face"][:30].tolist() == list(range(30))
    assert rows["yaw"].isna().all()
    assert rows["status"].tolist() == ["ok"] * 30 + ["no_face"]


def test_formats_hold_the_same_table(clip: Path, tmp_path: Path) -> None:
    for file_format in ("parquet", "csv", "jsonl"):
        analysis.analyze([str(clip)], model=model(), out=tmp_path / file_format, format=file_format)
    parquet = pd.read_parquet(tmp_path / "parquet" / "clip.parquet")
    for other in (
        pd.read_csv(tmp_path / "csv" / "clip.csv"),
        pd.read_json(tmp_path / "jsonl" / "clip.jsonl", lines=True),
    ):
        assert list(other.columns) == COLUMNS
        numbers = parquet.select_dtypes("number").columns
        assert np.allclose(other[numbers], parquet[numbers], atol=1e-6, equal_nan=True)
        assert other["expression"].tolist() == parquet["expression"].tolist()
    schema = pa.parquet.read_schema(tmp_path / "parquet" / "clip.parquet")
    assert schema.metadata[b"outputs are"] == b"predicted apparent expression"
    assert schema.field("yaw").metadata[b"unit"] == b"degrees"


def test_openface_names(clip: Path, tmp_path: Path) -> None:
    video = film(tmp_path / "a.mp4", [picture(0), picture(1, red=False)])
    analysis.analyze([str(video)], model=model(), out=tmp_path, format="csv", names="openface")
    rows = pd.read_csv(tmp_path / "a.csv")
    first = ["frame", "face_id", "timestamp", "confidence", "success", "pose_Rx", "pose_Ry", "pose_Rz", "AU01_c"]
    assert list(rows.columns)[: len(first)] == first
    assert rows["frame"].tolist() == [1, 2]
    assert rows["success"].tolist() == [1, 0]
    assert rows["confidence"].tolist() == pytest.approx([0.9, 0])
    angles = rows[["pose_Rx", "pose_Ry", "pose_Rz"]].iloc[0].tolist()
    assert angles == pytest.approx(np.radians([-2, -1, 3]).tolist(), abs=1e-6)
    assert rows["AU12_c"].iloc[0] in (0, 1)
    assert {"source", "status", "expression", "p_neutral", "valence", "au12"} <= set(rows.columns)


def rows_of(faces: list[int | None], values: np.ndarray, times: np.ndarray | None = None) -> pa.Table:
    """Raw rows with one row a frame, of a model that predicts valence and arousal alone."""
    layout = table.Layout(LabelSchema((), (), True))
    count = len(faces)
    columns: dict[str, object] = dict.fromkeys(layout.raw_schema.names, [None] * count)
    columns |= {"_position": range(count), "frame": range(count), "face": faces, "status": ["ok"] * count}
    columns |= {"time": np.arange(count) / 10 if times is None else times, "quality": np.ones(count)}
    columns |= {"valence": values, "arousal": -values}
    return pa.table(
        {
            name: pa.array(columns[name], kind, from_pandas=True)
            for name, kind in zip(layout.raw_schema.names, layout.raw_schema.types, strict=True)
        }
    )


def cut(rows: pa.Table, size: int) -> list[pa.Table]:
    return [rows.slice(start, size) for start in range(0, len(rows), size)]


@pytest.mark.parametrize("text", ["median:5", "mean:4", "mean:50", "median:1", "exponential:0.3"])
def test_smoothing_matches_pandas_however_rows_are_cut(text: str) -> None:
    values = np.random.default_rng(0).uniform(-1, 1, 40).astype(np.float32)
    kind, _, amount = text.partition(":")
    series = pd.Series(values.astype(float))
    if kind == "exponential":
        expected = series.ewm(alpha=float(amount), adjust=False).mean()
    else:
        window = int(amount)
        # pandas centres an even window with one more value before than after, as `Smoothing.reach` does
        expected = getattr(series.rolling(window, min_periods=1, center=True), kind)()
    layout = table.Layout(LabelSchema((), (), True))
    rows = rows_of([0] * 40, values)
    for size in (1, 7, 40):
        result = pa.concat_tables(smoothing.smoothed(cut(rows, size), layout, Smoothing.parse(text)))
        assert np.allclose(result["valence"].to_numpy(), expected, atol=1e-6), size
        assert result["frame"].to_pylist() == list(range(40))


def test_smoothing_keeps_faces_apart() -> None:
    layout = table.Layout(LabelSchema((), (), True))
    rows = rows_of([0, None, 1, 0, 1], np.array([1, np.nan, -1, 0, -0.5], np.float32))
    result = pa.concat_tables(smoothing.smoothed([rows], layout, Smoothing.parse("mean:3")))
    assert result["valence"].to_pylist() == [1, None, -1, 0, -0.5]
    result = pa.concat_tables(smoothing.smoothed([rows], layout, Smoothing.parse("mean:7")))
    assert result["valence"].to_pylist() == [0.5, None, -0.75, 0.5, -0.75]
    late = rows_of([0, 0], np.array([1, 0], np.float32), np.array([0, 5.0]))
    result = pa.concat_tables(smoothing.smoothed([late], layout, Smoothing.parse("exponential:0.5")))
    assert result["valence"].to_pylist() == [1, 0]  # away for longer than a second: afresh
    for wrong in ("median", "mean:0", "exponential:2", "gauss:3", "median:1.5"):
        with pytest.raises(WrongCall):
            Smoothing.parse(wrong)


def test_smoothed_probabilities_decide(clip: Path) -> None:
    rows = analysis.analyze([str(clip)], model=model(), smooth="mean:9")
    probabilities = rows[[f"p_{name}" for name in CLASSES]].to_numpy()
    assert np.allclose(probabilities.sum(1), 1, atol=1e-6)
    assert rows["expression"].tolist() == [CLASSES[i] for i in probabilities.argmax(1)]
    assert (rows["au12_on"] == (rows["au12"] >= 0.8)).all()


def test_baseline_is_each_faces_own(clip: Path) -> None:
    assert Baseline.parse("first:250frames") == Baseline(250, "frames")
    for wrong in ("first:10", "last:10s", "first:-1s", "first:xs"):
        with pytest.raises(WrongCall):
            Baseline.parse(wrong)
    plain = analysis.analyze([str(clip)], model=model())
    rows = analysis.analyze([str(clip)], model=model(), baseline="first:10frames")
    assert rows[COLUMNS].equals(plain)
    corrected = ["p_neutral", "p_happiness", "p_surprise", "valence", "arousal", "au01", "au12"]
    assert list(rows.columns[len(COLUMNS) :]) == [f"{name}_baseline_corrected" for name in corrected]
    for face, first in ((0, 0), (1, 20)):
        own = rows[rows["face"] == face]
        for name in corrected:
            resting = own[own["frame"] < first + 10][name].median()
            assert np.allclose(own[f"{name}_baseline_corrected"], own[name] - resting, atol=1e-6)


def test_without_a_good_row_there_is_no_baseline() -> None:
    layout = table.Layout(LabelSchema((), (), True), corrected=True)
    rows = rows_of([0, 0, 1, None], np.array([0.5, 0.7, 0.1, np.nan], np.float32))
    rows = rows.set_column(rows.column_names.index("status"), "status", pa.array(["abstained", "ok", "ok", "no_face"]))
    learnt = baseline.Baselines(Baseline.parse("first:0.1s"), layout).collect(cut(rows, 2))
    result = pa.concat_tables(learnt.apply(cut(rows, 1)))
    assert result["valence_baseline_corrected"].to_pylist() == [None, None, 0, None]


@pytest.mark.parametrize("stage", ["part", "table"])
def test_full_disk_leaves_nothing_half_written(
    stage: str, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shorten_parts(monkeypatch)
    whole = writers.pq.ParquetWriter if stage == "table" else parts.pq.write_table

    def full(first: object, second: object, **options: object) -> None:
        (first.write if stage == "table" else Path(second).write_bytes)(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    where = (writers.pq, "ParquetWriter") if stage == "table" else (parts.pq, "write_table")
    monkeypatch.setattr(*where, full)
    with pytest.raises(HonneError, match="the disk is full") as raised:
        analysis.analyze([str(clip)], model=model(), out=tmp_path)
    assert "run the same command again" in raised.value.hint
    assert [
        path for path in tmp_path.rglob("*") if path.is_file() and not path.is_relative_to(tmp_path / ".clip.parts")
    ] == []
    assert not list(tmp_path.rglob("*.part"))
    monkeypatch.setattr(*where, whole)
    (done,) = analysis.analyze([str(clip)], model=model(), out=tmp_path).done
    assert done.counts == {"ok": 150}


def test_annotated_clip_and_stills(tmp_path: Path) -> None:
    times = [0.0, 0.1, 0.5, 0.6]
    video = film(tmp_path / "a.mp4", [picture(n, red=n < 3) for n in range(4)], times)
    Image.fromarray(picture(0)).save(tmp_path / "b.png")
    analysis.analyze([str(video), str(tmp_path / "b.png")], model=model(), out=tmp_path / "out", video=True)
    with av.open(str(tmp_path / "out" / "a_annotated.mp4")) as container:
        frames = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    assert np.allclose([time for time, _ in frames], times, atol=1e-3)
    assert frames[0][1].shape == (480, 480, 3)  # small frames are enlarged so that the writing can be read
    assert (frames[0][1][460:].min(2) > 120).sum() > 300  # the writing at the foot
    assert (frames[0][1][:450].min(2) > 60).sum() > (frames[3][1][:450].min(2) > 60).sum() + 50  # and at the face
    assert (tmp_path / "out" / "b_annotated" / "00000_b.jpg").is_file()
    with pytest.raises(WrongCall, match="--video needs --out"):
        analysis.analyze([str(video)], model=model(), video=True)


def test_ctrl_c_ends_a_camera(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Camera:
        def frames(self, start_index: int = 0):
            for number in range(10_000):
                if number == 20:
                    os.kill(os.getpid(), signal.SIGINT)
                yield Frame(number, number / 25, picture(number))

    opened = inputs.open_media
    monkeypatch.setattr(inputs, "open_media", lambda source, fps=None: Camera())
    monkeypatch.setattr(run, "open_media", opened)
    report = analysis.analyze(["camera:0"], model=model(), out=tmp_path, video=True)
    assert report.done[0].table == tmp_path / "camera_0.parquet"
    rows = pd.read_parquet(report.done[0].table)
    assert 20 <= len(rows) < 1000
    assert rows["source"].eq("camera:0").all()
    with av.open(str(tmp_path / "camera_0_annotated.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == len(rows)
    with pytest.raises(HonneError, match="are there already"):
        analysis.analyze(["camera:0"], model=model(), out=tmp_path)


def test_command_line(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from honne.cli import parser_of

    parser = parser_of(analysis.command, "honne analyze", ("inputs",))
    words = [str(clip), "x.jpg", "--fps", "5", "--video", "--batch-size", "4", "--smooth", "median:5", "--out", "o"]
    values = parser.parse_args(words)
    assert (values.inputs, values.fps, values.video, values.batch_size) == ([str(clip), "x.jpg"], 5.0, True, 4)
    for option in ("--baseline", "--names", "--engine", "--abstain", "--overwrite", "--finder", "--format", "--model"):
        assert option in parser.format_help()
    for options in ({"smooth": "x"}, {"baseline": "x"}, {"format": "xls"}, {"engine": "spark"}, {"fps": 0.0}):
        with pytest.raises(WrongCall):
            analysis.analyze([str(clip)], model=model(), out=tmp_path, **options)
    with pytest.raises(WrongCall, match="--engine ray needs --out"):
        analysis.analyze([str(clip)], model=model(), engine="ray")


def test_settings_name_the_finders_file(tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_text("x")
    assert len(Settings(finder=f"table:{tmp_path / 'boxes.csv'}").to_dict()["finder_sha256"]) == 64


def saved(folder: Path) -> Path:
    """A small untrained model in a folder of its own."""
    from honne.networks import build

    torch.manual_seed(0)
    options = {"backbone": "face_resnet", "backbone_options": {"layers": (1, 1, 1, 1), "channels": (8, 8, 8, 8)}}
    alignment = Alignment("box", 48, 1.2).to_dict()
    network = {"kind": "face", "options": options}
    config = ModelConfig("small", "erm", network, LABELS, [0.5] * 3, [0.25] * 3, alignment)
    return Model(config, build("face", options, LABELS)).save(folder, metrics={}, card="A test.")


def test_real_face_with_mediapipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mediapipe")
    data = pytest.importorskip("skimage.data")
    monkeypatch.undo()
    portrait = np.asarray(Image.fromarray(data.astronaut()[:320, 60:380]))
    Image.fromarray(portrait).save(tmp_path / "astronaut.png")
    video = film(tmp_path / "a.mp4", [portrait] * 6 + [np.zeros_like(portrait)] * 3)
    rows = analysis.analyze([str(video), str(tmp_path / "astronaut.png")], model=str(saved(tmp_path / "model")))
    assert rows["status"].tolist() == ["ok"] * 6 + ["no_face"] * 3 + ["ok"]
    assert rows["face"].dropna().eq(0).all()
    assert rows[["yaw", "pitch", "roll", "quality"]][:6].notna().all(axis=None)
    first, still = rows.iloc[0], rows.iloc[-1]
    assert abs(first["box_x"] - still["box_x"]) < 8  # the film is compressed, the still is not


def test_ray_gives_the_same_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.undo()
    (tmp_path / "stills").mkdir()
    for number in range(5):
        Image.fromarray(picture(number)).save(tmp_path / "stills" / f"{number}.png")
    (tmp_path / "stills" / "bad.png").write_text("no picture")
    named = [str(tmp_path / "stills"), str(film(tmp_path / "a.mp4", [picture(n) for n in range(12)]))]
    options = {"model": str(saved(tmp_path / "model")), "finder": "cropped"}
    analysis.analyze(named, out=tmp_path / "plain", **options)
    try:
        report = analysis.analyze(named, out=tmp_path / "ray", engine="ray", **options)
    except HonneError as error:
        if "Ray did not start" not in error.what:
            raise
        pytest.skip(error.what)  # it gives up after 30 s, which a busy machine may need
    finally:
        ray.shutdown()
    assert [each.title for each in report.failed] == [str(tmp_path / "stills")]
    for name in ("stills.parquet", "a.parquet"):
        assert pd.read_parquet(tmp_path / "ray" / name).equals(pd.read_parquet(tmp_path / "plain" / name))
    in_memory = Model(model().config, model().network)
    with pytest.raises(WrongCall, match="model in a folder"):
        analysis.analyze(named, model=in_memory, out=tmp_path / "other", engine="ray")

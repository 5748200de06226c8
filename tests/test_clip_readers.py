"""CREMA-D, RAVDESS and MELD in imitations of their layouts, and the way from a clip to a judgement."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_features import film, tone, write_wav

import honne
from honne.analysis import Report, analyze
from honne.data.manifest import PreparedData
from honne.data.prepare import prepare
from honne.data.readers import Bad, Row, crema_d, meld, ravdess
from honne.errors import HonneError, WrongCall
from honne.explain.explaining import explain
from honne.models import Model, load

FEATURES = {"audio": "mfcc", "text": "hash"}


def rows_of(found: Any) -> tuple[dict[str, Row], list[Bad]]:
    every = list(found)
    return {row.id: row for row in every if isinstance(row, Row)}, [row for row in every if isinstance(row, Bad)]


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def test_crema_d(tmp_path: Path) -> None:
    touch(tmp_path, "VideoFlash/1001_DFA_ANG_XX.flv", "AudioWAV/1001_DFA_ANG_XX.wav", "AudioWAV/1002_IEO_HAP_HI.wav")
    touch(tmp_path, "AudioWAV/1002_XXX_HAP_HI.wav", "AudioWAV/readme.wav", "notes.txt")
    rows, bad = rows_of(crema_d.read(tmp_path))
    assert set(rows) == {"1001_DFA_ANG_XX", "1002_IEO_HAP_HI"}
    whole = rows["1001_DFA_ANG_XX"]
    assert whole.clip == tmp_path / "VideoFlash/1001_DFA_ANG_XX.flv"  # has both
    assert (whole.subject, whole.expression, whole.text) == ("1001", "anger", "Don't forget a jacket.")
    assert sorted((each.kind, each.reason) for each in bad) == [
        ("label", "unknown code"),
        ("rule", "name is not of the form 1001_DFA_ANG_XX"),
    ]
    assert "'XXX' is no emotion or sentence" in next(each.detail for each in bad if each.kind == "label")
    with pytest.raises(HonneError, match="Reader 'crema_d' expects"):
        list(crema_d.read(tmp_path / "AudioWAV" / "nothing"))


def test_ravdess(tmp_path: Path) -> None:
    touch(
        tmp_path,
        *(f"Actor_02/{kind}-01-03-01-02-01-02.{end}" for kind, end in (("01", "mp4"), ("02", "mp4"), ("03", "wav"))),
    )
    touch(tmp_path, "Actor_11/03-01-08-02-01-02-11.wav", "Actor_11/03-02-05-01-01-01-11.wav")
    rows, bad = rows_of(ravdess.read(tmp_path))
    assert not bad
    assert set(rows) == {"01-01-03-01-02-01-02", "03-01-08-02-01-02-11"}
    first = rows["01-01-03-01-02-01-02"]
    assert (first.subject, first.expression, first.text) == ("02", "happiness", "Dogs are sitting by the door.")
    sung, _ = rows_of(ravdess.read(tmp_path, channel="song"))
    assert [row.expression for row in sung.values()] == ["anger"]
    assert len(rows_of(ravdess.read(tmp_path, channel="all"))[0]) == 3


def test_meld(tmp_path: Path) -> None:
    heads = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime\n"
    (tmp_path / "train_sent_emo.csv").write_text(
        heads
        + '1,"Oh my God, he\x92s lost it.",Phoebe,sadness,negative,0,0,8,21,0,1\n2,No,Joey,joy,positive,0,1,8,21,0,1\n',
        encoding="utf-8",
    )
    (tmp_path / "dev_sent_emo.csv").write_bytes(
        (heads + "1,It\x92s me,Ross,neutral,neutral,7,3,8,21,0,1\n").encode("latin1")
    )
    (tmp_path / "test_sent_emo.csv").write_text(heads + "1,Hm,Ross,sleepy,neutral,7,3,8,21,0,1\n")
    touch(tmp_path, "train_splits/dia0_utt1.mp4", "dev_splits_complete/dia0_utt0.mp4")
    rows, bad = rows_of(meld.read(tmp_path))
    assert [row.split for row in rows.values()] == ["train", "train", "valid"]
    assert rows["train/dia0_utt0"].text == "Oh my God, he’s lost it."
    assert rows["valid/dia7_utt3"].text == "It’s me"
    assert rows["train/dia0_utt0"].clip is None  # that one is of another split
    assert rows["train/dia0_utt1"].clip == tmp_path / "train_splits/dia0_utt1.mp4"
    assert (rows["train/dia0_utt1"].expression, rows["train/dia0_utt1"].video) == ("happiness", "train/dia0")
    assert "test_sent_emo.csv, line 2" in bad[0].where


# --- from clips to judgements ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Actors who are low when sad and high when happy."""
    root = tmp_path_factory.mktemp("crema_d")
    (root / "AudioWAV").mkdir()
    random = np.random.default_rng(0)
    for actor in range(1001, 1009):
        for emotion, pitch in (("SAD", 200), ("HAP", 1500)):
            for sentence in ("DFA", "TIE"):
                samples = tone(pitch + random.uniform(-50, 50), 0.4) + random.normal(0, 0.01, 6400)
                write_wav(root / "AudioWAV" / f"{actor}_{sentence}_{emotion}_XX.wav", samples)
    (root / "AudioWAV" / "1009_DFA_SAD_XX.wav").write_bytes(b"broken")
    options: dict[str, Any] = {"features": FEATURES, "valid_share": 0.25, "test_share": 0.25}
    assert prepare("crema_d", root, root / "data", **options) == 3  # one clip cannot be read
    return root / "data"


@pytest.fixture(scope="module")
def judge(prepared: Path) -> Model:
    options = {
        "method": "erm",
        "fusion.network": "early_fusion",
        "fusion.width": 8,
        "optim.lr": 0.02,
        "trainer.epochs": 6,
        "data.batch_size": 8,
    }
    return load(honne.train("causalmer", data=prepared, out=prepared.parent / "run", overrides=options))


def test_clips_become_sequences(prepared: Path) -> None:
    data = PreparedData(prepared)
    assert len(data) == 32
    assert data.schema.features["audio"]["kind"] == "mfcc"
    assert "clip without features" in (prepared / "problems.csv").read_text()
    assert "not what raters saw" in (prepared / "card.md").read_text()
    assert data.rows["text"].nunique() == 2


def test_a_clip_is_judged(judge: Model, tmp_path: Path) -> None:
    samples = np.concatenate([tone(200, 1.0), tone(1500, 1.0)])
    clip = write_wav(tmp_path / "talk.wav", samples)
    (tmp_path / "talk.srt").write_text(
        "1\n00:00:00,000 --> 00:00:01,000\nDon't forget a jacket.\n\n2\n00:00:01,000 --> 00:00:02,000\nA jacket.\n"
    )
    rows: Any = analyze([str(clip)], model=judge)  # type: ignore[arg-type]
    assert list(rows["expression"]) == ["sadness", "happiness"]
    assert list(rows["time"]) == [0, 1]
    np.testing.assert_allclose(rows["duration"], 1)
    assert set(rows["modalities"]) == {"text+audio"}
    assert rows["face"].isna().all()
    assert "box_x" not in rows
    probabilities = rows[[name for name in rows if name.startswith("p_")]]
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    pieces: Any = analyze([str(clip)], model=judge, segment=1.0, modalities="audio")  # type: ignore[arg-type]
    assert list(pieces["expression"]) == ["sadness", "happiness"]
    assert set(pieces["modalities"]) == {"audio"}
    (tmp_path / "talk.srt").unlink()
    whole: Any = analyze([str(clip)], model=judge)  # type: ignore[arg-type]
    assert len(whole) == 1
    assert whole["modalities"][0] == "audio"


def test_what_is_written_and_resumed(judge: Model, tmp_path: Path) -> None:
    clip = write_wav(tmp_path / "talk.wav", tone(200, 1.0))
    silent = film(tmp_path / "silent.mp4", [False])
    (tmp_path / "broken.mp4").write_bytes(b"broken")
    inputs = [str(clip), str(silent), str(tmp_path / "broken.mp4")]
    done: Any = analyze(inputs, model=judge, out=tmp_path / "out")  # type: ignore[arg-type]
    assert isinstance(done, Report)
    assert [each.counts for each in done.done] == [{"ok": 1}, {"error": 1}, {"error": 1}]
    rows = pd.read_parquet(tmp_path / "out" / "silent.parquet")
    assert "nothing to go by" in rows["message"][0]
    note = json.loads((tmp_path / "out" / "talk.json").read_text())
    assert note["model"]["sha256"] == judge.sha256
    before = (tmp_path / "out" / "talk.parquet").stat().st_mtime_ns
    analyze(inputs, model=judge, out=tmp_path / "out")  # type: ignore[arg-type]
    assert (tmp_path / "out" / "talk.parquet").stat().st_mtime_ns == before


def test_refused(judge: Model, prepared: Path, tmp_path: Path) -> None:
    clip = str(write_wav(tmp_path / "talk.wav", tone(200, 0.3)))
    with pytest.raises(WrongCall, match="does not know the modality 'vision'"):
        analyze([clip], model=judge, modalities="vision")  # type: ignore[arg-type]
    with pytest.raises(WrongCall, match="video"):
        analyze([clip], model=judge, out=tmp_path / "o", video=True)  # type: ignore[arg-type]
    with pytest.raises(WrongCall, match="for models of several modalities"):
        analyze([clip], segment=1.0)
    foreign = Model(judge.config, judge.network)
    foreign.config = type(judge.config)(**vars(judge.config) | {"features": {"text": "GloVe", "audio": "COVAREP"}})
    with pytest.raises(HonneError, match=r"needs features that honne does not make of clips \(text: GloVe"):
        analyze([clip], model=foreign)  # type: ignore[arg-type]


def test_a_clip_is_explained(judge: Model, tmp_path: Path) -> None:
    clips = [str(write_wav(tmp_path / f"{pitch}.wav", tone(pitch, 0.5))) for pitch in (200, 1500)]
    found: Any = explain(judge, clips, out=tmp_path / "out")  # type: ignore[arg-type]
    assert list(found.rows["id"]) == ["200.wav", "1500.wav"]
    assert (found.rows["shapley_text"] == 0).all()  # nothing is said
    assert (found.rows["shapley_audio"].abs() > 0).all()

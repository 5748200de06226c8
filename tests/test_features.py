"""Features of clips: what is heard, said and seen, the same whenever and however it is asked for."""

from __future__ import annotations

import math
import wave
from pathlib import Path

import numpy as np
import pytest
import torch

from honne.errors import HonneError, WrongCall
from honne.faces.face import Face
from honne.features import Extractor, Utterance, vision
from honne.features.audio import Audio, dct, mel_filters, slopes
from honne.features.text import Text, words
from honne.features.transcript import beside, read_transcript

av = pytest.importorskip("av")
RATE = 16000


def tone(frequency: float, seconds: float = 1.0, loud: float = 0.5) -> np.ndarray:
    return (loud * np.sin(2 * np.pi * frequency * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def write_wav(path: Path, samples: np.ndarray, rate: int = RATE) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return path


# --- sound -----------------------------------------------------------------------------------------------------------


def test_a_tone_is_in_its_band() -> None:
    log_mel = Audio("log_mel")
    bands = [log_mel(tone(frequency)).mean(0).argmax() for frequency in (200, 800, 3200)]
    filters = mel_filters(40, 512, RATE, 20, 7600)
    places = [int(filters[:, round(frequency * 512 / RATE)].argmax()) for frequency in (200, 800, 3200)]
    assert np.abs(np.array(bands) - places).max() <= 1
    louder, softer = (log_mel(tone(800, loud=loud)).max() for loud in (0.5, 0.05))
    assert louder - softer == pytest.approx(2 / 5, abs=0.01)  # 20 dB are two decades of energy
    silence = log_mel(np.zeros(RATE, np.float32))
    assert (silence == -1).all()


def test_steps_follow_time() -> None:
    for kind, width in (("log_mel", 40), ("mfcc", 26)):
        features = Audio(kind)
        found = features(np.concatenate([np.zeros(RATE), tone(500)]).astype(np.float32))
        assert found.shape == (40, width)
        assert np.isfinite(found).all()
        assert np.abs(found[:17] - found[0]).max() < 1e-4  # slopes look two steps ahead
        assert np.abs(found[23:36] - found[30]).max() < 0.1
        assert features(np.zeros(3, np.float32)).shape == (1, width)


def test_cosines_and_slopes() -> None:
    rows = dct(8)
    torch.testing.assert_close(rows @ rows.T, torch.eye(8), atol=1e-6, rtol=0)
    rising = torch.arange(10.0)[:, None] * torch.tensor([2.0, -1.0])
    torch.testing.assert_close(slopes(rising)[2:-2], torch.tensor([[2.0, -1.0]]).expand(6, -1))


def test_the_rate_of_a_file_does_not_matter(tmp_path: Path) -> None:
    extractor = Extractor({"audio": "log_mel"})
    clips = [
        write_wav(tmp_path / f"{rate}.wav", 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate), rate)
        for rate in (16000, 44100)
    ]
    one, other = (extractor(clip, None)["audio"] for clip in clips)
    assert one is not None
    assert other is not None
    assert abs(len(one) - len(other)) <= 1
    shared = min(len(one), len(other)) - 2
    assert np.abs(one[1:shared].max(1) - other[1:shared].max(1)).max() < 0.02


def test_an_utterance_is_the_same_alone_and_among_others(tmp_path: Path) -> None:
    samples = np.concatenate([tone(300), tone(900), tone(2700)])
    clip = write_wav(tmp_path / "clip.wav", samples)
    extractor = Extractor({"audio": "mfcc", "text": "hash"})
    utterances = [Utterance("one", 0.0, 1.0), Utterance("two", 0.5, 2.0), Utterance(None, 2.0)]
    together = list(extractor.utterances(clip, utterances))
    alone = [extractor(clip, each.text, each.start, each.stop) for each in utterances]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(one["audio"], other["audio"])
    assert together[2]["text"] is None
    again = Extractor(extractor.settings)
    assert again.widths == extractor.widths == {"audio": 26, "text": 300}
    np.testing.assert_array_equal(again(clip, "x")["audio"], extractor(clip, "x")["audio"])


def test_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no film at all")
    with pytest.raises(HonneError, match=r"broken\.mp4"):
        Extractor({"audio": "log_mel"})(tmp_path / "broken.mp4", None)
    with pytest.raises(WrongCall, match="no modality 'smell'"):
        Extractor({"smell": "default"})
    with pytest.raises(HonneError, match="no such features"):
        Extractor({"audio": "loudness"})
    with pytest.raises(HonneError, match="is not there"):
        Extractor({"text": "glove:nowhere.txt"})
    with pytest.raises(HonneError, match="is not there"):
        Extractor({"vision": "nowhere"})


# --- text ------------------------------------------------------------------------------------------------------------


def test_words_by_hashing() -> None:
    assert words("Don’t  FORGET, o'clock!") == ["don't", "forget", "o'clock"]
    text = Text("hash")
    found = text("walking walked cat")
    assert found is not None
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    assert found[0] @ found[1] > 0.3 > abs(found[0] @ found[2])
    np.testing.assert_array_equal(found, Text("hash")("Walking, walked: cat?"))
    assert text("...") is None
    assert text(None) is None


def test_a_glove_file(tmp_path: Path) -> None:
    path = tmp_path / "glove.txt"
    path.write_text("the 1 2 3\ncat -1 0.5 2\n", encoding="utf-8")
    text = Text(f"glove:{path}")
    found = text("The unknown cat")
    assert found is not None
    np.testing.assert_allclose(found, [[1, 2, 3], [0, 0, 0], [-1, 0.5, 2]])
    assert str(tmp_path) not in str(text.settings)
    assert Text(text.settings, path).width == 3
    path.write_text("the 1 2 4\ncat -1 0.5 2\n", encoding="utf-8")
    with pytest.raises(HonneError, match="its sha256 is another"):
        Text(text.settings, path)


def test_transcripts(tmp_path: Path) -> None:
    srt = tmp_path / "clip.srt"
    srt.write_text(
        "1\n00:00:02,500 --> 00:00:04,000\n<i>Second</i> line\n\n2\n00:00:00,000 --> 00:00:01,250\nFirst\n\n"
        "3\n00:00:05,000 --> 00:00:05,000\nnever\n"
    )
    expected = [Utterance("First", 0.0, 1.25), Utterance("Second line", 2.5, 4.0)]
    assert read_transcript(srt) == expected
    vtt = tmp_path / "clip.vtt"
    vtt.write_text(
        "WEBVTT\n\nNOTE nothing\n\n00:00.000 --> 00:01.250\nFirst\n\n00:02.500 --> 00:04.000\nSecond\nline\n"
    )
    assert read_transcript(vtt) == expected
    assert beside(tmp_path / "clip.mp4") == srt
    srt.write_text("1\nno times\n")
    with pytest.raises(HonneError, match=r"clip\.srt, line 1: a caption without times"):
        read_transcript(srt)


# --- vision ----------------------------------------------------------------------------------------------------------


class Squares:
    """Finds the white square, if there is one."""

    def find(self, image: np.ndarray) -> list[Face]:
        rows, columns = np.nonzero(image.min(2) > 120)
        if not len(rows):
            return []
        box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        return [Face(np.array(box, float), 0.9, pose=np.array([9.0, 18.0, -90.0]))]


def film(path: Path, shown: list[bool]) -> Path:
    """Half a second with a square and half a second without, and so on."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "1"})
        stream.width = stream.height = 96
        stream.pix_fmt = "yuv444p"
        for face in shown:
            image = np.zeros((96, 96, 3), np.uint8)
            image[24:72, 24:72] = 200 if face else 0
            for _ in range(5):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_the_face_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vision, "make_finder", lambda name: Squares())
    extractor = Extractor({"vision": "default", "audio": "log_mel"})
    clip = film(tmp_path / "clip.mp4", [True, False])
    found = extractor(clip, None)
    assert found["audio"] is None  # the film is silent
    seen = found["vision"]
    assert seen is not None
    assert seen.shape[1] == extractor.widths["vision"]
    assert len(seen) == 5  # a second at five frames a second
    there = seen[:, -1]
    assert there.tolist() == sorted(there, reverse=True)
    assert 0 < there.sum() < 5
    assert (seen[there == 0] == 0).all()
    np.testing.assert_allclose(seen[0, -4:], [0.1, 0.2, -1, 1], rtol=1e-5)
    parts = extractor.settings["vision"]["parts"]
    assert sum(parts.values()) == seen.shape[1]
    chance = seen[0, parts["embedding"] : parts["embedding"] + parts["expressions"]]
    assert math.isclose(chance.sum(), 1, rel_tol=1e-4)
    assert extractor(film(tmp_path / "none.mp4", [False]), None)["vision"] is None
    with pytest.raises(HonneError, match="its sha256 is another"):
        Extractor({"vision": extractor.settings["vision"] | {"sha256": "0"}})

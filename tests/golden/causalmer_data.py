"""What the original reads of its files, and which features MMSA drops."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from honne.data.missing import without_frames, without_tokens
from honne.data.readers import Row, mult
from honne.metrics.sentiment import sentiment_class


@pytest.mark.golden("causalmer", "dataset_reader*.npz")
@pytest.mark.parametrize("name", ["iemocap", "mosei_senti", "mosi"])
def test_published_files_are_read_as_the_original_does(
    golden: dict[str, np.ndarray], tmp_path: Path, name: str
) -> None:
    stored = {key: golden[f"{name}/raw_{key}"] for key in ("text", "audio", "vision", "labels")}
    if f"{name}/meta" in golden:
        meta = golden[f"{name}/meta"]
        stored["id"] = np.char.encode(meta, "utf-8") if name == "mosi" else meta
    (tmp_path / f"{name}_data.pkl").write_bytes(pickle.dumps({"test": stored}))
    labels = mult.schema(tmp_path)
    options = mult.settled(tmp_path)
    rows = [row for row in mult.read(tmp_path, **options, padding="keep") if isinstance(row, Row)]
    for key in ("text", "audio"):
        found = np.stack([(row.sequences or {})[key] for row in rows])
        np.testing.assert_array_equal(found, golden[f"{name}/{key}"])
    if name == "iemocap":
        np.testing.assert_array_equal([row.emotions for row in rows], golden[f"{name}/Y"])
        assert labels.emotions == ("neutral", "happiness", "sadness", "anger")
        return
    sentiment = torch.tensor([row.sentiment for row in rows])
    np.testing.assert_array_equal(sentiment, golden[f"{name}/Y"].ravel())
    np.testing.assert_array_equal(sentiment_class(sentiment), golden[f"{name}/Y_cls"].ravel())
    names = [f"{video}[{start}-{end}]" for video, start, end in meta.tolist()]
    assert [row.id for row in rows] == names
    assert [row.video for row in rows] == meta[:, 0].tolist()


@pytest.mark.golden("causalmer", "mmsa_random_missing*.npz")
def test_features_that_go_missing(golden: dict[str, np.ndarray]) -> None:
    rate, seed = golden["rate"].item(), int(golden["seed"].item())
    tokens, kept = without_tokens(golden["text_ids"], golden["text_mask"], rate, seed)
    np.testing.assert_array_equal(tokens, golden["text_m"])
    np.testing.assert_array_equal(kept, golden["text_missing_mask"])
    frames, kept = without_frames(golden["audio"], golden["audio_lengths"], rate, seed)
    np.testing.assert_array_equal(frames, golden["audio_m"])
    np.testing.assert_array_equal(kept, golden["audio_missing_mask"])

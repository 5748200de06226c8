"""How IERN's sentiment sets find pictures and name them in their label files."""

from __future__ import annotations

import numpy as np
import pytest

from honne.data.readers.scenes import key, picture

Arrays = dict[str, np.ndarray]


@pytest.mark.golden("iern", "labels_splits*.npz")
def test_pictures_and_keys(golden: Arrays) -> None:
    """The recorded paths of two sets begin with a root of two parts and the folder of the pictures."""
    for dataset in ("emotion6", "sentiment"):
        below = ["/".join(path.split("/")[3:]) for path in golden[f"{dataset}.path"].tolist()]
        assert below
        assert [key(dataset, picture(dataset, row, "train_ids.csv")) for row in below] == golden[
            f"{dataset}.key"
        ].tolist()
    rows = list(zip(golden["webemo.name"].tolist(), golden["webemo.conf"].tolist(), strict=True))
    paths = [picture("webemo", name, file) for name, file in rows]
    assert paths == golden["webemo.rel"].tolist()
    assert [key("webemo", path) for path in paths] == golden["webemo.key"].tolist()

"""MixBasic: names, counts of the published folds, labels that follow from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from honne.data.mixbasic import (
    CODES,
    DATASETS,
    EXPRESSIONS,
    FRAMES,
    SEQUENCES,
    FoldFiles,
    Picture,
    file_name,
    held_out,
    published_counts,
)

Arrays = dict[str, np.ndarray]
OWN = Path(__file__).parent / "data/iern/labels_splits.npz"
PARTS = [(bias, fold, split) for bias in (100, 90) for fold in (1, 2, 3) for split in ("train", "test")]
"""In the order of the recorded axes."""


def labelled() -> dict[str, int]:
    """Sequence -> code of its emotion, as it follows from the published files; all 997."""
    with np.load(OWN, allow_pickle=False) as own:
        names = zip(own["derived.dataset"], own["derived.sequence"], own["derived.emotion"], strict=True)
        return {f"{dataset}/{stem}": EXPRESSIONS.index(str(emotion).lower()) for dataset, stem, emotion in names}


def write_folds(folder: Path) -> Path:
    """The twelve files with made-up frames; which tenth of a tested cell moves is drawn, as it was."""
    labels, rng = labelled(), np.random.default_rng(0)
    cells = [(dataset, code) for dataset in range(len(DATASETS)) for code in range(len(EXPRESSIONS))]
    members = {
        cell: [name for name, code in labels.items() if name.startswith(f"{DATASETS[cell[0]]}/") and code == cell[1]]
        for cell in cells
    }
    for fold in (1, 2, 3):
        parts: dict[tuple[str, int], list[str]] = {}
        for cell in cells:
            drawn = rng.permutation(members[cell])[: round(0.1 * len(members[cell]))]
            for name in members[cell]:
                for bias in (100, 90):
                    tested = held_out(fold)[cell] and (bias == 100 or name not in drawn)
                    stem = name.partition("/")[2]
                    rows = [f"MixBasic/{DATASETS[cell[0]]}/images/{stem}_{frame:03d}.png" for frame in range(FRAMES)]
                    parts.setdefault(("test" if tested else "train", bias), []).extend(rows)
        for (split, bias), rows in parts.items():
            text = "\n".join(sorted(rows) if bias == 100 else rows)
            (folder / file_name(split, bias, fold)).write_text(text, encoding="ascii")  # type: ignore[arg-type]
    return folder


def expressions(values: np.ndarray) -> list[str]:
    """Our names of recorded names or codes."""
    return [EXPRESSIONS[each] if isinstance(each, int) else str(CODES.parse(each)) for each in values.tolist()]


@pytest.fixture(scope="module")
def folds(tmp_path_factory: pytest.TempPathFactory) -> FoldFiles:
    return FoldFiles(write_folds(tmp_path_factory.mktemp("folds")))


@pytest.mark.golden("iern", "labels_splits*.npz")
def test_published_names(golden: Arrays) -> None:
    pictures = [Picture.parse(row) for row in golden["mix.row"].tolist()]
    assert [picture.id for picture in pictures] == golden["mix.row"].tolist()
    assert [picture.path for picture in pictures] == golden["mix.rel"].tolist()
    assert [picture.key for picture in pictures] == golden["mix.label_keys"].tolist()
    assert [DATASETS.index(picture.dataset) for picture in pictures] == golden["mix.cnfnd"].tolist()
    assert expressions(golden["mix.label_values"]) == expressions(golden["mix.emo"])


@pytest.mark.golden("iern", "labels_splits*.npz")
def test_published_counts(golden: Arrays, folds: FoldFiles) -> None:
    shape = (2, 3, 2, *SEQUENCES.shape)
    counts = np.stack([published_counts(split, bias, fold) for bias, fold, split in PARTS]).reshape(shape)  # type: ignore[arg-type]
    totals = counts.sum(-1)
    expected = {
        "splits.n_images_by_emotion": FRAMES * counts,
        "splits.n_images": FRAMES * totals,
        "splits.oulu_by_emotion": FRAMES * counts[..., DATASETS.index("OuluCASIA"), :],
        "splits.n_sequences": totals,
    }
    checked = [name for name in expected if name in golden]
    assert checked
    for name in checked:
        np.testing.assert_array_equal(golden[name], expected[name], err_msg=name)
    subjects = np.array(
        [
            [
                len({each.subject for each in folds.pictures[split, bias, fold] if each.dataset == name})
                for name in DATASETS
            ]  # type: ignore[index]
            for bias, fold, split in PARTS
        ]
    ).reshape(2, 3, 2, -1)
    if "splits.n_subjects" in golden:
        np.testing.assert_array_equal(golden["splits.n_subjects"][0], subjects[0])
        moved = golden["splits.n_subjects"][1]  # which sequences moved is not told by what we have of the files
        assert (moved[:, 0] >= subjects[0][:, 0]).all()
        assert (moved[:, 1] <= subjects[0][:, 1]).all()


@pytest.mark.golden("iern", "labels_splits*.npz")
def test_labels_follow_from_the_files(golden: Arrays, folds: FoldFiles) -> None:
    labels = folds.labels()
    assert labels == {name: EXPRESSIONS[code] for name, code in labelled().items()}
    if "derived.row" in golden:
        names = [Picture.parse(row).sequence for row in golden["derived.row"].tolist()]
    else:
        both = zip(golden["derived.dataset"], golden["derived.sequence"], strict=True)
        names = [f"{dataset}/{stem}" for dataset, stem in both]
    assert [labels[name] for name in names] == expressions(golden["derived.emotion"])
    found = [
        [sum(name.startswith(dataset) and labels[name] == each for name in labels) for each in EXPRESSIONS]
        for dataset in DATASETS
    ]
    np.testing.assert_array_equal(found, SEQUENCES)
    for bias, fold, split in PARTS:
        named = folds.pictures[split, bias, fold]  # type: ignore[index]
        assert len(named) == FRAMES * published_counts(split, bias, fold).sum()  # type: ignore[arg-type]
    assert all("has other rows" in each for each in folds.differences())  # the frames are made up

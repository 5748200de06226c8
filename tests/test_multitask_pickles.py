"""Pickled tables are read without running anything they name; and the reader of the original's merged files."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from honne.data.frames_pickles import read_tables_pickle
from honne.data.manifest import PreparedData
from honne.data.pickles import read_plain_pickle
from honne.data.prepare import prepare
from honne.data.readers import Bad, Row, multitask_pickles
from honne.errors import HonneError
from honne.labels import ACTION_UNIT_SETS, EXPRESSION_SETS

UNITS = [f"AU{unit}" for unit in ACTION_UNIT_SETS["affwild2"]]
AWAY = "/home/someone/data/Aff-Wild2/cropped_aligned"


def part(value: Any) -> bytes:
    """The program that makes a value, without beginning and end."""
    return pickle.dumps(value, 2)[2:-1]


def old_table(columns: dict[str, np.ndarray], manager: bytes = b"pandas.core.internals.managers") -> bytes:
    """A table as pandas 0.25 pickles it, on Python 3.7."""

    def index(kind: bytes, state: dict[str, Any]) -> bytes:
        module, _, name = kind.rpartition(b".")
        return b"cpandas.core.indexes.base\n_new_Index\n(c" + module + b"\n" + name + b"\n" + part(state) + b"tR"

    count = len(next(iter(columns.values())))
    axes = b"]("
    axes += index(b"pandas.core.indexes.base.Index", {"data": np.array(list(columns), object), "name": None})
    axes += index(b"pandas.core.indexes.range.RangeIndex", {"name": None, "start": 0, "stop": count, "step": 1}) + b"e"
    floats = [i for i, values in enumerate(columns.values()) if values.dtype.kind == "f"]
    others = [i for i in range(len(columns)) if i not in floats]
    stacked = np.stack(list(columns.values())[: len(floats)]) if floats else np.zeros((0, count))
    blocks = [{"values": stacked, "mgr_locs": slice(0, len(floats), 1)}]
    blocks += [{"values": list(columns.values())[i][None], "mgr_locs": np.array([i])} for i in others]
    inside = b"}" + part("0.14.1") + b"}(" + part("axes") + axes + part("blocks") + part(blocks) + b"us"
    state = b"(" + axes + part([]) + part([]) + inside + b"t"
    return (
        b"\x80\x02cpandas.core.frame\nDataFrame\n)\x81}("
        + (part("_data") + b"c" + manager + b"\nBlockManager\n)\x81" + state + b"b")
        + (part("_typ") + part("dataframe") + part("_metadata") + part([]) + b"ub.")
    )


@pytest.mark.parametrize("manager", [b"pandas.core.internals.managers", b"pandas.core.internals"])
def test_tables_of_old_pandas(tmp_path: Path, manager: bytes) -> None:
    columns = {
        "AU1": np.array([0.0, 1.0]),
        "AU2": np.array([1.0, 0.0]),
        "path": np.array(["a", "ü"], object),
        "frames_ids": np.array([0, 2]),
    }
    (tmp_path / "old.pkl").write_bytes(old_table(columns, manager))
    found = read_tables_pickle(tmp_path / "old.pkl")
    assert list(found) == list(columns)
    for name, values in columns.items():
        np.testing.assert_array_equal(found[name], values)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("text", ["str", "object", "string[python]"])
def test_tables_of_installed_pandas(tmp_path: Path, protocol: int, text: Any) -> None:
    table = pd.DataFrame({"valence": [0.0, 0.5, 1.0], "path": ["a", "b", "ü"], "arousal": 0.0, "frames_ids": [0, 1, 2]})
    table["path"] = table["path"].astype(text)
    table = table.iloc[[2, 0]]
    (tmp_path / "new.pkl").write_bytes(pickle.dumps({"video": table, "again": table}, protocol))
    found = read_tables_pickle(tmp_path / "new.pkl")
    assert {name: values.tolist() for name, values in found["video"].items()} == table.to_dict("list")
    assert found["again"] is found["video"]
    with pytest.raises(HonneError, match=r"pickle wants pandas\.\S*DataFrame, which is no plain data"):
        read_plain_pickle(tmp_path / "new.pkl")


class Wants:
    """Pickles as a call."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call = call, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (Wants(os.system, "touch ran"), r"(posix|nt)\.system"),
        (np.array([Wants(os.mkdir, "ran"), None], object), r"(posix|nt)\.mkdir"),
        (pd.DataFrame({"path": np.array([Wants(eval, "open('ran', 'w')")], object)}), r"builtins\.eval"),
        (pd.DataFrame({"a": pd.Categorical(["x"])}), r"pandas\.\S*Categorical\w*"),
        (pd.DataFrame({"a": pd.to_datetime(["2020-01-01"])}), r"\S+"),
        (pd.Series([1]), r"pandas\.\S*Series"),
    ],
)
def test_anything_else_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: Any, wanted: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.pkl").write_bytes(pickle.dumps(value, 4))
    with pytest.raises(HonneError, match=rf"x\.pkl: the pickle wants {wanted}"):
        read_tables_pickle(Path("x.pkl"))
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    "data",
    [
        old_table({"path": np.array(["a"], object)}).replace(b"path", b"pa\xffh"),
        b"\x80\x02cpandas\nDataFrame\n)\x81.",
        b"\x80\x02cpandas._libs.internals\n_unpickle_block\n(K\x01K\x01tR.",
        b"\x80\x02cbuiltins\nbytearray\nK\x01\x85R" + b"0cbuiltins\nslice\n)R.",
    ],
)
def test_damage(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.pkl").write_bytes(data)
    with pytest.raises(HonneError, match=r"x\.pkl: not a pickle that can be read"):
        read_tables_pickle(tmp_path / "x.pkl")


@pytest.mark.parametrize("state", [{"value": 1}, (None, {"value": 1})])
@pytest.mark.parametrize("made", [b"cpandas\nDataFrame\n", b"cbuiltins\nslice\n)R", b"cpyarrow.lib\npy_buffer\n"])
def test_attributes_are_not_set(tmp_path: Path, made: bytes, state: Any) -> None:
    (tmp_path / "x.pkl").write_bytes(b"\x80\x02" + made + part(state) + b"b.")
    with pytest.raises(HonneError, match="the pickle wants attributes of a"):
        read_tables_pickle(tmp_path / "x.pkl")


# --- the reader --------------------------------------------------------------------------------------------------


def save(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(value, 4))


def pictures(root: Path, *paths: str) -> None:
    for seed, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(seed).integers(0, 255, (112, 112, 3), np.uint8)).save(root / path)


def labelled(label: Any, *paths: str) -> dict[str, Any]:
    return {"label": np.array(label), "path": list(paths)}


def both(entries: Iterable[Row | Bad]) -> tuple[dict[str, Row], list[Bad]]:
    entries = list(entries)
    return {e.id: e for e in entries if isinstance(e, Row)}, [e for e in entries if isinstance(e, Bad)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "merged"
    pictures(root, *(f"cropped_aligned/{path}" for path in ("a/00001.jpg", "a/00003.jpg", "v_left/00001.jpg")))
    pictures(root, "expw/kid_7.jpg")
    au = {
        "Training_Set": labelled(np.eye(8)[:2], f"{AWAY}/a/00001.jpg", f"{AWAY}/a/00003.jpg"),
        "Validation_Set": labelled(np.eye(8)[2:3], f"{AWAY}/v_left/00001.jpg"),
    }
    expression = {
        "Training_Set": labelled([4, 1, 2, 6], f"{AWAY}/a/00003.jpg", *["/mnt/expw/kid_7.jpg"] * 2, "/mnt/expw/no.jpg"),
        "Validation_Set": labelled([0], f"{AWAY}/v_left/00001.jpg"),
    }
    save(root / "mixed_AU_annotations.pkl", au)
    save(root / "mixed_EXPR_annotations.pkl", expression)
    save(root / "mixed_VA_annotations.pkl", {"Training_Set": labelled([[0.5, -1]], f"{AWAY}/a/00001.jpg")})
    save(root / "annotations.pkl", "not read where there are merged files")
    test = {"label": np.zeros((3, 8)), "path": [f"{AWAY}/a/0000{n}.jpg" for n in (1, 1, 3)], "frames_ids": np.arange(3)}
    save(root / "test_set.pkl", {"AU_Set": {"Test_Set": {"t": test}}})
    return root


def test_merged_files(root: Path, tmp_path: Path) -> None:
    rows, bad = both(multitask_pickles.read(root))
    assert {name: (row.split, row.expression, row.valence) for name, row in rows.items()} == {
        "cropped_aligned/a/00001": ("train", None, 0.5),
        "cropped_aligned/a/00003": ("train", "happiness", None),
        "cropped_aligned/v_left/00001": ("valid", "neutral", None),
        "expw/no": ("train", "surprise", None),
        **{f"t/{number:05d}": ("test", None, None) for number in (1, 2, 3)},
    }
    row = rows["cropped_aligned/v_left/00001"]
    assert (row.video, row.subject, row.time) == ("v_left", "v", 1 / 30)
    np.testing.assert_array_equal(row.au, np.eye(8)[2])
    assert rows["t/00002"].image == root / "cropped_aligned/a/00001.jpg"
    assert [(entry.reason, entry.detail) for entry in bad] == [("picture with several labels", "expw/kid_7.jpg")]
    assert prepare("multitask_pickles", root, tmp_path / "data") == 3  # one picture is not there
    data = PreparedData(tmp_path / "data")
    assert data.schema.labels.expressions == EXPRESSION_SETS["affwild2"].expressions
    assert data.schema.counts == {"train": 2, "valid": 1, "test": 3}
    assert list(both(multitask_pickles.read(root, task="valence_arousal"))[0]) == ["cropped_aligned/a/00001"]


def test_what_they_were_merged_from(tmp_path: Path) -> None:
    frames = pd.DataFrame(np.eye(8)[:2], columns=UNITS)
    frames["path"], frames["frames_ids"] = [f"{AWAY}/a/00001.jpg", f"{AWAY}/a/00003.jpg"], [0, 2]
    spoken = pd.DataFrame({"label": [3], "path": [f"{AWAY}/a/00001.jpg"], "frames_ids": [0]})
    felt = pd.DataFrame({"valence": [0.1], "arousal": [-0.1], "path": [f"{AWAY}/a/00001.jpg"], "frames_ids": [0]})
    save(
        tmp_path / "annotations.pkl",
        {
            "AU_Set": {"Training_Set": {"a": frames}, "Validation_Set": {}},
            "EXPR_Set": {"Validation_Set": {"a": spoken}},
            "VA_Set": {"Training_Set": {"a": felt}},
        },
    )
    codes = labelled([[0, 2, 1, 0, 0, 0, 5, 0]], "/d/SN001/SN001_comp_aligned/frame_det_00_000001.bmp")
    save(tmp_path / "DISFA.pkl", {"Training_Set": {"SN001": codes}})
    save(tmp_path / "ExpW.pkl", labelled([0, 6], "/e/one_2.jpg", "/e/two_1.jpg"))
    clips = {"001": {"valence": [1], "arousal": [-1], "path": ["/f/01/001/00000.png"]}}
    clips["002"] = {"valence": [-10], "arousal": [5], "path": ["/f/01/002/00000.png"]}
    save(tmp_path / "AFEW-VA.pkl", {"Training_Set": clips})
    rows, bad = both(multitask_pickles.read(tmp_path, paths="given"))
    frame = rows[f"{AWAY}/a/00001"]
    assert (frame.split, frame.expression, frame.au, frame.valence) == ("valid", "fear", None, None)
    assert sorted(entry.detail.partition(";")[0] for entry in bad) == [
        "1 frames with valence arousal",
        "2 frames with action units",
    ]
    disfa = rows["/d/SN001/SN001_comp_aligned/frame_det_00_000001"]
    np.testing.assert_array_equal(disfa.au, [0, 1, 0, 0, 0, 0, 1, 0])
    assert (disfa.split, disfa.video) == ("train", "SN001_comp_aligned")
    assert [rows[f"/e/{name}"].expression for name in ("one_2", "two_1")] == ["anger", "neutral"]
    assert rows["/e/one_2"].video is None
    assert [rows[f"/f/01/{clip}/00000"].valence for clip in ("001", "002")] == pytest.approx([0.1, -1])
    one = both(multitask_pickles.read(tmp_path, pickles=str(tmp_path / "ExpW.pkl"), label_set="affwild2"))[0]
    assert [row.expression for row in one.values()] == ["neutral", "surprise"]


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ({"Training_Set": labelled([1, 2], "a")}, "not a label for each of the 1 paths"),
        ({"Training_Set": labelled([[1, 2, 3]], "a")}, "3 labels a picture"),
        ({"VA_Set": {"Training_Set": {"a": labelled([1], "a")}}}, "1 labels a picture"),
        ({"Training_Set": labelled([7], "a")}, "Training_Set, item 0: 7 is not 0 to 6"),
        (labelled([9], "a"), "label 9 is no code of 'expw'"),
        ({"Training_Set": [1]}, "a list where labels are expected"),
        ({"Training_Set": labelled([1], "/")}, "without the name"),
        ({}, "no labels with paths"),
    ],
)
def test_wrong_files(tmp_path: Path, value: Any, what: str) -> None:
    save(tmp_path / "mixed_AU_annotations.pkl", value)
    with pytest.raises(HonneError, match=what):
        prepare("multitask_pickles", tmp_path, tmp_path / "data")


def test_nothing_above_the_root_is_read(tmp_path: Path) -> None:
    pictures(tmp_path, "outside/00001.jpg")
    save(tmp_path / "in/x.pkl", {"Training_Set": labelled([0], "/a/../outside/00001.jpg")})
    (row,) = both(multitask_pickles.read(tmp_path / "in"))[0].values()
    assert not Path(str(row.image)).exists()
    with pytest.raises(HonneError, match=r"expects mixed_\*_annotations"):
        both(multitask_pickles.read(tmp_path / "outside"))

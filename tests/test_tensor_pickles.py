"""Files of `torch.save` are read; whatever else they want is refused, and nothing of it runs."""

from __future__ import annotations

import io
import os
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from honne.data.tensor_pickles import read_torch_pickle
from honne.errors import HonneError

CLASS = "src.dataset.Multimodal_Datasets"


@pytest.fixture
def dataset(monkeypatch: pytest.MonkeyPatch) -> Any:
    """An object as the original pickles it."""
    kind = type("Multimodal_Datasets", (torch.utils.data.Dataset,), {"__module__": "src.dataset"})
    module = types.ModuleType("src.dataset")
    module.Multimodal_Datasets = kind  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "src", types.ModuleType("src"))
    monkeypatch.setitem(sys.modules, "src.dataset", module)
    made = kind()
    made.text = torch.arange(24.0).reshape(2, 3, 4)
    made.audio = made.text.transpose(1, 2)[1:]  # a view: strides, an offset, a storage that is shared
    made.counts, made.truth, made.none = torch.tensor([3, -1]), torch.tensor([True, False]), torch.zeros(0, 3)
    made.meta = np.array([[b"vid", "0.5"], ["other", 1.5]], object)
    made.data, made.n_modalities = "mosi", 3
    return made


def saved(path: Path, value: Any, legacy: bool = False) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=not legacy)
    return path


@pytest.mark.parametrize("legacy", [False, True])
def test_what_torch_saves(tmp_path: Path, dataset: Any, legacy: bool) -> None:
    path = saved(tmp_path / "mosi_test_a.dt", dataset, legacy)
    with pytest.raises(HonneError, match=r"mosi_test_a\.dt: the pickle wants src\.dataset\.Multimodal_Datasets"):
        read_torch_pickle(path)
    found = read_torch_pickle(path, [CLASS])
    for name in ("text", "audio", "counts", "truth", "none"):
        wanted = getattr(dataset, name).numpy()
        assert found[name].dtype == wanted.dtype
        np.testing.assert_array_equal(found[name], wanted)
    assert found["meta"].tolist() == dataset.meta.tolist()
    assert (found["data"], found["n_modalities"]) == ("mosi", 3)


class Wants:
    """Pickles as a call."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call = call, arguments

    def __reduce__(self) -> Any:
        return self.call


class WithState:
    def __setstate__(self, state: Any) -> None:
        Path("ran").touch()

    def __getstate__(self) -> dict[str, int]:
        return {"a": 1}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (Wants(os.system, "touch ran"), r"(posix|nt)\.system"),
        ({"text": [Wants(eval, "open('ran', 'w')")]}, r"builtins\.eval"),
        (WithState(), r"[\w.]*test_tensor_pickles\.WithState"),
        (torch.nn.Linear(1, 1), r"torch\.nn\.modules\.linear\.Linear"),
        (torch.zeros(1, dtype=torch.bfloat16), r"torch\.BFloat16Storage"),
    ],
)
def test_anything_else_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: Any, wanted: str, legacy: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HonneError, match=rf"x\.dt: the pickle wants {wanted}, which is no plain data; nothing"):
        read_torch_pickle(saved(Path("x.dt"), value, legacy), [CLASS])
    assert not Path("ran").exists()


def repacked(path: Path, change: Callable[[str, bytes], tuple[str, bytes] | None], method: int = 0) -> Path:
    """The file with its parts changed; None drops one."""
    with zipfile.ZipFile(path) as archive:
        parts = [change(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w", method) as archive:
        for part in parts:
            if part:
                archive.writestr(*part)
    return path


def tensor_of(path: Path, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, numbers: int = 4) -> Path:
    """A file whose tensor is described by hand; its storage has 4 numbers and claims `numbers`."""

    class Storage:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", numbers) if isinstance(value, Storage) else None

    call = torch._utils._rebuild_tensor_v2, (Storage(), offset, size, stride, False, OrderedDict())
    buffer = io.BytesIO()
    Pickler(buffer, 2).dump(Wants(call[0], *call[1]))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", buffer.getvalue())
        archive.writestr("x/data/0", struct.pack("<4f", 1, 2, 3, 4))
    return path


def test_tensors_that_reach_beyond_their_storage(tmp_path: Path) -> None:
    assert read_torch_pickle(tensor_of(tmp_path / "x", (2, 2), (2, 1))).tolist() == [[1, 2], [3, 4]]
    for lie in (
        {"size": (5,), "stride": (1,)},
        {"size": (2,), "stride": (4,)},
        {"size": (2,), "stride": (1,), "offset": 3},
        {"size": (2,), "stride": (-1,), "offset": 1},
        {"size": (2,), "stride": (1,), "offset": -1},
        {"size": (1 << 40,), "stride": (0,)},
        {"size": (2, 2), "stride": (1,)},
        {"size": (4,), "stride": (1,), "numbers": 1 << 40},
        {"size": (4,), "stride": (1,), "numbers": -4},
    ):
        with pytest.raises(HonneError, match="not a pickle that can be read"):
            read_torch_pickle(tensor_of(tmp_path / "x", **lie))  # type: ignore[arg-type]


def test_damaged_and_hostile_archives(tmp_path: Path) -> None:
    def fresh() -> Path:
        return saved(tmp_path / "x.dt", torch.zeros(1000))

    whole = fresh().read_bytes()
    for cut in (10, len(whole) // 2, len(whole) - 30):
        (tmp_path / "x.dt").write_bytes(whole[:cut])
        with pytest.raises(HonneError, match=r"x\.dt: not a file that can be read"):
            read_torch_pickle(tmp_path / "x.dt")
    with pytest.raises(HonneError, match="compressed, as PyTorch never does"):
        read_torch_pickle(repacked(fresh(), lambda name, data: (name, data), zipfile.ZIP_DEFLATED))
    with pytest.raises(HonneError, match=r"no data\.pkl in it"):
        read_torch_pickle(repacked(fresh(), lambda name, data: None if name.endswith(".pkl") else (name, data)))
    with pytest.raises(HonneError, match=r"There is no item named .*data/0"):
        read_torch_pickle(repacked(fresh(), lambda name, data: (name.replace("data/0", "../../0"), data)))
    with pytest.raises(HonneError, match="999 bytes are not 1000 numbers of 4 bytes"):
        read_torch_pickle(repacked(fresh(), lambda name, data: (name, data[:999] if len(data) == 4000 else data)))
    flipped = bytearray(whole)
    flipped[whole.index(bytes(4000)) + 7] = 1
    (tmp_path / "x.dt").write_bytes(flipped)
    with pytest.raises(HonneError, match="Bad CRC-32"):
        read_torch_pickle(tmp_path / "x.dt")


def test_damaged_files_of_old(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.dt", torch.zeros(1000), legacy=True)
    whole = path.read_bytes()
    for data in (b"", whole[:40], whole[:-1], whole.replace(struct.pack("<q", 1000), struct.pack("<q", 1 << 50))):
        path.write_bytes(data)
        with pytest.raises(HonneError, match=r"x\.dt: not a pickle that can be read"):
            read_torch_pickle(path)
    path.write_bytes(pickle.dumps({"text": 1}))
    with pytest.raises(HonneError, match="does not begin as files of PyTorch do"):
        read_torch_pickle(path)
    with pytest.raises(HonneError, match=r"cannot be read \(No such file"):
        read_torch_pickle(tmp_path / "none.dt")

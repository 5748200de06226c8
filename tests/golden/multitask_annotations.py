"""Labels of the multi-task data sets, as the original code joins, thins and scales them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from honne.data.affwild2 import TASKS, Task, thinned_expressions, thinned_valence_arousal
from honne.data.frame_folders import stand_ins
from honne.data.readers.afewva import scaled
from honne.data.readers.affwild2 import read_affwild2_task
from honne.data.readers.disfa import present
from honne.labels import ACTION_UNIT_SETS, EXPRESSION_SETS, conversion

EXPRESSIONS = EXPRESSION_SETS["affwild2"].expressions
FOLDERS: dict[Task, tuple[str, str, str]] = {
    "action_units": ("au", "AU_Set", ""),
    "expression": ("ex", "EXPR_Set", ",".join(name.capitalize() for name in EXPRESSIONS)),
    "valence_arousal": ("va", "VA_Set", "valence,arousal"),
}


@pytest.mark.golden("multitask", "annotations*.npz")
@pytest.mark.parametrize("task", TASKS)
def test_text_labels_join_the_frames_that_are_there(golden: dict[str, np.ndarray], tmp_path: Path, task: Task) -> None:
    short, folder, header = FOLDERS[task]
    raw = golden[f"{short}_raw"]
    units = {len(ACTION_UNIT_SETS[name]): ACTION_UNIT_SETS[name] for name in ("affwild2", "abaw")}
    header = header or ",".join(f"AU{unit}" for unit in units[raw.shape[1]])
    lines = [",".join(f"{value:.10g}" for value in row) for row in raw.reshape(len(raw), -1).tolist()]
    file = tmp_path / "annotations" / folder / "Training_Set" / "video.txt"
    file.parent.mkdir(parents=True)
    file.write_text("\n".join([header, *lines]) + "\n")
    faces = tmp_path / "cropped_aligned" / "video"
    faces.mkdir(parents=True)
    for number in golden["available_frame_numbers"].tolist():
        (faces / f"{number:05d}.jpg").touch()
    found = read_affwild2_task(tmp_path, task, partial="drop")
    np.testing.assert_allclose(found.values[task], golden[f"{short}_labels"].reshape(len(found.path), -1), rtol=1e-6)
    np.testing.assert_array_equal(found.frame - 1, golden[f"{short}_frame_ids"])
    assert [path.rpartition("/")[2] for path in found.path.tolist()] == golden[f"{short}_frame_names"].tolist()
    assert found.mask[task].all()


@pytest.mark.golden("multitask", "annotations*.npz")
def test_frames_that_stand_in_for_missing_ones(golden: dict[str, np.ndarray]) -> None:
    wanted = np.arange(1, int(golden["test_n_video_frames"].item()) + 1)
    np.testing.assert_array_equal(stand_ins(golden["available_frame_numbers"], wanted) - 1, golden["test_refined"])


@pytest.mark.golden("multitask", "annotations*.npz")
def test_thinning(golden: dict[str, np.ndarray]) -> None:
    names = np.array(EXPRESSIONS)[golden["expr_under_in"]]
    np.testing.assert_array_equal(thinned_expressions(names), golden["expr_under_kept_index"])
    kept = golden["va_kept_index"]  # of how many it was taken is not recorded
    np.testing.assert_array_equal(thinned_valence_arousal(int(kept[-1]) + 1), kept)


@pytest.mark.golden("multitask", "annotations*.npz")
def test_codes_and_scales_of_the_other_data_sets(golden: dict[str, np.ndarray]) -> None:
    index = np.array(conversion("expw", "affwild2").index)
    np.testing.assert_array_equal(index, golden["expw_to_affwild2"])
    np.testing.assert_array_equal(index[golden["expw_codes"]], golden["expw_mapped"])
    np.testing.assert_allclose(scaled(golden["afew_raw"]), golden["afew_scaled"], rtol=1e-12)
    np.testing.assert_array_equal(present(golden["disfa_intensity"]), golden["disfa_binary"])

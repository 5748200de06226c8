"""Golden cases: recordings of the original code, one .npz a case.

`pytest tests/golden --golden-dir DIR` runs the same tests on DIR/<system>/*.npz. A test names its files with
`@pytest.mark.golden(system, pattern)` and takes `golden` (their arrays); it runs once per file. A file that no test
names fails `test_golden_files.py`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.register_assert_rewrite(
    *(
        "causalmer_alignment",
        "causalmer_data",
        "causalmer_dmd",
        "causalmer_metrics",
        "causalmer_mult",
        "causalmer_scores",
    ),
    *("dmue_data", "dmue_faces", "dmue_networks"),
    *("au_cues_cams", "au_cues_data", "au_cues_losses", "au_cues_maps", "au_cues_measures", "au_cues_networks"),
    *("iern_faces", "iern_metrics", "iern_networks", "iern_preprocess", "iern_scenes", "iern_schedules"),
    *("iern_splits", "iern_training"),
    *("multitask_annotations", "multitask_ensemble", "multitask_faces", "multitask_losses", "multitask_metrics"),
    *("multitask_networks", "multitask_samplers", "multitask_transforms"),
)

OWN = Path(__file__).parent / "data"
NAMED = pytest.StashKey[set[Path]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden-dir", type=Path, help="folder with <system>/*.npz, in place of tests/golden/data")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "golden(system, pattern): run once per golden file of that name")
    config.stash[NAMED] = set()


def root(config: pytest.Config) -> Path:
    return config.getoption("--golden-dir", default=None) or OWN


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "golden_file" in metafunc.fixturenames:
        system, pattern = metafunc.definition.get_closest_marker("golden").args
        files = sorted((root(metafunc.config) / system).glob(pattern))
        metafunc.config.stash[NAMED].update(files)
        metafunc.parametrize("golden_file", files, ids=[file.stem for file in files])


@pytest.fixture(scope="session")
def golden_root(pytestconfig: pytest.Config) -> Path:
    """The folder that holds one folder per system."""
    return root(pytestconfig)


@pytest.fixture
def golden(golden_file: Path) -> dict[str, np.ndarray]:
    """Arrays of one golden file."""
    with np.load(golden_file, allow_pickle=False) as arrays:
        return dict(arrays)


@pytest.fixture
def named_files(pytestconfig: pytest.Config) -> set[Path]:
    """Golden files that some collected test names."""
    return pytestconfig.stash[NAMED]

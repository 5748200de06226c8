"""`import honne` is light, and lets torchvision be imported beside a torch build that lacks its operators."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = (
    "torch",
    "torchvision",
    "timm",
    "lightning",
    "pandas",
    "numpy",
    "scipy",
    "sklearn",
    "matplotlib",
    "jsonargparse",
)


def python(code: str) -> str:
    """Standard output of a fresh interpreter."""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def loaded_by(code: str) -> set[str]:
    """Which heavy packages a piece of code imports."""
    return set(python(f"{code}\nimport sys; print(*[name for name in {HEAVY} if name in sys.modules])").split())


def test_importing_honne_imports_nothing_heavy() -> None:
    assert loaded_by("import honne") == set()


def test_the_public_names_are_there() -> None:
    import honne

    assert {"load", "train", "evaluate", "compare", "analyze", "prepare", "Model", "HonneError"} <= set(dir(honne))
    assert honne.load.__module__ == "honne.models"
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        honne.lode  # noqa: B018


def test_torchvision_and_what_stands_on_it_can_be_imported_after_honne() -> None:
    code = (
        "from honne import torchvision_guard as guard\n"
        "guard.install()\n"  # `import honne` has done it once already
        "import sys, torchvision, timm, torchmetrics\n"
        "from torchvision.transforms import v2\n"
        "again = [guard.import_torchvision(), guard.import_torchvision()]\n"
        "assert all(module is torchvision for module in again)\n"
        "assert not any('guard' in type(finder).__module__ for finder in sys.meta_path)\n"
        "print(timm.create_model('resnet18', num_classes=7).num_classes)"
    )
    assert python(code) == "7"


def test_spawned_loader_workers_can_import_torchvision(tmp_path: Path) -> None:
    script = tmp_path / "load.py"
    script.write_text(
        "from torch.utils.data import DataLoader, Dataset\n"
        "class Numbers(Dataset):\n"
        "    def __len__(self): return 4\n"
        "    def __getitem__(self, index):\n"
        "        import honne, torchvision\n"
        "        return index\n"
        "if __name__ == '__main__':\n"
        "    import honne, torchvision\n"
        "    loader = DataLoader(Numbers(), num_workers=1, multiprocessing_context='spawn')\n"
        "    print(sum(int(batch) for batch in loader))\n"
    )
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=False)
    assert run.stdout.strip() == "6", run.stderr

"""The folder of a run: which recipe it holds, and whether that is done."""

from __future__ import annotations

from pathlib import Path

from honne.data.manifest import replacing
from honne.errors import WrongCall
from honne.methods.processes import is_first
from honne.recipe import Recipe


def begin(recipe: Recipe, out: Path) -> bool:
    """Note the recipe in `out`, RUN/recipe.yaml; returns whether its run is finished already.

    Another recipe is replaced as long as nothing was trained: a call that was refused may be made again, corrected.

    Raises:
        WrongCall: the folder holds a run of another recipe, or something else.
    """
    path = out / "recipe.yaml"
    if not is_first():
        return finished(out)
    if not path.is_file() and out.is_dir() and any(out.iterdir()):
        raise WrongCall(f"{out}: not empty, and not a run of honne.", "Choose another --out.")
    if not path.is_file() or not _trained(out):
        with replacing(path) as aside:
            aside.write_text(recipe.text, encoding="utf-8")
        return False
    before, now = path.read_text(encoding="utf-8").splitlines(), recipe.text.splitlines()
    changed = sorted(set(now) - set(before))
    if before != now:
        raise WrongCall(
            f"{out}: holds a run of another recipe (here {'; '.join(map(str.strip, changed)) or 'with other lines'}).",
            "Choose another --out, or repeat the first call to resume it.",
        )
    return finished(out)


def _trained(out: Path) -> bool:
    """Whether there is a checkpoint or a model, here or in a stage."""
    return any(out.rglob("*.ckpt")) or any(out.rglob("model.safetensors"))


def finished(out: Path) -> bool:
    """Whether the model of a run is there, measured too: its card is written last."""
    card = out / "model" / "card.md"
    return card.is_file() and card.stat().st_size > 0

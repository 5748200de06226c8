"""The folder of a run: which recipe it holds, and whether that is done."""

from __future__ import annotations

from pathlib import Path

from honne.data.manifest import replacing
from honne.errors import WrongCall
from honne.recipe import Recipe


def begin(recipe: Recipe, out: Path) -> bool:
    """Note the recipe in `out`, RUN/recipe.yaml; returns whether its run is finished already.

    Raises:
        WrongCall: the folder holds a run of another recipe, or something else.
    """
    path = out / "recipe.yaml"
    if not path.is_file():
        if out.is_dir() and any(out.iterdir()):
            raise WrongCall(f"{out}: not empty, and not a run of honne.", "Choose another --out.")
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
    return (out / "model" / "config.yaml").is_file()

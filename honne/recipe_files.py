"""Recipes as files: those that the package carries, those of users, and how they extend each other."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import yaml

from honne.errors import WrongCall

EXTENDS = "extends"


def names() -> list[str]:
    """Names of the recipes that the package carries, without those that are only there to be extended (`_name`)."""
    root = Path(str(resources.files("honne"))) / "recipes"
    paths = (path for path in root.rglob("*.yaml") if not path.name.startswith("_"))
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in paths)


def families() -> str:
    """`names` in one line, a folder of them as one entry."""
    counts = Counter(folder for folder, below, _ in (name.partition("/") for name in names()) if below)
    single = [name for name in names() if "/" not in name]
    return ", ".join(sorted([*single, *(f"{folder}/... ({count})" for folder, count in counts.items())]))


def find(recipe: str | Path) -> Path:
    """The file of a recipe given by name or path.

    Raises:
        WrongCall: there is none.
    """
    packaged = Path(str(resources.files("honne"))) / "recipes" / f"{recipe}.yaml"
    for path in (Path(recipe), packaged):
        if path.is_file():
            return path
    members = [name for name in names() if name.startswith(f"{recipe}/")]
    near = members or difflib.get_close_matches(str(recipe), names(), 3)
    hint = f"Did you mean one of: {', '.join(near)}?" if near else f"Give a YAML file, or one of: {families()}."
    raise WrongCall(f"no recipe '{recipe}'.", hint)


def chain(path: Path, below: tuple[Path, ...] = ()) -> Iterator[str]:
    """What a recipe consists of, as YAML: the recipes that it extends, in order, each after its own, and itself.

    Later ones win, option by option.

    Args:
        path: of the recipe. Names in its `extends` are those of packaged recipes, or of files beside it.
        below: those that led here.

    Raises:
        WrongCall: a file is no recipe, a base is missing, or a recipe extends itself.
    """
    path = path.resolve()
    if path in below:
        raise WrongCall(f"{path}: extends itself, by way of {below[-1]}.", "Mend one of the two.")
    try:
        options = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise WrongCall(f"{path}: not YAML ({str(error).splitlines()[-1].strip()}).", "Mend the file.") from error
    if not isinstance(options, dict):
        raise WrongCall(f"{path}: no recipe, it holds no options.", "A recipe begins with `method: erm`, for example.")
    bases = options.pop(EXTENDS, [])
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise WrongCall(f"{path}: extends is no list of names.", "Write: extends: [NAME, NAME]")
    for base in bases:
        beside = path.parent / base
        try:
            found = beside if beside.is_file() else find(base)
        except WrongCall as error:
            raise WrongCall(f"{path}: extends '{base}', which is no recipe.", error.hint) from None
        yield from chain(found, (*below, path))
    yield yaml.safe_dump(options, sort_keys=False)

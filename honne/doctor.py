"""`honne doctor`: what is installed and really works on this machine, and what to do where it does not."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from json import dumps
from pathlib import Path
from typing import Literal

from rich.text import Text

import honne
from honne import torchvision_guard
from honne.console import say, table
from honne.errors import HonneError

CORE = ("Python", "packages", "torch", "torchvision", "default model")
NOT_FOR_USERS = {"all", "dev", "docs"}
FREE_SPACE = 2e9  # bytes; a small prepared data set and a run fit

State = Literal["ok", "missing", "broken"]


@dataclass(frozen=True)
class Check:
    """What was found of one part.

    Args:
        part: what was looked at.
        state: ok, missing (not installed), or broken (installed, but does not work).
        found: versions and figures.
        advice: what to do, where something is to be done.
    """

    part: str
    state: State
    found: str
    advice: str = ""

    @property
    def core(self) -> bool:
        """Whether honne cannot do without it."""
        return self.part in CORE


def doctor(*, json: bool = False) -> int:
    """Try what is installed and say what works on this machine, and what to do where it does not.

    Args:
        json: print one JSON document instead of a table.

    Returns:
        0 if everything that honne cannot do without works, else 1.
    """
    checks = list(examine())
    healthy = all(check.state == "ok" for check in checks if check.core)
    if json:
        say(Text(dumps({"healthy": healthy, "checks": [asdict(check) for check in checks]}, indent=2)))
        return int(not healthy)
    say(table("honne doctor", ("part", "state", "found"), ((check.part, check.state, check.found) for check in checks)))
    for check in checks:
        if check.advice:
            say(Text(f"{check.part}: {check.advice}"))
    say("The core works." if healthy else "The core does not work: see the parts that are missing or broken.")
    return int(not healthy)


def examine() -> Iterator[Check]:
    """Every check, one after the other; a check that fails unexpectedly is reported as broken."""
    for part, look in (
        ("Python", _python),
        ("packages", _packages),
        ("torch", _torch),
        ("torchvision", _torchvision),
        ("default model", _default_model),
        ("faces", _faces),
        ("video", _video),
        ("threads", _threads),
        ("disk", _disk),
        ("caches", _caches),
    ):
        yield _safely(part, look)
    for extra in importlib.metadata.metadata("honne").get_all("Provides-Extra") or ():
        if extra not in NOT_FOR_USERS:
            yield _safely(f"extra {extra}", lambda extra=extra: _extra(extra))  # type: ignore[misc]


def _safely(part: str, look: Callable[[], Check]) -> Check:
    try:
        return look()
    except Exception as error:
        advice = error.hint if isinstance(error, HonneError) else "Install honne again in a fresh virtual environment."
        what = error.what if isinstance(error, HonneError) else f"{type(error).__name__}: {error}"
        return Check(part, "broken", " ".join(what.split()), advice)


def _python() -> Check:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}, honne {honne.__version__}"
    return Check("Python", "ok", found)


def _torch() -> Check:
    import torch

    devices = ["cpu"]
    if torch.cuda.is_available():
        devices += [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    for device in devices:
        product = torch.ones(8, 8, device=device) @ torch.ones(8, 8, device=device)
        if product.sum().item() != 512:
            return Check("torch", "broken", f"{torch.__version__}: wrong results on {device}", "Install torch again.")
    names = [f"{name} ({torch.cuda.get_device_name(name)})" if name.startswith("cuda") else name for name in devices]
    advice = ""
    if torch.version.cuda and len(devices) == 1:
        advice = "this is a CUDA build, but no GPU is usable; check the driver with nvidia-smi, or go on with the CPU."
    return Check("torch", "ok", f"{torch.__version__} on {', '.join(names)}", advice)


def _torchvision() -> Check:
    version = torchvision_guard.import_torchvision().__version__
    guarded = bool(torchvision_guard._libraries)
    found = f"{version}, {'guard active: its compiled operators do not fit this torch' if guarded else 'whole'}"
    return Check("torchvision", "ok", found)


def _default_model() -> Check:
    import numpy as np

    from honne.models import list_models, load

    if "default" not in list_models():
        return Check("default model", "missing", "not in this installation", "Install honne again from its wheel.")
    model = load("default")
    size = model.alignment.size
    prediction = model.predict(np.full((1, size, size, 3), 128, np.uint8))
    outputs = (prediction.expression, prediction.action_units, prediction.valence_arousal)
    if not all(output.isfinite().all() for output in outputs if output is not None):
        return Check("default model", "broken", "predicts NaN", "Install honne again from its wheel.")
    return Check("default model", "ok", f"hash right, predicts; sha256 {model.sha256[:12]}")


def _faces() -> Check:
    if importlib.util.find_spec("mediapipe") is None:
        advice = (
            "pip install 'honne[face]'; it has no wheel for Python 3.13 and newer, for which --finder names others."
        )
        return Check("faces", "missing", "MediaPipe is not installed", advice)
    if importlib.util.find_spec("skimage") is None:
        return Check(
            "faces", "ok", "MediaPipe is installed; not tried for want of a photograph", "pip install 'honne[demo]'"
        )
    from skimage.data import astronaut

    from honne.faces.finders import finder

    faces = finder("mediapipe").find(astronaut())
    if len(faces) != 1:
        return Check("faces", "broken", f"{len(faces)} faces in a portrait of one", "pip install 'honne[face]'")
    return Check("faces", "ok", f"MediaPipe finds the astronaut's face (score {faces[0].score:.2f})")


def _video() -> Check:
    if importlib.util.find_spec("av") is None:
        return Check("video", "missing", "PyAV is not installed", "pip install 'honne[video]'")
    import av
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "grey.mp4")
        with av.open(path, "w") as container:
            stream = container.add_stream("h264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
            for level in range(10):
                picture = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 20 * level, np.uint8), format="rgb24")
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
        with av.open(path) as container:
            frames = sum(1 for _ in container.decode(video=0))
    if frames != 10:
        return Check("video", "broken", f"{frames} of 10 frames came back", "pip install --force-reinstall av")
    return Check("video", "ok", f"PyAV {av.__version__} writes and reads H.264")


def _threads() -> Check:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads()
    advice = f"more threads than cores is slow; set OMP_NUM_THREADS={cores}." if threads > cores else ""
    return Check("threads", "ok", f"torch uses {threads} of {cores} cores", advice)


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free
    found = f"{free / 1e9:.1f} GB free in the current folder"
    if free < FREE_SPACE:
        return Check("disk", "broken", found, "free some space, or work in another folder.")
    return Check("disk", "ok", found)


def _caches() -> Check:
    """Folders that must be writable, and compiled Python files, without which every start takes twice as long."""
    import matplotlib
    import torch

    for folder in (Path(tempfile.gettempdir()), Path(matplotlib.get_cachedir())):
        try:
            with tempfile.NamedTemporaryFile(dir=folder):
                pass
        except OSError as error:
            return Check(
                "caches", "broken", f"{folder}: {error.strerror}", "set TMPDIR and MPLCONFIGDIR to writable folders."
            )
    spec = torch.__spec__
    if sys.dont_write_bytecode and spec and spec.cached and not Path(spec.cached).is_file():
        advice = "unset PYTHONDONTWRITEBYTECODE, or run `python -m compileall` on the site-packages folder."
        return Check("caches", "ok", "writable, but packages are not compiled: every start is slow", advice)
    return Check("caches", "ok", "writable, packages are compiled")


def _packages() -> Check:
    versions, missing, unfit = _requirements("")
    if missing or unfit:
        return Check(
            "packages", "broken", "; ".join([*(f"no {name}" for name in missing), *unfit]), "pip install honne"
        )
    return Check("packages", "ok", f"all {len(versions)} that honne cannot do without, in fitting versions")


def _extra(extra: str) -> Check:
    """Whether what an extra asks for is there in a fitting version and can be imported."""
    versions, missing, unfit = _requirements(extra)
    if missing or unfit:
        found = "; ".join(unfit) or f"without {', '.join(missing)}"
        return Check(f"extra {extra}", "broken" if unfit else "missing", found, f"pip install 'honne[{extra}]'")
    modules = _modules()
    for name in versions:
        # first the module of the package's own name: some list parts of theirs as modules (lmdb: cpython)
        installed = sorted(modules.get(_normal(name), ()), key=lambda module: _normal(module) != _normal(name))
        for module in installed[:1]:
            importlib.import_module(module)
    found = ", ".join(f"{name} {version}" for name, version in versions.items())
    return Check(f"extra {extra}", "ok", found or "nothing to install on this Python")


def _requirements(extra: str) -> tuple[dict[str, str], list[str], list[str]]:
    """What an extra (or, with "", honne itself) asks for: name -> version that fits; what is missing; what is unfit."""
    from packaging.requirements import Requirement

    versions, missing, unfit = {}, [], []
    for requirement in map(Requirement, importlib.metadata.requires("honne") or ()):
        marker = requirement.marker
        always = marker is None or marker.evaluate({"extra": ""})
        if always if extra else not always:
            continue
        if extra and marker is not None and not marker.evaluate({"extra": extra}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(requirement.name)
            continue
        if requirement.specifier.contains(version, prereleases=True):
            versions[requirement.name] = version
        else:
            unfit.append(f"{requirement.name} {version} is not {requirement.specifier}")
    return versions, missing, unfit


def _modules() -> dict[str, list[str]]:
    """Distribution -> the modules it installs."""
    modules: dict[str, list[str]] = {}
    for module, distributions in importlib.metadata.packages_distributions().items():
        for distribution in distributions:
            modules.setdefault(_normal(distribution), []).append(module)
    return modules


def _normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()

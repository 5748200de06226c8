"""Speed and memory of `honne analyze` on a video.

    python benchmarks/analyze.py [CLIP] [--model default] [--frames 300] [--long 6000]

Prints frames per second of face finding alone (decoding included) and of the whole analysis, their ratio, and how much
the peak memory grows from the short to the long clip. Both are CPU figures of this machine at this moment: on a busy
machine look at the CPU seconds, which other work hardly touches. Without CLIP a 640x360 clip is made of scikit-image's
astronaut.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from PIL import Image

from honne.analysis import analyze
from honne.analysis.pipeline import MAX_FINDERS, cores
from honne.analysis.video import ClipWriter
from honne.faces.finders import finder
from honne.faces.media import open_media

RATE = 30


def astronaut(frames: int) -> list[np.ndarray]:
    """A slow pan and zoom over the astronaut's portrait, 640x360."""
    from skimage.data import astronaut as photograph

    picture = Image.fromarray(photograph())
    shown = []
    for number in range(frames):
        phase = 2 * np.pi * number / frames
        width = 400 + 60 * np.cos(phase)
        left, top = 40 + 30 * np.sin(phase), 10 + 10 * np.sin(2 * phase)
        box = (left, top, left + width, top + width * 9 / 16)
        shown.append(np.asarray(picture.resize((640, 360), Image.Resampling.BILINEAR, box)))
    return shown


def film(path: Path, clip: Path | None, frames: int) -> Path:
    """A clip of so many frames: the given one, or the astronaut, over and over."""
    shown = astronaut(150) if clip is None else [frame.image for frame in open_media(clip).frames()]
    with ClipWriter(path) as writer:
        for number, image in enumerate(islice(cycle(shown), frames)):
            writer.add(image, number / RATE)
    return path


def find_faces(clip: Path) -> int:
    """Decode and find faces with as many finders as the analysis has; gives the number of frames."""
    threads = max(1, min(MAX_FINDERS, cores()))
    shared = finder("mediapipe")
    waiting: list = []
    count = 0
    with ThreadPoolExecutor(threads) as pool:
        for frame in open_media(clip).frames():
            waiting.append(pool.submit(shared.find, frame.image))
            count += 1
            if len(waiting) > 2 * threads:
                waiting.pop(0).result()
    return count


def measure(what: str, clip: Path, model: str) -> dict[str, float]:
    """Run one measurement in a process of its own: seconds, CPU seconds and peak memory in MB."""
    command = [sys.executable, __file__, str(clip), "--model", model, "--measure", what]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return dict(zip(("frames", "seconds", "cpu", "memory"), map(float, printed[-4:]), strict=True))


def run(what: str, clip: Path, model: str) -> None:
    """The measured process: a warm-up on the clip's first frames is left out by running on a short one first."""
    with tempfile.TemporaryDirectory() as folder:
        warm = film(Path(folder) / "warm.mp4", None, 8)
        if what == "find":
            find_faces(warm)
        else:
            from honne.models import load

            loaded = load(model)
            analyze([str(warm)], model=loaded, out=Path(folder) / "warm")
        wall, cpu = time.perf_counter(), time.process_time()
        if what == "find":
            frames = find_faces(clip)
        else:
            (done,) = analyze([str(clip)], model=loaded, out=Path(folder) / "out").done
            frames = sum(done.counts.values())
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << (20 if sys.platform == "darwin" else 10))
    print(frames, wall, cpu, peak)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", nargs="?", type=Path)
    parser.add_argument("--model", default="default")
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--long", type=int, default=6000, help="0 leaves the memory measurement out")
    parser.add_argument("--measure", choices=("find", "analyze"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        run(options.measure, options.clip, options.model)
        return
    with tempfile.TemporaryDirectory() as folder:
        short = film(Path(folder) / "short.mp4", options.clip, options.frames)
        found = measure("find", short, options.model)
        whole = measure("analyze", short, options.model)
        print(f"{cores()} CPU cores, {options.frames} frames")
        for name, each in (("face finding alone", found), ("honne analyze", whole)):
            speed, cpu = each["frames"] / each["seconds"], 1000 * each["cpu"] / each["frames"]
            print(f"{name:<20} {speed:7.1f} frames/s   {cpu:6.1f} CPU ms a frame   peak {each['memory']:.0f} MB")
        ratio, cpu = whole["seconds"] / found["seconds"], whole["cpu"] / found["cpu"]
        print(f"ratio {ratio:.2f} in time, {cpu:.2f} in CPU seconds (goal: at most 1.5; at least 25 frames/s)")
        if options.long:
            long = film(Path(folder) / "long.mp4", options.clip, options.long)
            grown = measure("analyze", long, options.model)["memory"] - whole["memory"]
            print(f"memory grows by {grown:.0f} MB from {options.frames} to {options.long} frames (goal: less than 50)")


if __name__ == "__main__":
    main()

"""How long the first answer takes: `import honne`, `honne --help` and the help of every command, in fresh interpreters.

    python benchmarks/startup.py [--repeats 5]

Prints the fastest and the median wall time in seconds, interpreter included. Limits: import 0.3 s, `--help` 0.5 s.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

from honne.cli import COMMANDS


def seconds(command: list[str]) -> float:
    """Wall time of one run."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="runs of each")
    repeats = parser.parse_args().repeats
    python, honne = [sys.executable], [sys.executable, "-m", "honne"]
    runs = {"python -c pass": [*python, "-c", "pass"], "import honne": [*python, "-c", "import honne"]}
    runs["honne --help"] = [*honne, "--help"]
    runs |= {f"honne {command} --help": [*honne, command, "--help"] for command in COMMANDS}
    for name, command in runs.items():
        times = [seconds(command) for _ in range(repeats)]
        print(f"{name:24} fastest {min(times):6.3f}  median {statistics.median(times):6.3f}")


if __name__ == "__main__":
    main()

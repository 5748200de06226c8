"""Many inputs on many machines: Ray Data carries the reading, this process finishes the tables.

Every video is one job; every `PART_FRAMES` stills of a folder are one. Workers write parts where the plain engine
would, so the tables are the same and an interrupted run goes on with either engine.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from honne.analysis.inputs import Input
from honne.analysis.pipeline import Analyst
from honne.analysis.run import Done, Task
from honne.analysis.settings import Settings
from honne.errors import HonneError, WrongCall
from honne.models import load

CORES = 2  # of one worker: a finder keeps about two busy


class Worker:
    """One process of the cluster: loads the model once, then reads parts.

    Args:
        model: folder of the model, seen from every machine.
        settings: the user's choices.
        out: folder of the results, shared by all machines.
        batch_size: faces per call of the model.
    """

    def __init__(self, model: str, settings: Settings, out: str, batch_size: int) -> None:
        self.model = load(model)
        self.settings, self.out, self.batch_size = settings, Path(out), batch_size
        self.analyst: Analyst | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Read the parts of a batch of jobs; gives each job's task and, where it failed, why."""
        problems = [self._read(*job) for job in zip(batch["input"], batch["part"], strict=True)]
        return {"task": list(batch["task"]), "problem": problems}

    def _read(self, named: Input, part: int) -> str:
        task = Task(named, self.model, self.settings, self.out)
        try:
            if self.analyst is None:
                self.analyst = Analyst(self.model, self.settings.finder, self.batch_size, task.layout)
            task.read(int(part), self.analyst, lambda frame: None)
        except HonneError as error:
            return str(error)
        return ""


def run_ray(tasks: list[Task], batch_size: int, watch: Callable[[Input], Callable[[int], None]]) -> Iterator[Done]:
    """The same as `run_local` on a Ray cluster: the one that is running (`RAY_ADDRESS`), or this machine.

    Inputs come back in the order in which they end.

    Raises:
        HonneError: Ray is not installed, or a worker could not go on.
        WrongCall: an input is a camera, or the model is not in a folder.
    """
    if not tasks:
        return
    jobs = [
        {"task": number, "input": task.input, "part": part}
        for number, task in enumerate(tasks)
        for part in _begun(task).missing()
    ]
    left = Counter(job["task"] for job in jobs)
    yield from (task.finish() for number, task in enumerate(tasks) if not left[number])
    for result in _results(jobs, tasks[0], batch_size):
        if result["problem"]:
            raise HonneError(f"a worker stopped: {result['problem']}")
        number = int(result["task"])
        left[number] -= 1
        if not left[number]:
            watch(tasks[number].input)
            yield tasks[number].finish()


def _begun(task: Task) -> Task:
    if task.input.kind == "camera":
        raise WrongCall("a camera cannot be read with --engine ray.", "Use --engine local.")
    task.begin()
    return task


def _results(jobs: list[dict[str, Any]], task: Task, batch_size: int) -> Iterator[dict[str, Any]]:
    try:
        import ray
        import ray.data
    except ImportError:
        raise HonneError("--engine ray needs Ray.", "Install it with: pip install 'honne[cluster]'") from None
    if task.model.folder is None:
        raise WrongCall("--engine ray needs a model in a folder.", "Save it first, and name the folder.")
    if not jobs:
        return
    if not ray.is_initialized():
        try:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # Ray raises plain ones
            reason = " ".join(str(error).split()).rstrip(".")
            raise HonneError(f"Ray did not start: {reason}.", "Try again, or use --engine local.") from error
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    workers = max(1, min(len(jobs), int(ray.cluster_resources().get("CPU", 1)) // CORES))
    read = ray.data.from_items(jobs, override_num_blocks=len(jobs)).map_batches(
        Worker,
        fn_constructor_args=(str(task.model.folder.resolve()), task.settings, str(task.out.resolve()), batch_size),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=min(CORES, int(ray.cluster_resources().get("CPU", 1))),
    )
    try:
        yield from read.iter_rows()
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise HonneError(f"Ray stopped: {reason}", "Run the same command again to go on.") from error

"""What the outputs of another system's checkpoint are called."""

from __future__ import annotations

from pathlib import Path

from honne.errors import HonneError
from honne.labels import expression_set


def classes(path: Path, outputs: int, labels: str | None, published: str) -> tuple[str, ...]:
    """Expressions in the order of the outputs.

    Args:
        path: of the checkpoint, for messages.
        outputs: how many it has.
        labels: set or names that the user gives.
        published: set of the system's published weights.

    Raises:
        HonneError: they are not as many as the outputs.
    """
    expressions = expression_set(labels or published).expressions
    if outputs == len(expressions):
        return expressions
    if labels is None:
        raise HonneError(
            f"{path}: has {outputs} classes, and does not say which.",
            "Say so in the order of its outputs: --labels rafdb, --labels sfew, or names separated by commas.",
        )
    raise HonneError(
        f"{path}: has {outputs} classes, but --labels names {len(expressions)}: {', '.join(expressions)}.",
        "Name the classes in the order of its outputs.",
    )

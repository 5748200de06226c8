"""Evaluating a model on a prepared data set, and comparing two evaluations."""

from honne.evaluation.comparing import compare
from honne.evaluation.evaluating import evaluate

__all__ = ["compare", "evaluate"]

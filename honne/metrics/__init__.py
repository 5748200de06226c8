"""Measures, each once as a pure function on tensors; `honne.metrics.accumulating` collects batches for them.

Every function takes `weight`, one weight per row. A matrix of them, one row per bootstrap replicate, gives all
replicates at once, so `honne.metrics.resampling` has an interval for every measure.
"""

from honne.metrics.abaw import (
    abaw_accuracy,
    abaw_affect,
    abaw_expression,
    abaw_macro_f1,
    abaw_mtl,
    abaw_units,
    selection_score,
    whole,
)
from honne.metrics.action_units import au_accuracy, au_auc, au_balanced_accuracy, au_counts, au_ece, au_f1
from honne.metrics.ambiguity import (
    auc,
    chebyshev,
    class_thresholds,
    cosine,
    entropy,
    full_distribution,
    intersection,
    label_error,
    others,
    spearman,
    suggested_class,
)
from honne.metrics.attention import attention_cosine, class_means, energy_inside, mean_over_classes, pointing
from honne.metrics.calibration import Reliability, binned_gap, brier, ece, ece_classwise, nll, reliability
from honne.metrics.distributions import emd, js, kl, vote_hit
from honne.metrics.emotions import emotion_scores, weighted_f1
from honne.metrics.expression import (
    ClassScores,
    accuracy,
    balanced_accuracy,
    class_scores,
    confusion_matrix,
    macro_f1,
)
from honne.metrics.resampling import Estimate, bootstrap, interval, p_value, resampled
from honne.metrics.sentiment import polarity, sentiment_class, sentiment_scores, three_class_scores
from honne.metrics.valence_arousal import ccc, ccc_of, moments, pearson, rmse

__all__ = [
    "ClassScores",
    "Estimate",
    "Reliability",
    "abaw_accuracy",
    "abaw_affect",
    "abaw_expression",
    "abaw_macro_f1",
    "abaw_mtl",
    "abaw_units",
    "accuracy",
    "attention_cosine",
    "au_accuracy",
    "au_auc",
    "au_balanced_accuracy",
    "au_counts",
    "au_ece",
    "au_f1",
    "auc",
    "balanced_accuracy",
    "binned_gap",
    "bootstrap",
    "brier",
    "ccc",
    "ccc_of",
    "chebyshev",
    "class_means",
    "class_scores",
    "class_thresholds",
    "confusion_matrix",
    "cosine",
    "ece",
    "ece_classwise",
    "emd",
    "emotion_scores",
    "energy_inside",
    "entropy",
    "full_distribution",
    "intersection",
    "interval",
    "js",
    "kl",
    "label_error",
    "macro_f1",
    "mean_over_classes",
    "moments",
    "nll",
    "others",
    "p_value",
    "pearson",
    "pointing",
    "polarity",
    "reliability",
    "resampled",
    "rmse",
    "selection_score",
    "sentiment_class",
    "sentiment_scores",
    "spearman",
    "suggested_class",
    "three_class_scores",
    "vote_hit",
    "weighted_f1",
    "whole",
]

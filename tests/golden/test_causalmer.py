"""CausalMER against recordings of the original code; the tests themselves are in the files beside this one, by part."""

from __future__ import annotations

from causalmer_alignment import test_alignment_by_ctc  # noqa: F401
from causalmer_data import (  # noqa: F401
    test_features_that_go_missing,
    test_published_files_are_read_as_the_original_does,
)
from causalmer_dmd import test_dmd, test_graph_distillation, test_margin_and_orthogonality  # noqa: F401
from causalmer_metrics import (  # noqa: F401
    test_emotions,
    test_sentiment_as_causalmer_measures_it,
    test_sentiment_as_mmsa_and_dmd_measure_it,
    test_sentiment_as_mult_measures_it,
)
from causalmer_mult import (  # noqa: F401
    test_attention,
    test_encoder,
    test_mult_of_causalmer,
    test_mult_with_and_without_the_mask_of_the_future,
    test_one_target_alone,
    test_positions_and_masks,
)
from causalmer_scores import (  # noqa: F401
    test_effects_losses_and_gradients,
    test_five_steps_of_training,
)

"""AU cues against recordings of the original code; the tests themselves are in the files beside this one, by part."""

from __future__ import annotations

from au_cues_cams import test_every_kind_of_map  # noqa: F401  tests, collected here
from au_cues_data import (  # noqa: F401
    test_class_weights,
    test_even_sampler,
    test_learning_rates,
    test_masking,
    test_validations_within_an_epoch,
)
from au_cues_losses import (  # noqa: F401
    test_alignment_losses_and_their_gradients,
    test_attention,
    test_cutmix_of_images_heat_maps_and_labels,
    test_log_barrier,
    test_losses_of_scores,
    test_segmentation_loss,
)
from au_cues_maps import (  # noqa: F401
    test_a_failed_landmark_map_is_nan,
    test_batched_maps_of_recorded_faces,
    test_batched_maps_of_standard_faces,
    test_codebook,
    test_heat_maps,
    test_landmark_maps,
    test_region_maps,
)
from au_cues_measures import (  # noqa: F401
    test_accuracy_and_confusion,
    test_cosines_by_class_and_layer,
    test_the_first_of_equally_good_epochs_is_kept,
)
from au_cues_networks import (  # noqa: F401
    test_acol,
    test_apvit,
    test_attention_dropout,
    test_heads,
    test_sizes,
    test_tscam,
)

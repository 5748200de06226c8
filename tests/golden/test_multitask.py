"""Multitask against recordings of the original code; the tests themselves are in the files beside this one, by part."""

from __future__ import annotations

from multitask_annotations import (  # noqa: F401
    test_codes_and_scales_of_the_other_data_sets,
    test_frames_that_stand_in_for_missing_ones,
    test_text_labels_join_the_frames_that_are_there,
    test_thinning,
)
from multitask_ensemble import (  # noqa: F401
    test_mean_logits,
    test_mean_probabilities,
    test_single_models,
)
from multitask_faces import (  # noqa: F401
    test_faces_resampled_as_published,
    test_geometry,
)
from multitask_losses import (  # noqa: F401
    test_distillation_of_each_part,
    test_focal_losses,
    test_parts_of_the_affect_loss,
    test_student_loss,
    test_supervised_loss_of_a_student,
    test_teacher_loss,
)
from multitask_metrics import (  # noqa: F401
    test_challenge_scores,
    test_thresholds_of_every_model_and_their_mean,
)
from multitask_networks import (  # noqa: F401
    test_head,
    test_recurrent_head,
    test_sequence_model,
    test_whole_network,
)
from multitask_samplers import (  # noqa: F401
    test_action_units_of_an_epoch,
    test_cells_of_valence_and_arousal_equally_often,
    test_expressions_equally_often,
    test_frames_of_several_windows_stay_in_their_order,
    test_the_first_clone_counts,
    test_weights_of_rare_action_units,
    test_windows,
)
from multitask_transforms import test_pictures  # noqa: F401

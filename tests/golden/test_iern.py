"""IERN against recordings of the original code; the tests themselves are in the files beside this one, by part."""

from __future__ import annotations

from iern_faces import test_aligned_pictures, test_eye_matrices, test_turned_videos  # noqa: F401  tests, collected here
from iern_metrics import (  # noqa: F401
    test_counts_and_confusion_of_a_fold,
    test_pooled_folds,
    test_predicted_class,
)
from iern_networks import (  # noqa: F401
    test_blocks,
    test_full_model,
    test_initial_weights,
    test_shapes_of_the_full_model,
)
from iern_preprocess import test_measuring_transform  # noqa: F401
from iern_scenes import test_pictures_and_keys  # noqa: F401
from iern_schedules import test_learning_rates  # noqa: F401
from iern_splits import (  # noqa: F401
    folds,
    test_labels_follow_from_the_files,
    test_published_counts,
    test_published_names,
)
from iern_training import (  # noqa: F401
    test_center_loss,
    test_loss_of_the_features,
    test_losses,
    test_the_recorded_initial_state_is_the_whole_of_ours,
    test_three_steps,
)

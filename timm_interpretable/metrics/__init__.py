"""Numbers about attributions: localisation, removal of pixels, sanity, and face verification."""

from timm_interpretable.metrics.confidence import ConfidenceChange, confidence_change
from timm_interpretable.metrics.fills import Classifier, Fill, Removal, black_pixel
from timm_interpretable.metrics.grid import cell_masks, confident_grids, grid_localisation
from timm_interpretable.metrics.imputation import impute
from timm_interpretable.metrics.localisation import box_iou, energy_in_box, pointing_game, unit_range
from timm_interpretable.metrics.removal import (
    DECILES,
    PAPER_REMOVAL,
    QUARTER,
    TENTHS,
    InsertionDeletion,
    RemovalCurves,
    area,
    insertion_deletion,
    logit_deletion,
    pixel_removal,
    removal_curves,
    road,
    road_curves,
)
from timm_interpretable.metrics.sanity import completeness, randomisation, rank_correlation
from timm_interpretable.metrics.verification import (
    PERCENTAGES,
    EqualError,
    VerificationCurves,
    all_pairs,
    equal_error_rate,
    kept_pixels,
    verification_curves,
)

__all__ = [
    "DECILES",
    "PAPER_REMOVAL",
    "PERCENTAGES",
    "QUARTER",
    "TENTHS",
    "Classifier",
    "ConfidenceChange",
    "EqualError",
    "Fill",
    "InsertionDeletion",
    "Removal",
    "RemovalCurves",
    "VerificationCurves",
    "all_pairs",
    "area",
    "black_pixel",
    "box_iou",
    "cell_masks",
    "completeness",
    "confidence_change",
    "confident_grids",
    "energy_in_box",
    "equal_error_rate",
    "grid_localisation",
    "impute",
    "insertion_deletion",
    "kept_pixels",
    "logit_deletion",
    "pixel_removal",
    "pointing_game",
    "randomisation",
    "rank_correlation",
    "removal_curves",
    "road",
    "road_curves",
    "unit_range",
    "verification_curves",
]

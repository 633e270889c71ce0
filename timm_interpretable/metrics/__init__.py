"""Numbers about attributions."""

from timm_interpretable.metrics.alignment import gradcam_depth_correlation as gradcam_depth_correlation
from timm_interpretable.metrics.attribution import (
    BoxedBatch as BoxedBatch,
    attribution_report as attribution_report,
    map_scores as map_scores,
)
from timm_interpretable.metrics.comparison import (
    COSTLY as COSTLY,
    comparison_methods as comparison_methods,
    grid_report as grid_report,
    occlusion as occlusion,
    removal_report as removal_report,
)
from timm_interpretable.metrics.confidence import (
    ConfidenceChange as ConfidenceChange,
    confidence_change as confidence_change,
)
from timm_interpretable.metrics.face_maps import (
    FaceMaps as FaceMaps,
    FaceMethod as FaceMethod,
    face_methods as face_methods,
    verification_report as verification_report,
)
from timm_interpretable.metrics.gradcam import grad_cam as grad_cam, hires_cam as hires_cam
from timm_interpretable.metrics.grid import (
    MapsOfClasses as MapsOfClasses,
    cell_masks as cell_masks,
    confident_grids as confident_grids,
    grid_localisation as grid_localisation,
    maps_by_class as maps_by_class,
)
from timm_interpretable.metrics.imputation import impute as impute
from timm_interpretable.metrics.insertion import (
    InsertionDeletion as InsertionDeletion,
    insertion_deletion as insertion_deletion,
)
from timm_interpretable.metrics.localisation import (
    box_iou as box_iou,
    energy_in_box as energy_in_box,
    localisation_report as localisation_report,
    pointing_game as pointing_game,
    unit_range as unit_range,
)
from timm_interpretable.metrics.locality import (
    centroid_distance as centroid_distance,
    depth_layers as depth_layers,
    locality_report as locality_report,
    sampled_locations as sampled_locations,
    share_in_cell as share_in_cell,
)
from timm_interpretable.metrics.maps import MapSource as MapSource, maps_of as maps_of
from timm_interpretable.metrics.methods import (
    attribution_methods as attribution_methods,
    fame_after as fame_after,
)
from timm_interpretable.metrics.permutation import patch_permutation_importance as patch_permutation_importance
from timm_interpretable.metrics.removal import (
    QUARTER as QUARTER,
    TENTHS as TENTHS,
    Fill as Fill,
    RemovalCurves as RemovalCurves,
    area as area,
    logit_deletion as logit_deletion,
    pixel_removal as pixel_removal,
    removal_curves as removal_curves,
)
from timm_interpretable.metrics.road import DECILES as DECILES, road as road, road_curves as road_curves
from timm_interpretable.metrics.sanity import (
    completeness as completeness,
    randomisation as randomisation,
    rank_correlation as rank_correlation,
)
from timm_interpretable.metrics.smoothing import blurred as blurred, odd_share as odd_share, smoothed as smoothed
from timm_interpretable.metrics.verification import (
    PERCENTAGES as PERCENTAGES,
    EqualError as EqualError,
    VerificationCurves as VerificationCurves,
    all_pairs as all_pairs,
    equal_error_rate as equal_error_rate,
    kept_pixels as kept_pixels,
    verification_curves as verification_curves,
)

"""Numbers about attributions."""

from timm_interpretable.metrics.alignment import gradcam_depth_correlation as gradcam_depth_correlation
from timm_interpretable.metrics.comparison import (
    COSTLY as COSTLY,
    comparison_methods as comparison_methods,
    grid_report as grid_report,
    occlusion as occlusion,
    removal_report as removal_report,
)
from timm_interpretable.metrics.face_maps import (
    FaceMaps as FaceMaps,
    FaceMethod as FaceMethod,
    face_methods as face_methods,
    verification_report as verification_report,
)
from timm_interpretable.metrics.gradcam import grad_cam as grad_cam
from timm_interpretable.metrics.grid import (
    MapsOfClasses as MapsOfClasses,
    cell_masks as cell_masks,
    confident_grids as confident_grids,
    grid_localisation as grid_localisation,
    maps_by_class as maps_by_class,
)
from timm_interpretable.metrics.localisation import (
    energy_in_box as energy_in_box,
    localisation_report as localisation_report,
    pointing_game as pointing_game,
)
from timm_interpretable.metrics.removal import pixel_removal as pixel_removal
from timm_interpretable.metrics.verification import (
    TENTHS as TENTHS,
    EqualError as EqualError,
    VerificationCurves as VerificationCurves,
    all_pairs as all_pairs,
    equal_error_rate as equal_error_rate,
    kept_pixels as kept_pixels,
    verification_curves as verification_curves,
)

"""Numbers about attributions."""

from timm_interpretable.metrics.alignment import gradcam_depth_correlation as gradcam_depth_correlation
from timm_interpretable.metrics.gradcam import grad_cam as grad_cam
from timm_interpretable.metrics.localisation import (
    energy_in_box as energy_in_box,
    localisation_report as localisation_report,
    pointing_game as pointing_game,
)

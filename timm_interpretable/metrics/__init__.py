"""Numbers about attributions."""

from timm_interpretable.metrics.alignment import gradcam_depth_correlation as gradcam_depth_correlation
from timm_interpretable.metrics.localisation import energy_in_box as energy_in_box, pointing_game as pointing_game

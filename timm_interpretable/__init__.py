"""Inherently interpretable image classifiers for timm, with their attributions behind Captum's interface."""

from timm_interpretable import models as models
from timm_interpretable.models.weights import weights_source as weights_source

__version__ = "0.1.0"

"""Inherently interpretable image classifiers for timm, with their attributions behind Captum's interface."""

from timm_interpretable import models as models

__version__ = "0.1.0"

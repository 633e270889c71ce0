"""Attributions of the package's models, each behind Captum's interface."""

from timm_interpretable.attr.class_map import ClassMap as ClassMap, LayerClassMap as LayerClassMap
from timm_interpretable.attr.contribution import (
    InputContribution as InputContribution,
    LayerContribution as LayerContribution,
)

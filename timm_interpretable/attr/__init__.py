"""Attributions, each behind Captum's interface: those of the package's own models, and those of any model."""

from timm_interpretable.attr.class_map import ClassMap as ClassMap, LayerClassMap as LayerClassMap
from timm_interpretable.attr.contribution import (
    InputContribution as InputContribution,
    LayerContribution as LayerContribution,
)
from timm_interpretable.attr.fame import FAME as FAME, FAMEDetails as FAMEDetails, change_map as change_map
from timm_interpretable.attr.losses import (
    CosineDissimilarity as CosineDissimilarity,
    CosineSimilarity as CosineSimilarity,
    FeatureLocationLoss as FeatureLocationLoss,
    LogitLoss as LogitLoss,
    Loss as Loss,
)
from timm_interpretable.attr.rise import RISE as RISE, CorrRISE as CorrRISE

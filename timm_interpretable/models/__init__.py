"""Interpretable classifiers; importing this package registers them with timm."""

from timm_interpretable.models.facnn import (
    ClassMapHead as ClassMapHead,
    DampenedBlock as DampenedBlock,
    DampenedSkip as DampenedSkip,
    FeatureAlignedCNN as FeatureAlignedCNN,
    Lift as Lift,
)

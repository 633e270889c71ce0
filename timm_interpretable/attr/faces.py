"""What two faces have in common and where they differ, by several methods

Sources: `FAME: Feature Activation Map Explanation on Image Classification and Face Recognition` (Xinyi Zhang, Manuel
Günther) - https://arxiv.org/abs/2605.12017, with the settings of its comparison.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from timm_interpretable.attr.cams import grad_cam
from timm_interpretable.attr.contract import check_at_least_one
from timm_interpretable.attr.fame import FAME
from timm_interpretable.attr.losses import CosineDissimilarity, CosineSimilarity
from timm_interpretable.attr.rise import CorrRISE

__all__ = ["FaceMaps", "FaceMethod", "face_methods"]

_STOP = 0.01  # FAME's epsilon


class FaceMaps(NamedTuple):
    """Importance of every pixel of the probes, none negative: what is similar (e+), what is not (e-); `(B, H, W)`.

    In the units of its method: those of the image for FAME, a correlation for CorrRISE, the cosine's for Grad-CAM.
    """

    similar: Tensor
    dissimilar: Tensor


FaceMethod = Callable[[Tensor, Tensor, Tensor], FaceMaps]
"""Probes `(B, C, H, W)`, embeddings of the other pictures `(B, D)`, whether the pairs are genuine `(B,)`, to maps."""


def face_methods(
    model: Any, n_steps: int = 100, n_samples: int = 500, seed: int = 0, batch_size: int = 64,
    show_progress: bool | None = None,
) -> dict[str, FaceMethod]:  # fmt: skip
    """FAME, CorrRISE, Grad-CAM of the cosine, and chance.

    FAME ends a descent below .01; towards the face of another person (e- of an impostor pair) it takes all its steps.

    Args:
        model: a timm model without classifier, in evaluation mode.
        n_steps: of FAME; the paper: 500.
        n_samples: masks of CorrRISE.
        seed: of the masks, and of chance.
        batch_size: images per pass.
        show_progress: bars of FAME and CorrRISE; None for one in a terminal, where it takes over three seconds.

    Raises:
        ValueError: a batch size below 1.
    """
    check_at_least_one("batch_size", batch_size)

    def fame(probes: Tensor, references: Tensor, genuine: Tensor) -> FaceMaps:
        stop = torch.where(genuine, _STOP, -torch.inf)
        options: dict[str, Any] = dict(n_steps=n_steps, internal_batch_size=batch_size, show_progress=show_progress)
        similar: Any = FAME(model).attribute(probes, loss=CosineSimilarity(references, _STOP), **options)
        away = CosineDissimilarity(references)
        dissimilar: Any = FAME(model).attribute(probes, loss=away, stop_below=stop, **options)
        return FaceMaps(similar[:, 0], dissimilar[:, 0])

    def corr_rise(probes: Tensor, references: Tensor, genuine: Tensor) -> FaceMaps:
        maps = []
        for some, others in zip(probes.split(batch_size), references.split(batch_size), strict=True):
            found: Any = CorrRISE(model).attribute(
                some, others, n_samples=n_samples, seed=seed, perturbations_per_eval=max(1, batch_size // len(some)),
                show_progress=show_progress,
            )  # fmt: skip
            maps.append(found[:, 0])
        signed = torch.cat(maps)
        return FaceMaps(signed.clamp_min(0), (-signed).clamp_min(0))

    def cam(probes: Tensor, references: Tensor, genuine: Tensor) -> FaceMaps:
        loss = CosineSimilarity(references)
        signed = [grad_cam(model, probes, score) for score in (loss, -loss)]
        return FaceMaps(*(F.interpolate(one, probes.shape[2:], mode="bilinear")[:, 0] for one in signed))

    def chance(probes: Tensor, references: Tensor, genuine: Tensor) -> FaceMaps:
        generator = torch.Generator().manual_seed(seed)
        return FaceMaps(*torch.rand(2, len(probes), *probes.shape[2:], generator=generator).to(probes.device))

    return {"FAME": fame, "CorrRISE": corr_rise, "Grad-CAM": cam, "random": chance}

"""What two faces have in common and where they differ, by several methods, and how good these maps are

Sources: `FAME: Feature Activation Map Explanation on Image Classification and Face Recognition` (Xinyi Zhang, Manuel
Günther) - https://arxiv.org/abs/2605.12017, with the settings of its comparison.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from timm_interpretable.attr import FAME, CorrRISE, CosineDissimilarity, CosineSimilarity
from timm_interpretable.metrics.gradcam import grad_cam
from timm_interpretable.metrics.verification import kept_pixels, verification_curves

__all__ = ["FaceMaps", "FaceMethod", "face_methods", "verification_report"]

_STOP = 0.01  # FAME's epsilon
_TOP = 20  # per cent of the pixels, of the change of similarity


class FaceMaps(NamedTuple):
    """Importance of every pixel of the probes, none negative: what is similar (e+), what is not (e-); `(B, H, W)`."""

    similar: Tensor
    dissimilar: Tensor


FaceMethod = Callable[[Tensor, Tensor, Tensor], FaceMaps]
"""Probes `(B, C, H, W)`, embeddings of the other pictures `(B, D)`, whether the pairs are genuine `(B,)`, to maps."""


def face_methods(
    model: Any, n_steps: int = 100, n_masks: int = 500, seed: int = 0, batch_size: int = 64, show_progress: bool = False
) -> dict[str, FaceMethod]:
    """FAME, CorrRISE, Grad-CAM of the cosine, and chance.

    FAME ends a descent below .01; towards the face of another person (e- of an impostor pair) it takes all its steps.

    Args:
        model: a timm model without classifier, in evaluation mode.
        n_steps: of FAME; the paper: 500.
        n_masks: of CorrRISE.
        seed: of the masks, and of chance.
        batch_size: images per pass.
        show_progress: bars of FAME and CorrRISE.
    """

    def fame(probes: Tensor, references: Tensor, genuine: Tensor) -> FaceMaps:
        stop = torch.where(genuine, _STOP, -torch.inf)
        options: dict[str, Any] = dict(n_steps=n_steps, internal_batch_size=batch_size, show_progress=show_progress)
        similar: Any = FAME(model).attribute(probes, loss=CosineSimilarity(references, _STOP), **options)
        away = CosineDissimilarity(references)
        dissimilar: Any = FAME(model).attribute(probes, loss=away, stop_below=stop, **options)
        return FaceMaps(similar[:, 0], dissimilar[:, 0])

    def corr_rise(probes: Tensor, references: Tensor, genuine: Tensor) -> FaceMaps:
        maps: Any = CorrRISE(model).attribute(
            probes, references, n_masks=n_masks, seed=seed, internal_batch_size=batch_size, show_progress=show_progress
        )
        return FaceMaps(maps[:, 0].clamp_min(0), (-maps[:, 0]).clamp_min(0))

    def cam(probes: Tensor, references: Tensor, genuine: Tensor) -> FaceMaps:
        loss = CosineSimilarity(references)
        signed = [grad_cam(model, probes, score) for score in (loss, -loss)]
        return FaceMaps(*(F.interpolate(one[:, None], probes.shape[2:], mode="bilinear")[:, 0] for one in signed))

    def chance(probes: Tensor, references: Tensor, genuine: Tensor) -> FaceMaps:
        generator = torch.Generator().manual_seed(seed)
        return FaceMaps(*torch.rand(2, len(probes), *probes.shape[2:], generator=generator).to(probes.device))

    return {"FAME": fame, "CorrRISE": corr_rise, "Grad-CAM": cam, "random": chance}


def verification_report(
    model: Callable[[Tensor], Tensor], methods: Mapping[str, FaceMethod], probes: Tensor, references: Tensor,
    genuine: Tensor, threshold: float, seed: int = 0, batch_size: int = 64,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Deletion and insertion by the similar parts, and what hiding similar and dissimilar parts does to the cosine.

    Args:
        model: images to embeddings.
        methods: from `face_methods`.
        probes, references, genuine, threshold, batch_size: as in `verification_curves`.
        seed: of the order of equal values.

    Returns:
        per method `seconds` per pair; `ties` (the paper's rule) and `strict`, each with the areas `deletion` and
        `insertion` and their `curves`; `empty`, the number of maps e+ and e- without any value, genuine and impostor;
        `change`, the mean change of the cosine where the top fifth of the pixels of e+ or e- is hidden (strict).
    """
    report: dict[str, dict[str, Any]] = {}
    kinds = {"genuine": genuine, "impostor": ~genuine}
    whole = _cosines(model, probes, references, batch_size)
    for name, method in methods.items():
        start = time.perf_counter()
        maps = method(probes, references, genuine)
        row: dict[str, Any] = dict(seconds=(time.perf_counter() - start) / len(probes), empty={}, change={})
        report[name] = row
        for rule in ("ties", "strict"):
            curves = verification_curves(
                model, probes, references, genuine, maps.similar, threshold, strict=rule == "strict", seed=seed,
                batch_size=batch_size,
            )  # fmt: skip
            row[rule] = dict(
                deletion=curves.deletion_area, insertion=curves.insertion_area,
                curves=dict(deletion=curves.deletion.tolist(), insertion=curves.insertion.tolist()),
            )  # fmt: skip
        for part, one in maps._asdict().items():
            flat = one.flatten(1).amax(1) == 0
            hidden = torch.where(kept_pixels(one, _TOP, strict=True, seed=seed)[:, None], probes, 0.0)
            change = _cosines(model, hidden, references, batch_size) - whole
            row["empty"][part] = {kind: int(flat[which].sum()) for kind, which in kinds.items()}
            row["change"][part] = {kind: change[which].mean().item() for kind, which in kinds.items()}
    return report


def _cosines(model: Callable[[Tensor], Tensor], images: Tensor, references: Tensor, batch_size: int) -> Tensor:
    with torch.no_grad():
        embeddings = torch.cat([model(part).float() for part in images.split(batch_size)])
    return F.cosine_similarity(embeddings, references.float(), dim=1)

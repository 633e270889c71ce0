"""How good the maps of pairs of faces are: deletion and insertion, and what hiding a part does to the similarity."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from timm_interpretable.attr.faces import FaceMethod
from timm_interpretable.metrics.verification import kept_pixels, verification_curves

__all__ = ["verification_report"]

_TOP = 20  # per cent of the pixels, of the change of similarity


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

"""How well the maps of many methods point at the object, how much the model loses without what they mark, and the time

Source: `FAME: Feature Activation Map Explanation on Image Classification and Face Recognition` (Xinyi Zhang, Manuel
Günther) - https://arxiv.org/abs/2605.12017, which uses these tests; the numbers are this package's own.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from timm_interpretable.metrics.alignment import pearson
from timm_interpretable.metrics.localisation import THRESHOLDS, box_iou, energy_in_box, pointing_game, unit_range
from timm_interpretable.metrics.methods import NamedMaps
from timm_interpretable.metrics.removal import TENTHS, logit_deletion

__all__ = ["BoxedBatch", "attribution_report", "map_scores"]


class BoxedBatch(NamedTuple):
    """Images `(B, C, H, W)`, their classes `(B,)`, and bool masks `(B, H, W)` of all boxes and of the first alone."""

    images: Tensor
    labels: Tensor
    boxes: Tensor
    first_box: Tensor


def map_scores(maps: Tensor, boxes: Tensor, first_box: Tensor) -> dict[str, Tensor]:
    """Every number about one map and the boxes, each `(B,)`, of its positive part stretched to [0, 1].

    FAME and pytorch-grad-cam stretch their maps; doing so to all makes equal maps of two sources equal in every number.
    `iou_.3` and so on with the union of the boxes, `iou_first_.3` with the first box alone, `energy`, `pointing`.

    Args:
        maps: `(B, H, W)`, signed.
        boxes: bool `(B, H, W)`, the union of the boxes.
        first_box: bool `(B, H, W)`.
    """
    stretched = unit_range(maps)
    scores: dict[str, Tensor] = {}
    for name, masks in (("iou", boxes), ("iou_first", first_box)):
        overlaps = box_iou(stretched, masks)
        scores |= {f"{name}_{t:g}".replace("0.", "."): overlaps[:, i] for i, t in enumerate(THRESHOLDS)}
    return scores | {"energy": energy_in_box(stretched, boxes), "pointing": pointing_game(stretched, boxes).float()}


def attribution_report(
    methods: Mapping[str, NamedMaps], model: Callable[[Tensor], Tensor], batches: Iterable[BoxedBatch], black: Tensor
) -> dict[str, dict[str, Any]]:
    """Means over the images of every number of `map_scores`, of deletion and of the time, map by map.

    Args:
        methods: such as `attribution_methods(model, black)`. Where one gives several maps, as FAME does after more and
            more steps, the time of each counts from the start, and `correlation` is Pearson's with the last of them.
        model: images to logits `(B, K)`, in evaluation mode.
        batches: all of the same images for every method.
        black: what a deleted pixel shows, `(C, 1, 1)`.

    Returns:
        per map `images`, `seconds` and `cpu_seconds` (per image, the maps alone; the second is that of all threads of
        the process, which other load on the machine does not change), the means of `map_scores`, `deletion` (mean loss
        of the logit over 0, 10 ... 100 % deleted), its `deletion_curve`, and `sem`, the standard errors of the means.
    """
    values: dict[str, dict[str, list[Tensor]]] = {}
    curves: dict[str, list[Tensor]] = {}
    seconds: dict[str, Tensor] = {}
    for batch in batches:
        for method in methods.values():
            found = dict(_timed(method, batch))
            for name, (maps, elapsed) in found.items():
                scores = map_scores(maps, batch.boxes, batch.first_box)
                curve = logit_deletion(model, batch.images, maps, batch.labels, TENTHS, black)
                scores["deletion"] = curve.mean(1)
                if len(found) > 1:
                    scores["correlation"] = pearson(maps, list(found.values())[-1][0])
                for key, value in scores.items():
                    values.setdefault(name, {}).setdefault(key, []).append(value.double().cpu())
                curves.setdefault(name, []).append(curve.double().cpu())
                seconds[name] = seconds.get(name, torch.zeros(2)) + elapsed
    return {name: _row(values[name], torch.cat(curves[name]), seconds[name]) for name in values}


def _row(values: Mapping[str, list[Tensor]], curve: Tensor, seconds: Tensor) -> dict[str, Any]:
    joined = {key: torch.cat(parts) for key, parts in values.items()}
    wall, cpu = (seconds / len(curve)).tolist()
    row: dict[str, Any] = {"images": len(curve), "seconds": wall, "cpu_seconds": cpu}
    row |= {key: value.mean().item() for key, value in joined.items()}
    row["deletion_curve"] = curve.mean(0).tolist()
    if len(curve) > 1:
        row["sem"] = {key: value.std().item() / len(value) ** 0.5 for key, value in joined.items()}
    return row


def _timed(method: NamedMaps, batch: BoxedBatch) -> Iterable[tuple[str, tuple[Tensor, Tensor]]]:
    """The maps with the seconds since the method began, by the clock and of the CPU."""
    start = _now(batch.images)
    for name, maps in method(batch.images, batch.labels):
        yield name, (maps, _now(batch.images) - start)


def _now(x: Tensor) -> Tensor:
    if x.device.type == "cuda":
        torch.cuda.synchronize(x.device)
    return torch.tensor([time.perf_counter(), time.process_time()], dtype=torch.double)

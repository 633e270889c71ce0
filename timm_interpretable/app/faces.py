"""Two faces: how similar they are, and which parts of each speak for it and against it."""

import time
from collections.abc import Generator
from concurrent.futures import wait
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from timm_interpretable.app import render
from timm_interpretable.app.engine import Engine, Progress, UnknownChoice
from timm_interpretable.app.images import Picture
from timm_interpretable.app.jobs import Tick
from timm_interpretable.app.models import Model
from timm_interpretable.app.render import Style
from timm_interpretable.attr import MethodSettings
from timm_interpretable.attr.faces import face_methods
from timm_interpretable.models import VERIFICATION_THRESHOLDS
from timm_interpretable.viz import Array

METHODS = {"fame": "FAME", "corr_rise": "CorrRISE"}
"""The titles of `attr.faces` by key; its others are there to be compared with."""

_BATCH = 20
PARTS = ("similar, first", "dissimilar, first", "similar, second", "dissimilar, second")


@dataclass(frozen=True, eq=False)
class Comparison:
    """seen: both pictures, 8-bit `(2, H, W, 3)`. maps: e+ and e- of the first, then of the second, `(4, H, W)`."""

    seen: Array
    maps: Array
    method: str
    cosine: float
    threshold: float
    seconds: float

    @property
    def nbytes(self) -> int:
        return self.seen.nbytes + self.maps.nbytes

    @property
    def same(self) -> bool:
        return self.cosine >= self.threshold

    def summary(self) -> dict[str, Any]:
        return {
            "cosine": self.cosine, "threshold": self.threshold, "same_person": self.same, "method": self.method,
            "seconds": self.seconds,
        }  # fmt: skip

    def drawn(self, style: Style) -> list[tuple[str, Image.Image]]:
        """Every map over its picture, with what it is."""
        pictures = (render.laid_over(self.seen[i // 2], self.maps[i], style) for i in range(4))
        return list(zip(PARTS, map(Image.fromarray, pictures), strict=True))


def run(engine: Engine, first: Picture, second: Picture, method: str) -> Generator[Comparison | Progress]:
    """How far it is, again and again, and at last the comparison.

    Raises:
        UnknownChoice: no such method.
    """
    if method not in METHODS:
        raise UnknownChoice(f"There is no method {method!r}; expected one of {', '.join(METHODS)}.")
    assert engine.models.faces is not None
    name = engine.models.faces.name
    key = (first.digest, second.digest, "faces", method)

    def compute(tick: Tick) -> Comparison:
        return compare(engine.models.get(name), (first.rgb, second.rgb), method, engine.settings.methods, tick)

    with engine.jobs.job(key, compute, "slow") as job:
        while not job.future.done():
            yield Progress(METHODS[method], job.fraction, not job.started)
            wait([job.future], 0.2)
        yield job.future.result()


def compare(
    model: Model, pictures: tuple[Image.Image, Image.Image], method: str, settings: MethodSettings, tick: Tick
) -> Comparison:
    """The cosine of two pictures and the maps of each against the other."""
    start = time.perf_counter()
    x = torch.cat([model.inputs(picture) for picture in pictures])
    with torch.no_grad():
        unit = F.normalize(model.net(x).float())
    cosine, threshold = float(unit[0] @ unit[1]), VERIFICATION_THRESHOLDS[model.entry.name]
    # FAME descends twice, for what is similar and what is not; CorrRISE asks once per batch of masks
    calls = 2 * settings.fame_steps if method == "fame" else 2 * settings.n_samples // _BATCH
    network = replace(model.context, tick=tick).counted(model.net, calls)
    some = face_methods(network, settings.fame_steps, settings.n_samples, batch_size=_BATCH, show_progress=False)
    # nobody tells whether the pair is genuine: FAME stops as for what the model takes it for
    taken = torch.full((2,), cosine >= threshold, device=x.device)
    similar, dissimilar = some[METHODS[method]](x, unit.flip(0), taken)
    maps = torch.stack([similar, dissimilar], dim=1).flatten(0, 1).float().cpu().numpy()
    seen = np.stack([model.seen(one[None]) for one in x])
    return Comparison(seen, maps, method, cosine, threshold, time.perf_counter() - start)

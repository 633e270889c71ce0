"""Two faces: how similar they are, and which parts of each speak for it and against it."""

import time
from collections.abc import Generator
from concurrent.futures import wait
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from timm_interpretable.app import render
from timm_interpretable.app.cache import Tick
from timm_interpretable.app.engine import Engine, UnknownChoice, Waiting
from timm_interpretable.app.gpu import on_gpu
from timm_interpretable.app.images import Picture
from timm_interpretable.app.methods import Counted
from timm_interpretable.app.models import Model
from timm_interpretable.app.render import Style
from timm_interpretable.metrics import face_methods
from timm_interpretable.models import VERIFICATION_THRESHOLDS
from timm_interpretable.viz import Array

STEPS, MASKS, BATCH = 50, 300, 20
METHODS = {"fame": "FAME", "corr_rise": "CorrRISE"}
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

    def told(self) -> dict[str, Any]:
        return {
            "cosine": self.cosine, "threshold": self.threshold, "same_person": self.same, "method": self.method,
            "seconds": self.seconds,
        }  # fmt: skip

    def drawn(self, style: Style) -> list[tuple[str, Image.Image]]:
        """Every map over its picture, with what it is."""
        pictures = (render.laid_over(self.seen[i // 2], self.maps[i], style) for i in range(4))
        return list(zip(PARTS, map(Image.fromarray, pictures), strict=True))


def run(engine: Engine, first: Picture, second: Picture, method: str) -> Generator[Comparison | Waiting]:
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
        return compare(engine.models.get(name), (first.rgb, second.rgb), method, tick)

    with engine.desk.asking(key, compute, "slow") as job:
        while not job.future.done():
            yield Waiting(method, job.fraction, not job.started)
            wait([job.future], 0.2)
        yield job.future.result()


@on_gpu
def compare(model: Model, pictures: tuple[Image.Image, Image.Image], method: str, tick: Tick) -> Comparison:
    """The cosine of two pictures and the maps of each against the other."""
    start = time.perf_counter()
    x = torch.cat([model.inputs(picture) for picture in pictures])
    with torch.no_grad():
        unit = F.normalize(model.net(x).float())
    cosine, threshold = float(unit[0] @ unit[1]), VERIFICATION_THRESHOLDS[model.entry.name]
    # FAME descends twice, for what is similar and what is not; CorrRISE asks once per batch of masks
    calls = 2 * STEPS if method == "fame" else 2 * MASKS // BATCH
    some = face_methods(Counted(model.net, tick, calls), STEPS, MASKS, batch_size=BATCH)
    # nobody tells whether the pair is genuine: FAME stops as for what the model takes it for
    taken = torch.full((2,), cosine >= threshold, device=x.device)
    similar, dissimilar = some[METHODS[method]](x, unit.flip(0), taken)
    maps = torch.stack([similar, dissimilar], dim=1).flatten(0, 1).float().cpu().numpy()
    seen = np.stack([model.seen(one[None]) for one in x])
    return Comparison(seen, maps, method, cosine, threshold, time.perf_counter() - start)

"""The models of the application: which there are, and each loaded once, when it is first asked for."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import timm
import torch
from PIL import Image
from torch import Tensor, nn

import timm_interpretable  # noqa: F401  registers the models
from timm_interpretable.data.images import eval_transform, to_picture
from timm_interpretable.models import class_probabilities
from timm_interpretable.models.weights import (
    CIFAR10_CLASSES,
    HUB_PUBLISHED,
    IMAGENETTE_CLASSES,
    released,
    weights_source,
)
from timm_interpretable.viz import Array


@dataclass(frozen=True)
class Entry:
    """A model that can be chosen: `arch.tag`, and its name for people."""

    name: str
    family: str
    data: str

    @property
    def title(self) -> str:
        return f"{self.family}, {self.data}"


CATALOGUE = (
    Entry("facnn_resnet18.imagenette", "FA-CNN", "Imagenette"),
    Entry("coda_net_m.imagenette", "CoDA-Net", "Imagenette"),
    Entry("baseline_resnet18.imagenette", "ResNet-18", "Imagenette"),
    Entry("facnn_resnet18.cifar10", "FA-CNN", "CIFAR-10"),
    Entry("coda_net_s.cifar10", "CoDA-Net", "CIFAR-10"),
    Entry("baseline_resnet18.cifar10", "ResNet-18", "CIFAR-10"),
)
_CLASSES = {"Imagenette": IMAGENETTE_CLASSES, "CIFAR-10": CIFAR10_CLASSES}
FACES = Entry("face_resnet10.orl", "Face network", "ORL")


def available(catalogue: tuple[Entry, ...] = CATALOGUE) -> tuple[Entry, ...]:
    """Those whose weights are here, or on a Hub that has them."""
    kinds = {"bundled", "cache"} | ({"hub"} if HUB_PUBLISHED else set())
    return tuple(e for e in catalogue if e.name in released() and weights_source(e.name).kind in kinds)


class Model:
    """A network in evaluation mode with frozen parameters, and what it needs to see a picture."""

    def __init__(self, entry: Entry, net: nn.Module, device: torch.device) -> None:
        self.entry, self.device = entry, device
        self.net: Any = net.eval().requires_grad_(False).to(device)
        self.transform: Callable[[Image.Image], Tensor] = eval_transform(net)
        config: Any = net.pretrained_cfg
        self.class_names: tuple[str, ...] = tuple(config.get("label_names") or _CLASSES.get(entry.data, ()))
        self.input_size: tuple[int, ...] = tuple(config["input_size"][-2:])
        mean, std = (torch.tensor(config[key], device=device)[:, None, None] for key in ("mean", "std"))
        # what black and white pixels are to the network, (C, 1, 1), and one of 255 steps between them
        self.black, self.white = -mean / std, (1 - mean) / std
        self.grey_step = float((1 / 255 / std).mean())

    @cached_property
    def intrinsic(self) -> str | None:
        """The method that is part of the forward pass."""
        if hasattr(self.net, "class_maps"):
            return "class_map"
        return "contributions" if hasattr(self.net, "dynamic_weights") else None

    def inputs(self, picture: Image.Image) -> Tensor:
        """`(1, C, H, W)` on the device."""
        return self.transform(picture)[None].to(self.device)

    def seen(self, x: Tensor) -> Array:
        """What the network sees, 8-bit `(H, W, 3)`."""
        return to_picture(x[0], self.net)

    def probabilities(self, logits: Tensor) -> Tensor:
        return class_probabilities(self.net, logits)

    def class_index(self, name: str | None) -> int | None:
        """The class of that name or number, None for None or a class that this model does not know."""
        if not name:
            return None
        lower = [known.lower() for known in self.class_names]
        if name.strip().lower() in lower:
            return lower.index(name.strip().lower())
        return int(name) if name.strip().isdigit() and int(name) < len(lower) else None


class Models:
    """Every model at most once in memory; safe to ask from several threads."""

    def __init__(self, device: torch.device, catalogue: tuple[Entry, ...] | None = None) -> None:
        self.device = device
        self.entries = available() if catalogue is None else catalogue
        self.faces = FACES if available((FACES,)) else None
        self._loaded: dict[str, Model] = {}
        self._lock = threading.Lock()

    def entry(self, name: str) -> Entry:
        """Raises: KeyError: no such model."""
        return {e.name: e for e in (*self.entries, *([self.faces] if self.faces else []))}[name]

    def get(self, name: str) -> Model:
        """The model of that name, loaded now if it is not there yet."""
        with self._lock:
            if name not in self._loaded:
                net = timm.create_model(name, pretrained=True)
                self._loaded[name] = Model(self.entry(name), net, self.device)
            return self._loaded[name]

    def class_names(self, name: str) -> tuple[str, ...]:
        """Of a model that need not be loaded."""
        return tuple(timm.get_pretrained_cfg(name).label_names or _CLASSES.get(self.entry(name).data, ()))

    def input_size(self, name: str) -> tuple[int, ...]:
        """Width and height, of a model that need not be loaded."""
        return tuple(timm.get_pretrained_cfg(name).input_size[:0:-1])

"""The models of the application: which there are, and each loaded once, when it is first asked for."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import timm
import torch
from PIL import Image
from torch import Tensor, nn

import timm_interpretable  # noqa: F401  registers the models
from timm_interpretable.attr import Context, Method, methods_for, own_method
from timm_interpretable.data.classes import class_index, class_names
from timm_interpretable.data.images import eval_transform, load_image, sample_images, to_picture
from timm_interpretable.models import class_probabilities, has_maps_through_depth
from timm_interpretable.models.weights import HUB_PUBLISHED, released, weights_source
from timm_interpretable.viz import Array


@dataclass(frozen=True)
class Entry:
    """A model that can be chosen.

    Args:
        name: for programs; one that `timm.create_model` knows, unless `load` is given.
        family, data: for people: what kind of network it is, and the data set whose classes it knows.
        load: gives the network; None for timm's, with its pretrained weights.
    """

    name: str
    family: str
    data: str
    load: Callable[[], nn.Module] | None = None

    @property
    def title(self) -> str:
        return f"{self.family}, {self.data}"


NAMED = (
    Entry("facnn_hybrid_efficientnet_lite0.in1k", "EfficientNet with class maps", "ImageNet"),
    Entry("facnn_resnet18.imagenette", "FA-CNN", "Imagenette"),
    Entry("bcos_resnet18_050.imagenette", "B-cos ResNet-18", "Imagenette"),
    Entry("coda_net_m.imagenette", "CoDA-Net", "Imagenette"),
    Entry("baseline_resnet18.imagenette", "ResNet-18", "Imagenette"),
    Entry("facnn_resnet18.cifar10", "FA-CNN", "CIFAR-10"),
    Entry("coda_net_s.cifar10", "CoDA-Net", "CIFAR-10"),
    Entry("baseline_resnet18.cifar10", "ResNet-18", "CIFAR-10"),
)
"""Released models in the order of the page, with names for people; others follow under their own names."""

FACES = Entry("face_resnet10.orl", "Face network", "ORL")


def released_entries() -> tuple[Entry, ...]:
    """The released classifiers whose weights are here, or on a Hub that has them."""
    known = {entry.name for entry in NAMED}
    more = [name for name in released() if name not in known and timm.get_pretrained_cfg(name).num_classes]
    every = (*NAMED, *(Entry(name, name.partition(".")[0], name.partition(".")[2]) for name in more))
    return tuple(entry for entry in every if _available(entry.name))


def _available(name: str) -> bool:
    kinds = {"bundled", "cache"} | ({"hub"} if HUB_PUBLISHED else set())
    return name in released() and weights_source(name).kind in kinds


class Model:
    """A network in evaluation mode with frozen parameters, and what it needs to see a picture."""

    def __init__(self, entry: Entry, net: nn.Module, device: torch.device) -> None:
        self.entry, self.device = entry, device
        self.net: Any = net.eval().requires_grad_(False).to(device)
        self.transform: Callable[[Image.Image], Tensor] = eval_transform(net)
        self.class_names = tuple(class_names(net))
        self.context = Context.of(self.net, reference=self._samples)
        self.yes_or_no = getattr(net, "output", "softmax") == "sigmoid"

    def inputs(self, picture: Image.Image) -> Tensor:
        """`(1, C, H, W)` on the device."""
        return self.transform(picture)[None].to(self.device)

    def seen(self, x: Tensor) -> Array:
        """What the network sees, 8-bit `(H, W, 3)`."""
        return to_picture(x[0], self.net)

    def probabilities(self, logits: Tensor) -> Tensor:
        return class_probabilities(self.net, logits)

    def class_index(self, name: str | None) -> int | None:
        """The class of that name, id or number; None for None or a class that this model does not know."""
        try:
            return class_index(name.strip(), self.net) if name and name.strip() else None
        except ValueError:
            return None

    def _samples(self) -> Tensor:
        """Other pictures, for methods that take patches from them, `(R, C, H, W)`."""
        return torch.cat([self.inputs(load_image(sample.path)) for sample in sample_images()])


class Models:
    """Every model at most once in memory; safe to ask from several threads.

    Args:
        entries: the classifiers of the page, in its order; None for all released ones.
        device: where they compute; None for a GPU where there is one.
    """

    def __init__(self, entries: Sequence[Entry] | None = None, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.entries = released_entries() if entries is None else tuple(entries)
        self.faces = FACES if _available(FACES.name) else None
        self._known = {e.name: e for e in (*self.entries, *([self.faces] if self.faces else []))}
        self._loaded: dict[str, Model] = {}
        self._skeletons: dict[str, nn.Module] = {}
        self._lock = threading.RLock()

    def entry(self, name: str) -> Entry:
        """Raises: KeyError: no such model."""
        return self._known[name]

    def get(self, name: str) -> Model:
        """The model of that name, loaded now if it is not there yet."""
        with self._lock:
            if name not in self._loaded:
                entry = self.entry(name)
                net = entry.load() if entry.load else timm.create_model(name, pretrained=True)
                self._loaded[name] = Model(entry, net, self.device)
            return self._loaded[name]

    def skeleton(self, name: str) -> nn.Module:
        """The network without its weights where these need not be loaded, to ask what it is."""
        with self._lock:
            if name in self._loaded or self.entry(name).load is not None:
                net: nn.Module = self.get(name).net
                return net
            if name not in self._skeletons:
                with torch.device("meta"):
                    self._skeletons[name] = timm.create_model(name)
            return self._skeletons[name]

    def methods(self, name: str) -> dict[str, Method]:
        """The catalogue's methods for that model by key, its own first."""
        return methods_for(self.skeleton(name))

    def self_explaining(self) -> list[Entry]:
        """Those whose own explanation is part of their forward pass."""
        own = {entry: own_method(self.skeleton(entry.name)) for entry in self.entries}
        return [entry for entry, method in own.items() if method is not None and method.evidence is not None]

    def with_depth(self) -> list[Entry]:
        """Those of them that have a map after every block or layer."""
        return [entry for entry in self.self_explaining() if has_maps_through_depth(self.skeleton(entry.name))]

    def class_names(self, name: str) -> tuple[str, ...]:
        return tuple(class_names(self.skeleton(name)))

    def all_class_names(self) -> list[str]:
        """Of all models, in the order of the alphabet."""
        return sorted({name for entry in self.entries for name in self.class_names(entry.name)}, key=str.casefold)

    def input_size(self, name: str) -> tuple[int, int]:
        """Width and height."""
        _, height, width = self.skeleton(name).pretrained_cfg["input_size"]  # type: ignore[index]
        return width, height


def of_data(entries: Sequence[Entry], data: str | None) -> list[Entry]:
    """Those that know the classes of a data set; all of them if there is none."""
    return [entry for entry in entries if entry.data == data] or list(entries)

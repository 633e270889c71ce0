"""What `explain` does with one model: pictures in, figures and maps out."""

import json
from base64 import b64encode
from enum import Enum
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timm_interpretable.cli.common import fail, say
from timm_interpretable.cli.report import Row
from timm_interpretable.cli.stems import Stems, shown_name

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor, nn

    from timm_interpretable.attr import Method
    from timm_interpretable.viz import Array

_SHOWN = 720  # pixels on the longer side of a picture in a figure
_THUMBNAIL = 240  # and in a report


class FitChoice(str, Enum):
    """Names of `timm_interpretable.data.fit.Fit`, which would bring torch with it into `--help`."""

    squash = "squash"
    crop = "crop"
    pad = "pad"
    native = "native"


class Explainer:
    """One model with its preprocessing; fails before any work where it does not fit what is asked.

    Args:
        name: of the model, for people.
        methods: keys of the catalogue with commas between. None takes the model's own explanation; for a network
            without one its exact class map where there is one, else Grad-CAM.
        target: a class by name, id or index, or 'top1'.
        raw: also write the signed maps.
        versus: another class, whose maps are subtracted.
        fit: how a picture is brought to the input size; None for the model's own way.
        regions: draw what about so many superpixels contribute instead of every pixel; 0 for pixels.
        thumbnails: give the rows their small overlays, which only a report shows.
    """

    def __init__(
        self, name: str, model: "nn.Module", methods: str | None = None, target: str = "top1", raw: bool = False,
        versus: str | None = None, fit: FitChoice | None = None, regions: int = 0,
        thumbnails: bool = False,
    ) -> None:  # fmt: skip
        from timm_interpretable.attr import Context
        from timm_interpretable.data.classes import class_names
        from timm_interpretable.data.fit import Fit, fitted_transform

        self.name, self.raw, self.depth_label, self.regions = name, raw, "layer", regions
        self.thumbnails = thumbnails
        self.model, origin = with_class_maps(model)
        self.methods = chosen_methods(name, self.model, methods)
        titles = ", ".join(method.title for method in self.methods)
        self.about = f"{titles} of {name}" + (f" ({origin})" if origin and methods is None else "")
        self.context = Context.of(self.model)
        self.class_names = class_names(self.model)
        self.target = None if target == "top1" else known_class(target, self.model)
        self.versus = None if versus is None else known_class(versus, self.model)
        unsigned = [method.key for method in self.methods if not method.signed]
        if self.versus is not None and unsigned:
            fail(f"--versus needs maps that can be subtracted; those of {', '.join(unsigned)} have no negative values")
        self.transform = fitted_transform(self.model, None if fit is None else Fit(fit.value))

    def run(self, paths: list[Path], stems: list[Path]) -> list[Row | None]:
        """Explain a batch: write `<stem>.png`, with raw also `<stem>.safetensors`; None for a picture that failed."""
        import torch

        from timm_interpretable.data.images import ImageError, load_image

        good: list[tuple[Path, Path, Image.Image]] = []
        for path, stem in zip(paths, stems, strict=True):
            try:
                good.append((path, stem, load_image(path)))
            except ImageError as error:
                say(f"error: {error}", error=True)
        device = next(self.model.parameters()).device
        inputs = [self.transform(picture) for *_, picture in good]
        # pictures in their own proportions differ in shape, and then do not fit into one batch
        alike = len({x.shape for x in inputs}) <= 1
        rows: dict[Path, Row | None] = {}
        for chosen in [range(len(good))] if alike else [[i] for i in range(len(good))]:
            if not len(chosen):
                continue
            x = torch.stack([inputs[i] for i in chosen]).to(device)
            batch = self.tensors(x)
            for row, i in enumerate(chosen):
                tensors = {key: value[row].cpu().contiguous() for key, value in batch.items()}
                rows[good[i][1]] = self._write(*good[i], x[row], tensors)
        return [rows.get(stem) for stem in stems]

    def tensors(self, x: "Tensor") -> "dict[str, Tensor]":
        """`logits`, `target` and the maps of a batch, where there are any also `depth.1` and so on, and `weights`.

        The map of one method is `attribution`, those of several are `attribution.<key>`. A model with an explanation
        of its own is run once for everything that is part of its forward pass.
        """
        import torch

        from timm_interpretable.attr import evidence_of, own_method

        own, evidence = own_method(self.model), None
        if own is not None and own.evidence is not None and any(method.is_read for method in self.methods):
            evidence = evidence_of(self.context, x)
            logits = evidence.logits
        else:
            with torch.no_grad():
                logits = self.context.model(x).float()
        top1 = logits.argmax(1)
        target = top1 if self.target is None else torch.full_like(top1, self.target)
        tensors = {"logits": logits, "target": target}
        if self.versus is not None:
            tensors["versus"] = torch.full_like(target, self.versus)
        for method in self.methods:
            key = "attribution" if len(self.methods) == 1 else f"attribution.{method.key}"
            if evidence is not None and method is own and self.versus is None:
                explanation = evidence.explanation(target)
                tensors[key] = explanation.attribution
                if len(self.methods) == 1:
                    tensors |= {f"depth.{i}": one for i, one in enumerate(explanation.depth, start=1)}
                    tensors |= {} if explanation.weights is None else {"weights": explanation.weights}
                    self.depth_label = explanation.depth_label
            else:
                tensors[key] = self._maps(method, evidence, x, target)
        return tensors

    def _maps(self, method: "Method", evidence: Any, x: "Tensor", target: "Tensor") -> "Tensor":
        """`(B, 1, H, W)`, where another class is named less its map."""
        import torch

        classes = target[:, None]
        if self.versus is not None:
            classes = torch.cat([classes, torch.full_like(classes, self.versus)], 1)
        if method.is_read and evidence is not None:
            maps = method.read(self.context, evidence, classes)
        else:
            maps = method.maps(self.context)(x, classes)
        return maps if self.versus is None else maps[:, :1] - maps[:, 1:]

    def _write(
        self, path: Path, stem: Path, picture: "Image.Image", x: "Tensor", tensors: dict[str, "Tensor"]
    ) -> Row | None:
        """The picture's line of a report; None where its results could not be written."""
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        from timm_interpretable.models import class_probabilities

        tensors |= self._by_region(x, tensors) if self.regions else {}
        target, name = int(tensors["target"]), shown_name(path)
        probs = class_probabilities(self.model, tensors["logits"])
        # not with_suffix: a stem may have dots of its own
        png, file = (stem.with_name(stem.name + suffix) for suffix in (".png", ".safetensors"))
        try:
            png.parent.mkdir(parents=True, exist_ok=True)
            if self.raw:  # the longer name first: a picture alone would look like a success
                save_file(tensors, file, metadata=self._metadata(name))
            self._figure(picture, x, tensors, probs, name).savefig(png, metadata={"Source": Stems.mark(path)})
        except (OSError, SafetensorError) as error:
            say(f"error: cannot write {shown_name(png)} for {name}: {error}", error=True)
            return None
        best = int(probs.argmax())
        asked = "" if best == target else f" (shown: {self.class_names[target]} {100 * probs[target]:.1f} %)"
        say(f"{name}: {self.class_names[best]} {100 * probs[best]:.1f} %{asked} -> {shown_name(png, whole=True)}")
        return self._row(path, png, picture, tensors, probs)

    def _row(self, path: Path, png: Path, picture: "Image.Image", tensors: dict[str, "Tensor"], probs: "Tensor") -> Row:
        first = next(value.sum(0) for key, value in tensors.items() if key.startswith("attribution")).float()
        best, whole = int(probs.argmax()), float(first.abs().sum())
        own = self._class_of(path.resolve().parent.name)
        return Row(
            picture=shown_name(path),
            figure=str(png),
            folder_class="" if own is None else self.class_names[own],
            predicted=self.class_names[best],
            confidence=float(probs[best]),
            explained=self.class_names[int(tensors["target"])],
            positive_share=float(first.clamp(min=0).sum()) / whole if self.methods[0].signed and whole else None,
            thumbnail=self._thumbnail(picture, first.numpy()) if self.thumbnails else "",
        )

    @lru_cache(maxsize=100_000)  # noqa: B019  # one explainer a run
    def _class_of(self, folder: str) -> int | None:
        """The class that a folder names, None where it names none."""
        from timm_interpretable.data.classes import match_classes

        try:
            return match_classes([folder], self.model).indices[0]
        except ValueError:
            return None

    def _thumbnail(self, picture: "Image.Image", values: "Array") -> str:
        """A small overlay as a data URL."""
        import numpy as np
        from PIL import Image

        from timm_interpretable.viz import overlay, without_outliers

        small = picture.copy()
        small.thumbnail((_THUMBNAIL, _THUMBNAIL))
        placed = self._placed(without_outliers(values), picture, small)
        stream = BytesIO()
        Image.fromarray(overlay(np.asarray(small), placed)).save(stream, "JPEG", quality=80)
        return f"data:image/jpeg;base64,{b64encode(stream.getvalue()).decode()}"

    def _figure(
        self, picture: "Image.Image", x: "Tensor", tensors: dict[str, "Tensor"], probs: "Tensor", name: str
    ) -> Any:
        import numpy as np

        from timm_interpretable.data.fit import Fit
        from timm_interpretable.models import is_yes_or_no
        from timm_interpretable.viz import MapPanel, explanation_figure, weight_picture, without_outliers

        shown = picture.copy()
        shown.thumbnail((_SHOWN, _SHOWN))
        maps = {key: value.sum(0) for key, value in tensors.items() if key.startswith("attribution")}
        panels = []
        for method, tensor in zip(self.methods, maps.values(), strict=True):
            words = self._sum_words(method)
            if self.regions:
                values = tensors[_sums_of(method)][tensors["regions"]].numpy()
                panels.append(MapPanel(self._placed(values, picture, shown), method.title, words, per="region"))
                continue
            values = tensor.float().numpy()
            cut = without_outliers(values)
            placed = self._placed(cut, picture, shown)
            panels.append(MapPanel(placed, method.title, words, clipped=cut is not values))
        weights = None
        if "weights" in tensors:
            colours = weight_picture(tensors["weights"], tensors["attribution"].sum(0)).astype(np.float32)
            channels = [self._placed(colours[..., c], picture, shown) for c in range(4)]
            weights = np.stack(channels, -1).clip(0, 255).round().astype(np.uint8)
        whole = self.transform.fit in (Fit.SQUASH, Fit.NATIVE)
        return explanation_figure(
            np.asarray(shown), panels, [value for key, value in tensors.items() if key.startswith("depth.")],
            self.class_names, probs, int(tensors["target"]), versus=self.versus, title=name,
            depth_label=self.depth_label, weights=weights, model=self.name,
            yes_or_no=is_yes_or_no(self.model), note=self._seen(picture, x),
            proportions=picture.width / picture.height if whole else x.shape[-1] / x.shape[-2],
        )  # fmt: skip

    def _by_region(self, x: "Tensor", tensors: dict[str, "Tensor"]) -> dict[str, "Tensor"]:
        """`regions`, the number of the superpixel of every pixel that the model saw, and the sums of each method."""
        import torch
        from skimage.segmentation import slic

        from timm_interpretable.attr import by_region
        from timm_interpretable.data.images import to_picture

        found = slic(to_picture(x, self.model), n_segments=self.regions, start_label=0)
        regions = torch.from_numpy(found.astype("int64"))
        maps = [value for key, value in tensors.items() if key.startswith("attribution")]
        sums = {
            _sums_of(method): by_region(one[None].float(), regions)[0]
            for method, one in zip(self.methods, maps, strict=True)
        }
        return {"regions": regions, **sums}

    def _placed(self, values: "Array", picture: "Image.Image", shown: "Image.Image") -> "Array":
        from timm_interpretable.data.fit import place_map

        return place_map(values, self.transform.region(picture.width, picture.height), shown.size)

    def _seen(self, picture: "Image.Image", x: "Tensor") -> str:
        """What the model saw of the picture."""
        size = f"{x.shape[-1]} x {x.shape[-2]}"
        if (picture.width, picture.height) == (x.shape[-1], x.shape[-2]):
            return f"the model saw it as it is, {size}"
        same = picture.width * x.shape[-2] == picture.height * x.shape[-1]
        done = {"squash": "scaled" if same else "squashed", "crop": "cropped", "pad": "padded", "native": "scaled"}
        return f"{picture.width} x {picture.height}; the model saw it {done[self.transform.fit.value]} to {size}"

    def _sum_words(self, method: "Method") -> str:
        """What the map adds up to, empty where it adds up to nothing."""
        if method.sums_to is None:
            return ""
        return method.sums_to.words if self.versus is None else "the difference of both logits"

    def _metadata(self, name: str) -> dict[str, str]:
        keys = ",".join(method.key for method in self.methods)
        return dict(model=self.name, method=keys, image=name, class_names=json.dumps(self.class_names))


def _sums_of(method: "Method") -> str:
    return f"region_sums.{method.key}"


def with_class_maps(model: "nn.Module") -> tuple[Any, str]:
    """The model, or its hybrid with exact class maps where it has no explanation of its own, and why."""
    from timm_interpretable.attr import own_method
    from timm_interpretable.models import class_map_model

    if own_method(model) is not None:
        return model, "the model's own explanation"
    try:
        return class_map_model(model), "exact for this network, which ends in global average pooling and a linear layer"
    except ValueError as error:
        return model, str(error).rstrip(".")


def chosen_methods(name: str, model: "nn.Module", keys: str | None) -> "list[Method]":
    """The methods of these keys, or the model's own, or Grad-CAM; `fail` where the model does not have one."""
    from timm_interpretable.attr import method_named, methods_for, own_method

    there = methods_for(model)
    if keys is None:
        return [own_method(model) or method_named("grad_cam")]
    wanted = list(dict.fromkeys(key.strip() for key in keys.split(",")))
    for key in wanted:
        if key not in there:
            fail(f"model {name!r} has no method {key!r}; expected one of: {', '.join(there)}")
    return [there[key] for key in wanted]


def known_class(text: str, model: "nn.Module") -> int:
    """The index of a class; `fail` where the model does not know it."""
    from timm_interpretable.data.classes import class_index

    try:
        return class_index(text, model)
    except ValueError as error:
        fail(str(error))

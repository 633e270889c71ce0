"""What the commands share: one way to fail, devices, models with what their weights' neighbours say, images, boxes."""

import json
import sys
from collections.abc import Callable
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

import typer

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.utils.data import DataLoader

BOX_FRAME = 224  # boxed_boxes.csv is in pixels of the image at this size


class MeanStd(str, Enum):
    imagenet = "imagenet"
    none = "none"


def fail(message: str) -> NoReturn:
    """Say on one line of stderr what is wrong, and leave with exit code 2."""
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    raise typer.Exit(2)


def say(line: str, error: bool = False) -> None:
    """A line on stdout or stderr, around a progress bar and not through it."""
    from tqdm import tqdm

    tqdm.write(line, file=sys.stderr if error else sys.stdout)


def make_folder(out: Path) -> None:
    """Before any work: the folder for the results, or `fail`."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(f"cannot make the folder {out}: {error.strerror}")


def pick_device(name: str | None) -> "torch.device":
    """The device of that name; without one the first there is of CUDA, MPS and the CPU."""
    import torch

    if name is None or name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        fail(f"unknown device {name!r}, expected auto, cpu, cuda, cuda:0 or mps")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        fail(f"device {name!r} is not there: PyTorch sees {torch.cuda.device_count()} CUDA devices")
    if device.type == "mps" and not torch.backends.mps.is_available():
        fail("device 'mps' is not there")
    if device.type not in ("cpu", "cuda", "mps"):
        fail(f"device {name!r} is not supported, expected auto, cpu, cuda, cuda:0 or mps")
    return device


# --- models


def our_models() -> dict[str, list[str]]:
    """This package's architectures, each with the full names `arch.tag` of its configurations, the default first."""
    import timm
    from timm.models import get_arch_pretrained_cfgs, model_entrypoint

    import timm_interpretable.models  # noqa: F401  # registers them

    package = f"{__name__.split('.')[0]}."
    ours = (arch for arch in timm.list_models() if model_entrypoint(arch).__module__.startswith(package))
    return {arch: list(get_arch_pretrained_cfgs(arch)) for arch in ours}


def weight_sources(name: str) -> list[str]:
    """Where the weights of `arch.tag` are: 'bundled', 'Hub', both, their authors' place, or nowhere; asks no server."""
    from timm.models import get_pretrained_cfg

    from timm_interpretable.models.download import is_linked
    from timm_interpretable.models.weights import HUB_PUBLISHED, local_weights

    cfg = get_pretrained_cfg(name, allow_unregistered=False)
    hub = "Hub" if HUB_PUBLISHED else "Hub (not published yet)"
    if cfg and cfg.url and is_linked(cfg.url):
        return [f"the authors' ({urlsplit(cfg.url).netloc})"]
    return ["bundled"] * (local_weights(name) is not None) + [hub] * bool(cfg and cfg.hf_hub_id)


def load_model(name: str, device: "torch.device") -> Any:
    """A pretrained model of this package in evaluation mode on the device; `fail` where that cannot be."""
    import timm

    known = our_models()
    # an architecture without weights has itself as its only configuration
    names = list(dict.fromkeys([*known, *(full for tags in known.values() for full in tags)]))
    if name not in names:
        close = get_close_matches(name, names, cutoff=0.4)
        hint = f"did you mean {' or '.join(close)}?" if close else "see `timm-interpretable list`"
        fail(f"unknown model {name!r}; {hint}")
    full = name
    try:
        # of an architecture the first configuration that has weights: the default may have none
        full = next((one for one in known.get(name, [name]) if weight_sources(one)), "")
        model = timm.create_model(full, pretrained=True) if full else None
    # broken files are RuntimeErrors; the Hub's own errors, when it cannot be reached, are OSErrors
    except (OSError, RuntimeError, ValueError) as error:
        fail(f"cannot load the weights of {full or name}: {error}")
    if model is None:
        # not inside the try: typer.Exit is a RuntimeError
        fail(f"model {name!r} has no pretrained weights; see `timm-interpretable list`")
    return model.eval().to(device)


def load_any(name: str, weights: Path | None, device: "torch.device") -> Any:
    """A model in evaluation mode; `fail` where it cannot be loaded.

    Args:
        name: a model of this package or of timm, also as `hf-hub:` or `local-dir:`, or a folder that `train` or timm
            wrote.
        weights: a .safetensors file for the architecture `name`. `pretrained_cfg` of the model then says what the
            file's neighbour `config.json` or `result.json` says: input size, normalisation, names of the classes. Names
            that nothing says are not taken from timm, whose configuration is that of other weights.
    """
    if weights is not None:
        return _load_file(name, weights, device)
    folder = Path(name)
    if folder.is_dir() and (folder / "result.json").is_file() and not (folder / "config.json").is_file():
        recipe = json.loads((folder / "result.json").read_text(encoding="utf-8")).get("recipe") or {}
        return _load_file(str(recipe.get("model")), folder / "model.safetensors", device)
    if folder.is_dir():
        return _load_pretrained(f"local-dir:{folder}", device)
    return load_model(name, device) if _is_ours(name) else _load_pretrained(name, device)


def _is_ours(name: str) -> bool:
    """Whether that is no model of timm's own, so that a name nobody knows is looked for here."""
    import timm

    return name.split(".")[0] in our_models() or not (":" in name or timm.is_model(name))


def _load_pretrained(name: str, device: "torch.device") -> Any:
    """A model of timm with its pretrained weights."""
    import timm
    from safetensors import SafetensorError

    try:
        return timm.create_model(name, pretrained=True).eval().to(device)
    # the Hub's own errors, when it cannot be reached, are OSErrors; timm's for weights that do not exist a RuntimeError
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        fail(f"cannot load the pretrained weights of {name}: {error}")


def _load_file(name: str, weights: Path, device: "torch.device") -> Any:
    import timm
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    import timm_interpretable.models  # noqa: F401  # registers them

    settings = settings_beside(weights)
    try:
        state = load_file(weights)
        num_classes = _num_classes(name, state, settings)
        net = timm.create_model(name, **{**settings.get("model_args", {}), "num_classes": num_classes})
        net.load_state_dict(state)
    # an unknown model, shapes or model_args of another one, a broken file
    except (OSError, RuntimeError, TypeError, SafetensorError) as error:
        fail(f"{weights} does not load into {name}: {error}")
    told = {key: settings[key] for key in ("input_size", "mean", "std") if key in settings}
    labels = dict(label_names=settings.get("label_names"), label_descriptions=settings.get("label_descriptions"))
    net.pretrained_cfg = {**net.pretrained_cfg, **told, **labels, "num_classes": num_classes}
    return net.to(device).eval()


def settings_beside(weights: Path) -> dict[str, Any]:
    """num_classes, model_args, input_size, mean, std, label_names, as far as a file beside the weights tells; flat."""
    config, result = weights.with_name("config.json"), weights.with_name("result.json")
    if config.is_file():  # timm's layout
        found = json.loads(config.read_text(encoding="utf-8"))
        return {**found.get("pretrained_cfg", {}), **{k: v for k, v in found.items() if k != "pretrained_cfg"}}
    if result.is_file():  # a training run of this package
        run = json.loads(result.read_text(encoding="utf-8"))
        recipe = run.get("recipe") or {}  # converted weights have none
        size = recipe.get("eval_size")  # recipes of faces have none
        sizes = dict(input_size=[3, size, size]) if size else {}
        return {**recipe, **sizes, "label_names": run.get("classes")}
    return {}


def _num_classes(name: str, state: dict[str, "Tensor"], settings: dict[str, Any]) -> int:
    import timm

    if "num_classes" in settings:
        return int(settings["num_classes"])
    cfg = timm.get_pretrained_cfg(name)
    classifier = f"{cfg.classifier}.weight" if cfg is not None else ""
    if classifier in state:
        return int(state[classifier].shape[0])
    return cfg.num_classes if cfg is not None else 1000


def described_model(name: str, weights: Path | None, net: Any) -> dict[str, Any]:
    """For a results file: which model with which weights, and what a training run beside them says."""
    from timm_interpretable.models.weights import local_weights, sha256

    released, cfg = None, net.pretrained_cfg
    if weights is None and "architecture" in cfg:  # a family that is not registered with timm has none
        name = f"{cfg['architecture']}.{cfg['tag']}"
        released = local_weights(name)
    file = weights or released
    described: dict[str, Any] = dict(name=name, sha256=sha256(file) if file else None)
    result = weights.with_name("result.json") if weights else None
    if result is not None and result.is_file():
        run = json.loads(result.read_text(encoding="utf-8"))
        described |= dict(epochs=run.get("recipe", {}).get("epochs"), eval_accuracy=run.get("eval_accuracy"))
    return described


# --- images


def whole_image(net: Any, input_size: int | None = None, mean_std: MeanStd | None = None) -> Callable[[Any], "Tensor"]:
    """The whole picture, squashed to the model's input size, also where timm would crop: boxes are in its frame."""
    from timm_interpretable.data.images import squash_transform

    height, width = (input_size, input_size) if input_size else net.pretrained_cfg["input_size"][-2:]
    return squash_transform((height, width), *normalisation(net, mean_std))


def normalisation(net: Any, mean_std: MeanStd | None = None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the channels that a model is given."""
    from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    if mean_std is MeanStd.imagenet:
        return IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    if mean_std is MeanStd.none:
        return (0.0,) * 3, (1.0,) * 3
    return tuple(net.pretrained_cfg["mean"]), tuple(net.pretrained_cfg["std"])


def open_images(data_dir: Path, split: str, transform: Callable[[Any], "Tensor"], net: Any) -> Any:
    """A split as a map-style data set of `(image, class of the model)`.

    The folders are matched to the model's classes by name, see `match_classes`; what there is to say about it goes to
    stderr.

    Raises:
        FileNotFoundError: the split is not there.
        ValueError: a folder fits no class of the model.
    """
    from timm_interpretable.data.classes import match_classes
    from timm_interpretable.data.datasets import open_split

    images, folders = open_split(data_dir, split, transform)
    matched = match_classes(folders, net)
    if matched.note:
        typer.echo(f"note: {split} in {data_dir}: {matched.note}", err=True)
    for shard in _shards(images):
        shard.target_transform = matched.indices.__getitem__
    return images


def _shards(images: Any) -> list[Any]:
    return list(getattr(images, "datasets", [images]))


def image_loader(images: Any, batch_size: int, workers: int) -> "DataLoader[Any]":
    from torch.utils.data import DataLoader

    return DataLoader(images, batch_size=batch_size, num_workers=workers)


def evenly_spaced(count: int, total: int) -> list[int]:
    """Indices of so many images out of all, so that every class of a sorted data set is among them."""
    if not 1 <= count <= total:
        raise ValueError(f"{count} images were asked for, expected 1 to {total}.")
    return [i * total // count for i in range(count)]


def box_masks(images: Any, file: Path, height: int = BOX_FRAME, width: int = BOX_FRAME) -> "Tensor":
    """The union of the boxes of every image in the order of the data set, bool `(N, height, width)`.

    Raises:
        ValueError: an image has no box.
    """
    import torch

    from timm_interpretable.data.boxes import box_mask, load_boxes

    boxes = load_boxes(file)
    names = [name for shard in _shards(images) for name in shard.filenames()]
    without = [name for name in names if name not in boxes]
    if without:
        raise ValueError(f"{file} has no box for {len(without)} of {len(names)} images, e.g. {without[0]}.")
    scale = (height / BOX_FRAME, width / BOX_FRAME)
    return torch.stack([box_mask(boxes[name], height, width, scale) for name in names])

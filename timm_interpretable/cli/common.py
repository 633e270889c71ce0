"""What the commands share: one way to fail, one to pick a device, one to load a model."""

from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer

if TYPE_CHECKING:
    import torch
    from torch import nn


def fail(message: str) -> NoReturn:
    """Say on one line of stderr what is wrong, and leave with exit code 2."""
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    raise typer.Exit(2)


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


def our_models() -> dict[str, list[str]]:
    """This package's architectures, each with the full names `arch.tag` of its configurations, the default first."""
    import timm
    from timm.models import get_arch_pretrained_cfgs, model_entrypoint

    import timm_interpretable.models  # noqa: F401  # registers them

    package = f"{__name__.split('.')[0]}."
    ours = (arch for arch in timm.list_models() if model_entrypoint(arch).__module__.startswith(package))
    return {arch: list(get_arch_pretrained_cfgs(arch)) for arch in ours}


def weight_sources(name: str) -> list[str]:
    """Where the weights of `arch.tag` are: 'bundled', 'Hub', both or neither; asks no server."""
    from timm.models import get_pretrained_cfg

    from timm_interpretable.models.weights import HUB_PUBLISHED, local_weights

    cfg = get_pretrained_cfg(name, allow_unregistered=False)
    hub = "Hub" if HUB_PUBLISHED else "Hub (not published yet)"
    return ["bundled"] * (local_weights(name) is not None) + [hub] * bool(cfg and cfg.hf_hub_id)


def load_model(name: str, device: "torch.device") -> "nn.Module":
    """A pretrained model of this package in evaluation mode on the device; `fail` where that cannot be."""
    import timm

    known = our_models()
    names = [*known, *(full for tags in known.values() for full in tags)]
    if name not in names:
        close = get_close_matches(name, names, cutoff=0.4)
        hint = f"did you mean {' or '.join(close)}?" if close else "see `timm-interpretable list`"
        fail(f"unknown model {name!r}; {hint}")
    full = name
    try:
        # of an architecture the first configuration that has weights: the default may have none
        full = next((one for one in known.get(name, [name]) if weight_sources(one)), "")
        model: nn.Module | None = timm.create_model(full, pretrained=True) if full else None
    # broken files are RuntimeErrors; the Hub's own errors, when it cannot be reached, are OSErrors
    except (OSError, RuntimeError, ValueError) as error:
        fail(f"cannot load the weights of {full or name}: {error}")
    if model is None:
        # not inside the try: typer.Exit is a RuntimeError
        fail(f"model {name!r} has no pretrained weights; see `timm-interpretable list`")
    return model.eval().to(device)


def load_embedder(name: str, device: "torch.device", weights: Path | None = None) -> "tuple[nn.Module, Path | None]":
    """A face model of this package in evaluation mode, and the file of its weights where that is at hand.

    weights: a .safetensors file instead of the released weights; `fail` where it does not fit.
    """
    import timm
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from timm_interpretable.models.weights import local_weights

    cfg = timm.get_pretrained_cfg(name) if name.split(".")[0] in our_models() else None
    if cfg is not None and cfg.num_classes != 0:
        fail(f"model {name!r} is a classifier, expected one of faces, such as face_resnet10")
    if weights is None or cfg is None:  # an unknown name has its own message
        return load_model(name, device), local_weights(f"{name.split('.')[0]}.{cfg.tag}") if cfg else None
    net = timm.create_model(name)
    try:
        net.load_state_dict(load_file(weights))
    except (OSError, RuntimeError, SafetensorError) as error:
        fail(f"{weights} does not load into {name}: {error}")
    return net.eval().to(device), weights

"""Where pretrained files come from: the package's own `hub_cards` folder when it is there, else the Hub.

`TIMM_INTERPRETABLE_WEIGHTS` chooses: `auto` (this order, the default), `bundled` or `hub` (only there).
"""

import json
import os
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

from huggingface_hub import constants
from timm.data import ImageNetInfo
from timm.models import PretrainedCfg, get_pretrained_cfg, resolve_pretrained_cfg

from timm_interpretable.models.download import (
    WEIGHTS_FILE,
    WeightsError as WeightsError,
    cached_weights,
    check_hub_weights,
    check_safetensors,
    download_weights,
    is_linked,
    linked_weights,
    pinned_revision,
    sha256 as sha256,
)

HUB_ORG = "timm-interpretable"
# whether the repositories exist: set by hand when they are first published, see CONTRIBUTING.md
HUB_PUBLISHED = False
CHOICE = "TIMM_INTERPRETABLE_WEIGHTS"

IMAGENETTE_CLASSES = (
    "tench", "English springer", "cassette player", "chain saw", "church",
    "French horn", "garbage truck", "gas pump", "golf ball", "parachute",
)  # fmt: skip
_IMAGENET = ImageNetInfo("imagenet-1k")
IMAGENET_LABELS: dict[str, Any] = dict(
    label_names=tuple(_IMAGENET.label_names()),
    label_descriptions={name: _IMAGENET.label_name_to_description(name) for name in _IMAGENET.label_names()},
)
"""WordNet ids and descriptions of ImageNet's thousand classes, as timm's configurations hold them."""
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_PACKAGE = Path(__file__).resolve().parent.parent
RELEASED_FILE = _PACKAGE / "models" / "released.json"
# an installed wheel carries the cards inside the package, a clone beside it
CARD_FOLDERS = (_PACKAGE / "hub_cards", _PACKAGE.parent / "hub_cards")


class WeightsSource(NamedTuple):
    """Where `pretrained=True` finds the weights of a model."""

    kind: Literal["bundled", "cache", "hub", "missing"]
    location: str  # a file, or an address on the Hub


def released() -> dict[str, str]:
    """sha256 of `model.safetensors` of every released model, by `arch.tag`."""
    hashes: dict[str, str] = json.loads(RELEASED_FILE.read_text(encoding="utf-8"))
    return hashes


def card_folder(name: str) -> Path | None:
    """Folder of the released model `arch.tag`, laid out like its Hub repository; None where it is not at hand."""
    return next((f / name for f in CARD_FOLDERS if (f / name / WEIGHTS_FILE).is_file()), None)


def local_weights(name: str) -> Path | None:
    """The released weight file of `arch.tag`, or None where only the Hub has it.

    Raises:
        WeightsError: the file is there but is not the released one (a broken download, a Git LFS pointer).
    """
    folder = card_folder(name)
    expected = released().get(name)
    if folder is None or expected is None:
        return None
    file = folder / WEIGHTS_FILE
    digest = sha256(file)
    if digest != expected:
        raise WeightsError(f"{file} is not the released weight file of {name}: sha256 {digest}, expected {expected}.")
    return file


@overload
def weights_source(name: None = None, cache_dir: str | Path | None = None) -> dict[str, WeightsSource]: ...
@overload
def weights_source(name: str, cache_dir: str | Path | None = None) -> WeightsSource: ...
def weights_source(
    name: str | None = None, cache_dir: str | Path | None = None
) -> WeightsSource | dict[str, WeightsSource]:
    """Where `pretrained=True` finds the weights of a released model now; asks no server.

    Args:
        name: `arch` or `arch.tag`; None for all released models, by name.
        cache_dir: as for `timm.create_model`.

    Returns:
        kind 'bundled' (with the package), 'cache' (downloaded before), 'hub' (to be downloaded), or 'missing' where
        `TIMM_INTERPRETABLE_WEIGHTS` is `bundled` and the file is not here.

    Raises:
        ValueError: not a released model.
        WeightsError: the bundled file is damaged; an unknown `TIMM_INTERPRETABLE_WEIGHTS`.
    """
    if name is None:
        return {each: weights_source(each, cache_dir) for each in released()}
    full = name if "." in name else f"{name}.{getattr(get_pretrained_cfg(name), 'tag', None)}"
    if full not in released():
        raise ValueError(f"{name!r} has no released weights; expected one of {', '.join(sorted(released()))}.")
    choice = _choice()
    if choice != "hub" and (file := local_weights(full)) is not None:
        return WeightsSource("bundled", str(file))
    if choice == "bundled":
        return WeightsSource("missing", "")
    revision = pinned_revision(released()[full])
    if (cached := cached_weights(f"{HUB_ORG}/{full}", revision, cache_dir)) is not None:
        return WeightsSource("cache", str(cached))
    return WeightsSource("hub", f"{constants.ENDPOINT}/{HUB_ORG}/{full}/resolve/{revision}/{WEIGHTS_FILE}")


def local_overlay(variant: str, pretrained: bool, kwargs: dict[str, Any]) -> dict[str, Any]:
    """timm's `pretrained_cfg_overlay` for an entrypoint, with the released weight file where weights are asked for.

    A source that the caller names (a file, URL, state dict, folder or other repository) stays; folders and repositories
    must hold safetensors.

    Args:
        kwargs: of the entrypoint; an overlay in it is taken out and becomes part of the result.

    Raises:
        WeightsError: the weights are not there, cannot be downloaded, or are not the released ones.
    """
    overlay = dict(kwargs.pop("pretrained_cfg_overlay", None) or {})
    if pretrained:
        cfg = resolve_pretrained_cfg(variant, kwargs.get("pretrained_cfg"), overlay)
        file = _pretrained_file(variant, cfg, kwargs.get("cache_dir"))
        overlay |= dict(file=str(file)) if file is not None else {}
    return overlay


def _pretrained_file(variant: str, cfg: PretrainedCfg, cache_dir: str | Path | None) -> Path | None:
    """The released file, where the configuration is that of a released model; otherwise only check its source."""
    name = f"{variant}.{cfg.tag}"
    own_hub_id = cfg.hf_hub_id in (None, f"{HUB_ORG}/{name}")
    if cfg.source == "local-dir":
        check_safetensors(Path(str(cfg.file)) / WEIGHTS_FILE)
    elif cfg.url and is_linked(cfg.url) and not cfg.file and not cfg.state_dict:
        return linked_weights(cfg.url, cache_dir)
    elif cfg.file or cfg.url or cfg.state_dict or cfg.hf_hub_filename:
        pass
    elif own_hub_id and cfg.source is None and name in released():
        return _released_file(name, cache_dir)
    elif cfg.hf_hub_id:
        repo_id, _, revision = cfg.hf_hub_id.partition("@")
        check_hub_weights(repo_id, revision or None, cache_dir)
    return None


def _released_file(name: str, cache_dir: str | Path | None) -> Path:
    choice = _choice()
    if choice != "hub" and (file := local_weights(name)) is not None:
        return file
    if choice == "bundled":
        raise WeightsError(
            f"{CHOICE} is 'bundled', but this installation has no weights of {name} "
            f"(looked in {' and '.join(map(str, CARD_FOLDERS))})."
        )
    try:
        return download_weights(f"{HUB_ORG}/{name}", released()[name], cache_dir)
    except WeightsError as error:
        if HUB_PUBLISHED:
            raise
        hint = (
            f"The repositories of {HUB_ORG} are not published yet; the weights come with the package ({CHOICE}=auto)."
        )
        raise WeightsError(f"{error} {hint}") from error.__cause__


def _choice() -> str:
    choice = os.environ.get(CHOICE) or "auto"
    if choice not in ("auto", "bundled", "hub"):
        raise WeightsError(f"{CHOICE} is {choice!r}, expected auto, bundled or hub.")
    return choice

"""Where pretrained files come from: the package's own `hub_cards` folder when it is there, else the Hub."""

import hashlib
import json
from pathlib import Path
from typing import Any

from timm.models import resolve_pretrained_cfg

HUB_ORG = "timm-interpretable"

IMAGENETTE_CLASSES = (
    "tench", "English springer", "cassette player", "chain saw", "church",
    "French horn", "garbage truck", "gas pump", "golf ball", "parachute",
)  # fmt: skip
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_PACKAGE = Path(__file__).resolve().parent.parent
RELEASED_FILE = _PACKAGE / "models" / "released.json"
# an installed wheel carries the cards inside the package, a clone beside it
CARD_FOLDERS = (_PACKAGE / "hub_cards", _PACKAGE.parent / "hub_cards")


def released() -> dict[str, str]:
    """sha256 of `model.safetensors` of every released model, by `arch.tag`."""
    hashes: dict[str, str] = json.loads(RELEASED_FILE.read_text(encoding="utf-8"))
    return hashes


def card_folder(name: str) -> Path | None:
    """Folder of the released model `arch.tag`, laid out like its Hub repository; None where it is not at hand."""
    return next((f / name for f in CARD_FOLDERS if (f / name / "model.safetensors").is_file()), None)


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def local_weights(name: str) -> Path | None:
    """The released weight file of `arch.tag`, or None where only the Hub has it.

    Raises:
        RuntimeError: the file is there but is not the released one (a broken download, a Git LFS pointer).
    """
    folder = card_folder(name)
    expected = released().get(name)
    if folder is None or expected is None:
        return None
    file = folder / "model.safetensors"
    digest = sha256(file)
    if digest != expected:
        raise RuntimeError(f"{file} is not the released weight file of {name}: sha256 {digest}, expected {expected}.")
    return file


def local_overlay(variant: str, pretrained: bool, cfg: Any, overlay: dict[str, Any] | None) -> dict[str, Any]:
    """timm's `pretrained_cfg_overlay` for an entrypoint, with the local weight file where weights are asked for.

    A source that the caller names (a `pretrained_cfg` of its own, a file, URL, Hub id or state dict) stays.
    """
    overlay = dict(overlay or {})
    named = (cfg is not None and not isinstance(cfg, str)) or any(
        overlay.get(key) for key in ("file", "url", "hf_hub_id", "state_dict")
    )
    if pretrained and not named:
        file = local_weights(f"{variant}.{resolve_pretrained_cfg(variant, cfg).tag}")
        overlay |= dict(file=str(file)) if file is not None else {}
    return overlay

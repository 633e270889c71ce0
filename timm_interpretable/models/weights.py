"""Where pretrained files come from: the package's own `hub_cards` folder when it is there, else the Hub."""

import hashlib
from pathlib import Path

HUB_ORG = "timm-interpretable"

# sha256 of hub_cards/<arch>.<tag>/model.safetensors
SHA256: dict[str, str] = {}

_PACKAGE = Path(__file__).resolve().parent.parent
# an installed wheel carries the cards inside the package, a clone beside it
CARD_FOLDERS = (_PACKAGE / "hub_cards", _PACKAGE.parent / "hub_cards")


def card_folder(name: str) -> Path | None:
    """Folder of the released model `arch.tag`, laid out like its Hub repository; None where it is not at hand."""
    return next((f / name for f in CARD_FOLDERS if (f / name / "model.safetensors").is_file()), None)


def local_weights(name: str) -> Path | None:
    """The released weight file of `arch.tag`, or None where only the Hub has it.

    Raises:
        RuntimeError: the file is there but is not the released one (a broken download, a Git LFS pointer).
    """
    folder = card_folder(name)
    if folder is None or name not in SHA256:
        return None
    file = folder / "model.safetensors"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if digest != SHA256[name]:
        raise RuntimeError(f"{file} is not the released weight file of {name}: sha256 {digest}, expected {SHA256[name]}.")
    return file

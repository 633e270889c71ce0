"""Weight files from the Hub: at a pinned revision, checked, cached, and never a pickle

The one exception are checkpoints at their authors' own place, which are pickles of tensors: they are read without
running code, checked against the hash that their name carries, and kept as safetensors.
"""

import hashlib
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

WEIGHTS_FILE = "model.safetensors"


class WeightsError(RuntimeError):
    """Pretrained weights that are not there, cannot be had, or are not what they should be; one sentence or two."""


def sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while chunk := opened.read(2**22):
            digest.update(chunk)
    return digest.hexdigest()


def pinned_revision(digest: str) -> str:
    """The tag under which a Hub repository keeps the weights of this sha256, whatever is published after them."""
    return f"weights-{digest[:16]}"


def cached_weights(repo_id: str, revision: str | None, cache_dir: str | Path | None = None) -> Path | None:
    """The weight file in the Hub's cache, unchecked, or None; asks no server."""
    file = try_to_load_from_cache(repo_id, WEIGHTS_FILE, cache_dir=cache_dir, revision=revision)
    return Path(file) if isinstance(file, str) else None  # otherwise None, or a mark that the repository has none


def download_weights(repo_id: str, digest: str, cache_dir: str | Path | None = None) -> Path:
    """The released weight file with this sha256; after the first time from the cache, without network.

    A damaged file in the cache is downloaded again.

    Raises:
        WeightsError: it cannot be had, or is not the released one.
    """
    revision = pinned_revision(digest)
    cached = cached_weights(repo_id, revision, cache_dir)
    if cached is not None and sha256(cached) == digest:
        return cached
    file = _fetch(repo_id, revision, cache_dir, again=cached is not None)
    found = sha256(file)
    if found != digest:
        raise WeightsError(
            f"{repo_id}@{revision} is not the released weight file: sha256 {found}, expected {digest} ({file})."
        )
    return file


def check_hub_weights(repo_id: str, revision: str | None, cache_dir: str | Path | None = None) -> None:
    """Bring the weights of any repository into the cache, from which timm then reads them.

    Raises:
        WeightsError: they cannot be had, or are not a safetensors file.
    """
    check_safetensors(_fetch(repo_id, revision, cache_dir))


def check_safetensors(file: Path) -> None:
    """Refuse everything else.

    Raises:
        WeightsError: not a whole safetensors file.
    """
    if not file.is_file():
        raise WeightsError(f"{file.parent} has no {file.name}. Other formats, pickles among them, are not loaded.")
    try:
        with safe_open(file, "pt"):
            return
    except (SafetensorError, OSError) as error:
        with file.open("rb") as opened:
            pickled = opened.read(2).startswith((b"PK", b"\x80"))  # torch's archive, and a bare pickle
        kind = "is a pickle, expected safetensors" if pickled else "is not a whole safetensors file"
        raise WeightsError(f"{file} {kind} ({error}). Other formats are not loaded.") from None


def _fetch(repo_id: str, revision: str | None, cache_dir: str | Path | None, again: bool = False) -> Path:
    """The file from the Hub, or from the cache where the Hub has nothing newer or cannot be reached."""
    place = f"{repo_id}@{revision or constants.DEFAULT_REVISION}"
    try:
        return Path(
            hf_hub_download(repo_id, WEIGHTS_FILE, revision=revision, cache_dir=cache_dir, force_download=again)
        )
    except LocalEntryNotFoundError as error:
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else str(error.__cause__ or error)
        raise WeightsError(
            f"{place} is not in the cache {cache_dir or constants.HF_HUB_CACHE}, and the Hub at {constants.ENDPOINT} "
            f"cannot be asked: {why}."
        ) from error
    except RepositoryNotFoundError as error:
        raise WeightsError(
            f"The Hub at {constants.ENDPOINT} has no repository {repo_id}, or it is private and the token, if there is "
            f"one, does not open it."
        ) from error
    except RevisionNotFoundError as error:
        raise WeightsError(
            f"{repo_id} has no revision {revision}: it never had, or the revision has been removed."
        ) from error
    except EntryNotFoundError as error:
        raise WeightsError(
            f"{place} has no {WEIGHTS_FILE}. Other formats, pickles among them, are not loaded."
        ) from error
    except Exception as error:  # of the HTTP library, which changes with huggingface_hub's version
        reason = " ".join(str(error).split())
        raise WeightsError(f"Downloading {place} failed (Hub at {constants.ENDPOINT}): {reason}") from error


# --- checkpoints at their authors' own place

_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.pth$")


def is_linked(url: str) -> bool:
    """Whether that is a checkpoint whose name ends in the start of its sha256, as torch's own do."""
    return _HASH_IN_NAME.search(url) is not None


def linked_file(url: str, cache_dir: str | Path | None = None) -> Path:
    """Where `linked_weights` keeps the safetensors copy of a checkpoint, in torch's cache by default."""
    folder = Path(cache_dir) if cache_dir is not None else Path(torch.hub.get_dir()) / "checkpoints"
    return folder / f"{url.rpartition('/')[2].removesuffix('.pth')}.safetensors"


def linked_weights(url: str, cache_dir: str | Path | None = None) -> Path:
    """The safetensors copy of a checkpoint; after the first time from the cache, without network.

    A download that was cut goes on where it stopped. A damaged copy is made anew.

    Raises:
        WeightsError: the file cannot be had, is not the one that its name says, or holds more than tensors.
    """
    kept = linked_file(url, cache_dir)
    digest = kept.with_suffix(".sha256")
    if kept.is_file() and digest.is_file() and digest.read_text(encoding="ascii").strip() == sha256(kept):
        return kept
    kept.parent.mkdir(parents=True, exist_ok=True)
    checkpoint = _fetched(url, kept.parent)
    part = kept.with_suffix(".part")
    save_file(_tensors(checkpoint), part, metadata={"format": "pt"})
    digest.write_text(sha256(part), encoding="ascii")
    part.replace(kept)
    checkpoint.unlink()
    return kept


def _fetched(url: str, folder: Path) -> Path:
    """The checkpoint with the hash that its name carries."""
    name = url.rpartition("/")[2]
    match = _HASH_IN_NAME.search(name)
    if match is None:
        raise WeightsError(f"{url} does not end in the start of its sha256, expected NAME-0123456789.pth.")
    file = folder / f"{name}.incomplete"
    there = file.stat().st_size if file.is_file() else 0
    if there and sha256(file).startswith(match[1]):
        return file
    if constants.HF_HUB_OFFLINE:
        raise WeightsError(f"{name} is not in the cache {folder}, and HF_HUB_OFFLINE is set, so {url} is not asked.")
    try:
        with file.open("ab") as opened:
            http_get(url, opened, resume_size=there, displayed_filename=name)
    except Exception as error:  # of the HTTP library, which changes with huggingface_hub's version
        reason = " ".join(str(error).split())
        raise WeightsError(f"Downloading {url} failed: {reason}") from error
    found = sha256(file)
    if not found.startswith(match[1]):
        file.unlink()  # it would be taken for the start of the right one
        raise WeightsError(f"{url} is not the file that its name says: sha256 {found}, expected {match[1]}….")
    return file


def _tensors(checkpoint: Path) -> dict[str, Any]:
    """The state dict in a file of torch's, which is read without running code."""
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"{checkpoint.name} is not a checkpoint of tensors: {reason}") from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise WeightsError(f"{checkpoint.name} is not a state dict of tensors.")
    return {name: value.contiguous().clone() for name, value in state.items()}

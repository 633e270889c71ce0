"""Weight files from the Hub: at a pinned revision, checked, cached, and never a pickle."""

import hashlib
from pathlib import Path

from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError, safe_open

WEIGHTS_FILE = "model.safetensors"


class WeightsError(RuntimeError):
    """Pretrained weights that are not there, cannot be had, or are not what they should be; one sentence or two."""


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


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

"""Upload released models and the Space to the Hub: one commit each, tagged, and checked by downloading it again."""

import atexit
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import timm
import torch
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    RepoCard,
    constants,
    get_token,
    hf_hub_download,
)
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.sha import git_hash

from timm_interpretable import __version__
from timm_interpretable.models.download import WEIGHTS_FILE, check_safetensors, download_weights, pinned_revision
from timm_interpretable.models.weights import CARD_FOLDERS, card_folder, local_weights, released
from tools.release.regression import REGRESSION_FILE, assert_unchanged
from tools.release.training import PICTURE, TRAINING_FILE

SPACE = "timm-interpretable"  # name of the Space's repository
MODEL_FILES = ("README.md", "config.json", WEIGHTS_FILE, REGRESSION_FILE, TRAINING_FILE)
OPTIONAL_FILES = (PICTURE,)
_PICKLES = (".bin", ".ckpt", ".joblib", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth")


class PublishError(RuntimeError):
    """Something that must not or cannot be published; one sentence or two."""


@dataclass(frozen=True)
class Upload:
    """What one repository is to hold."""

    repo_id: str
    folder: Path
    files: tuple[str, ...]
    tags: tuple[str, ...] = ()
    repo_type: str = "model"
    model: str | None = None  # arch.tag
    sdk: str | None = None


@dataclass
class Changes:
    """What is missing on the Hub."""

    head: str | None = None  # the last commit; None where the repository has to be created
    upload: list[str] = field(default_factory=list)
    delete: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.head is None or self.upload or self.delete or self.tags)


def model_upload(name: str, namespace: str, version_tag: bool = False) -> Upload:
    """The folder of a released model, complete and unchanged since its release.

    Its commit gets the tag that `pretrained=True` downloads from, with `version_tag` also one of the package's version.

    Raises:
        PublishError: not released, a file is missing or does not belong there, or the card has no front matter.
        WeightsError: the weights are not the released ones.
    """
    folder = card_folder(name)
    if name not in released() or folder is None:
        here = ", ".join(sorted(each for each in released() if card_folder(each)))
        raise PublishError(
            f"{name!r} is not a released model; expected one of {here or 'none: there are no cards here'}."
        )
    found = sorted(path.name for path in folder.iterdir())
    if not set(MODEL_FILES) <= set(found) <= {*MODEL_FILES, *OPTIONAL_FILES}:
        expected = f"{', '.join(sorted(MODEL_FILES))} and perhaps {', '.join(OPTIONAL_FILES)}"
        raise PublishError(f"{folder} holds {', '.join(found)}; expected {expected}.")
    local_weights(name)
    for file in (WEIGHTS_FILE, REGRESSION_FILE):
        check_safetensors(folder / file)
    if RepoCard.load(folder / "README.md").data.get("library_name") != "timm":
        raise PublishError(f"{folder / 'README.md'} has no front matter with library_name: timm.")
    tags = (pinned_revision(released()[name]), *([f"v{__version__}"] if version_tag else []))
    return Upload(f"{namespace}/{name}", folder, tuple(found), tags, model=name)


def space_upload(namespace: str, version_tag: bool = False, wheel: Path | None = None) -> Upload:
    """The folder of the Space, `spaces_app` in a clone.

    wheel: of this version, which the Space installs instead of what PyPI has; it becomes one of its files.

    Raises:
        PublishError: it is not there, its README names no sdk, it holds pickles, or the wheel is another one.
    """
    folder = CARD_FOLDERS[-1].parent / "spaces_app"
    if not (folder / "README.md").is_file():
        raise PublishError(f"There is no Space to publish: {folder / 'README.md'} does not exist.")
    sdk = RepoCard.load(folder / "README.md").data.get("sdk")
    if sdk not in constants.SPACES_SDK_TYPES:
        raise PublishError(
            f"{folder / 'README.md'} names the sdk {sdk!r}, expected one of {constants.SPACES_SDK_TYPES}."
        )
    if wheel is not None:
        folder = _with_wheel(folder, wheel, f"{namespace}/{SPACE}")
    paths = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    files = tuple(p.as_posix() for p in paths if not any(part.startswith((".", "__pycache__")) for part in p.parts))
    pickles = [file for file in files if file.lower().endswith(_PICKLES)]
    if pickles:
        raise PublishError(f"{folder} holds {', '.join(pickles)}; weights are published as safetensors only.")
    tags = (f"v{__version__}",) if version_tag else ()
    return Upload(f"{namespace}/{SPACE}", folder, files, tags, "space", sdk=str(sdk))


def _with_wheel(folder: Path, wheel: Path, repo_id: str) -> Path:
    """A copy of the folder with the wheel in it, and its address on the Hub among the requirements."""
    if not wheel.is_file() or not wheel.name.startswith(f"timm_interpretable-{__version__}-") or wheel.suffix != ".whl":
        expected = f"timm_interpretable-{__version__}-….whl"
        raise PublishError(f"{wheel} is not the wheel of this version, expected {expected}.")
    copy = Path(mkdtemp(prefix="space-"))
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    shutil.copy(wheel, copy)
    # installing begins before the Space's files are there, so the wheel is named by its address and not by its path
    address = f"{constants.ENDPOINT}/spaces/{repo_id}/resolve/main/{wheel.name}"
    (copy / "requirements.txt").write_text(f"timm-interpretable[space] @ {address}\n", encoding="utf-8")
    return copy


def require_token() -> None:
    """Refuse to begin what cannot be finished.

    Raises:
        PublishError: there is no token.
    """
    if get_token() is None:
        raise PublishError("No Hugging Face token: run `hf auth login` or set HF_TOKEN to one that may write.")


def changes(api: HfApi, upload: Upload) -> Changes:
    """What has to be done so that the repository holds exactly this; only reads.

    Raises:
        PublishError: the Hub cannot be asked, or a version tag is at another commit already.
    """
    with _hub_errors(upload.repo_id):
        try:
            head = api.repo_info(upload.repo_id, repo_type=upload.repo_type).sha
        except RepositoryNotFoundError:
            return Changes(None, list(upload.files), [], list(upload.tags))
        tree = api.list_repo_tree(upload.repo_id, recursive=True, repo_type=upload.repo_type)
        there = {file.path: file for file in tree if isinstance(file, RepoFile) and file.path != ".gitattributes"}
        refs = api.list_repo_refs(upload.repo_id, repo_type=upload.repo_type)
    tags = {tag.name: tag.target_commit for tag in refs.tags}
    result = Changes(
        head,
        upload=[f for f in upload.files if f not in there or not _same(upload.folder / f, there[f])],
        delete=sorted(set(there) - set(upload.files)),
        tags=[tag for tag in upload.tags if tag not in tags],
    )
    # the tag of the weights may stay behind: it pins the weights, and the card may have been improved since
    version = f"v{__version__}"
    if version in upload.tags and version in tags and (result.upload or result.delete or tags[version] != head):
        raise PublishError(f"{upload.repo_id} has {version} at another state; a published version does not move.")
    return result


def publish(api: HfApi, upload: Upload) -> Changes:
    """Make the repository hold exactly this, in one commit, and tag it; what it did, nothing where nothing was missing.

    Safe to repeat after it was cut off: whatever the Hub has by then is not sent again.

    Raises:
        PublishError: the Hub refuses, cannot be reached, or gives back something else than was uploaded.
        WeightsError: the uploaded weights cannot be downloaded again.
    """
    missing = changes(api, upload)
    with _hub_errors(upload.repo_id):
        head = missing.head
        if head is None:
            api.create_repo(upload.repo_id, repo_type=upload.repo_type, space_sdk=upload.sdk, exist_ok=True)
        if missing.upload or missing.delete:
            adds = [CommitOperationAdd(file, upload.folder / file) for file in missing.upload]
            deletes = [CommitOperationDelete(file) for file in missing.delete]
            head = api.create_commit(
                upload.repo_id, [*adds, *deletes], commit_message=f"timm-interpretable {__version__}",
                repo_type=upload.repo_type,
            ).oid  # fmt: skip
        for tag in missing.tags:
            api.create_tag(upload.repo_id, tag=tag, revision=head, repo_type=upload.repo_type)
    verify(upload)
    return missing


def verify(upload: Upload) -> None:
    """Download everything into an empty cache: the same files, and for a model the same logits and map.

    Raises:
        PublishError: something else comes back.
        WeightsError: the weights cannot be downloaded.
    """
    with TemporaryDirectory() as cache, _hub_errors(upload.repo_id):
        for file in upload.files:
            back = hf_hub_download(upload.repo_id, file, repo_type=upload.repo_type, cache_dir=cache)
            if Path(back).read_bytes() != (upload.folder / file).read_bytes():
                raise PublishError(f"{upload.repo_id} gives back another {file} than was uploaded.")
        if upload.model is not None:
            _verify_model(upload, upload.model, cache)


def _verify_model(upload: Upload, name: str, cache: str) -> None:
    """As a user gets it: through timm, from the pinned revision."""
    digest = released()[name]
    download_weights(upload.repo_id, digest, cache)
    pinned = f"hf-hub:{upload.repo_id}@{pinned_revision(digest)}"
    theirs = timm.create_model(pinned, pretrained=True, cache_dir=cache).eval()
    try:
        assert_unchanged(theirs, upload.folder / REGRESSION_FILE)
    except AssertionError as error:
        raise PublishError(f"{pinned} is not the released model: {error}") from error
    ours = timm.create_model(f"local-dir:{upload.folder}", pretrained=True).eval()
    x = torch.rand(2, *ours.pretrained_cfg["input_size"], generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        if not torch.equal(ours(x), theirs(x)):
            raise PublishError(f"{pinned} gives other logits than {upload.folder}.")


def _same(file: Path, there: RepoFile) -> bool:
    data = file.read_bytes()
    if there.lfs is None:
        return bool(there.blob_id == git_hash(data))
    check = CommitOperationAdd(file.name, data).upload_info
    return bool(there.lfs.sha256 == check.sha256.hex())


@contextmanager
def _hub_errors(repo_id: str) -> Iterator[None]:
    """The Hub's errors, of as many types as HTTP libraries have, as one line."""
    try:
        yield
    except (PublishError, AssertionError):
        raise
    except HfHubHTTPError as error:
        status = error.response.status_code
        reasons = {401: "the token is not valid", 403: f"the token may not write to {repo_id}"}
        reason = reasons.get(status) or str(error)
        raise PublishError(f"{repo_id}: {reason} (HTTP {status} of {constants.ENDPOINT}).") from error
    except RuntimeError:
        raise
    except Exception as error:
        raise PublishError(f"{repo_id}: the Hub at {constants.ENDPOINT} cannot be used: {error}") from error

"""`timm-interpretable publish`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from timm_interpretable.cli.common import fail

if TYPE_CHECKING:
    from tools.release.publish import Changes, Upload


def publish(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL...", help="arch.tag, e.g. facnn_resnet18.imagenette.")
    ] = None,
    namespace: Annotated[str, typer.Option(help="Organisation or user on the Hub.")] = ...,  # type: ignore[assignment]
    all_models: Annotated[bool, typer.Option("--all", help="Every released model.")] = False,
    space: Annotated[bool, typer.Option("--space", help="The Space, from spaces_app.")] = False,
    wheel: Annotated[
        Path | None, typer.Option(help="Wheel of this version that the Space installs, while it is not on PyPI.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    revision_tag: Annotated[
        bool, typer.Option("--revision-tag", help="Also tag with the version of this package.")
    ] = False,
) -> None:
    """Bring released models and the Space to the Hub, where they are not yet what they should be."""
    if not (models or all_models or space):
        fail("nothing to publish; name models, or give --all or --space")
    if wheel is not None and not space:
        fail("--wheel is for the Space; give --space too")
    from huggingface_hub import HfApi

    from tools.release.publish import changes, model_upload, publish as upload, require_token, space_upload
    from timm_interpretable.models.weights import released

    try:
        if not dry_run:
            require_token()
        # everything is checked before anything is sent
        uploads = [model_upload(name, namespace, revision_tag) for name in (released() if all_models else models or ())]
        uploads += [space_upload(namespace, revision_tag, wheel)] if space else []
        api = HfApi()
        for each in uploads:
            done = changes(api, each) if dry_run else upload(api, each)
            typer.echo(f"{each.repo_id}: {_told(each, done, dry_run)}")
    except (RuntimeError, OSError, ValueError) as error:
        fail(str(error))


def _told(upload: "Upload", done: "Changes", dry_run: bool) -> str:
    if not done:
        return "nothing to do" if dry_run else "nothing to do; downloaded and checked"
    parts = ["create the repository"] * (done.head is None)
    parts += [f"{_sizes(upload, done.upload)}"] * bool(done.upload)
    parts += [f"delete {', '.join(done.delete)}"] * bool(done.delete)
    parts += [f"tag {', '.join(done.tags)}"] * bool(done.tags)
    return f"would {'; '.join(parts)}" if dry_run else f"{'; '.join(parts)}; done, downloaded and checked"


def _sizes(upload: "Upload", files: list[str]) -> str:
    sizes = (f"{file} ({(upload.folder / file).stat().st_size / 1e3:,.0f} kB)" for file in files)
    return f"upload {', '.join(sizes)}"

"""The one component that takes files of strangers."""

from abc import ABCMeta
from typing import Any, NamedTuple

import gradio as gr
from gradio.component_meta import ComponentMeta, updateable
from gradio.data_classes import ImageData
from gradio_client import utils as client_utils

from timm_interpretable.app.images import Picture, PictureError, read_data_url, read_picture
from timm_interpretable.app.settings import Settings


class Sent(NamedTuple):
    """A picture and the file in gradio's cache that it came in; None for one inside the request."""

    picture: Picture
    file: str | None


class _WithoutStub(ComponentMeta):
    """gradio's metaclass writes a stub file beside the source of every component."""

    def __new__(mcs, name: str, bases: tuple[type, ...], attrs: dict[str, Any]) -> type:
        return ABCMeta.__new__(mcs, name, bases, {**attrs, "__init__": updateable(attrs["__init__"])})


class PictureInput(gr.Image, metaclass=_WithoutStub):
    """gradio's image component, with this application's reader instead of its own, which has no limits."""

    is_template = True  # drawn as the class that it is made of

    def __init__(self, settings: Settings, **kwargs: Any) -> None:
        self.settings = settings
        super().__init__(type="filepath", image_mode=None, **kwargs)

    def preprocess(self, payload: ImageData | None) -> Sent | None:  # type: ignore[override]
        try:
            if payload is None:
                return None
            if payload.url and payload.url.startswith("data:"):
                return Sent(read_data_url(payload.url, self.settings), None)
            return Sent(read_picture(payload.path or "", self.settings), payload.path)
        except PictureError as error:
            raise gr.Error(str(error), print_exception=False) from error

    async def async_move_resource_to_block_cache(self, url_or_file_path: Any) -> str | None:
        """gradio would fetch an address from the web, of any size; nobody needs that here."""
        if client_utils.is_http_url_like(str(url_or_file_path)):
            raise gr.Error("Please send the picture itself, not its address on the web.", print_exception=False)
        return await super().async_move_resource_to_block_cache(url_or_file_path)

    def get_config(self, cls: type[gr.blocks.Block] | None = None) -> dict[str, Any]:
        """The page is told what gradio's own component would tell it, by the names of its arguments."""
        return super().get_config(cls or gr.Image)

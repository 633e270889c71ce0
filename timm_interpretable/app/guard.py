"""What is refused before gradio sees it: requests that are too large, and fetching of other people's addresses."""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import unquote

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

# parts of gradio that this page has no use for, one of which runs ffmpeg on what is sent
_UNUSED = ("/process_recording", "/deep_link", "/run-history/connect", "/vibe-edit", "/vibe-code")
_HEADERS = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"same-origin"))


class Guard:
    """An ASGI middleware.

    A file inside a JSON request is a third larger than the file, so requests may be half as large again as a file.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], max_bytes: int) -> None:
        self.app, self.limit = app, max_bytes * 3 // 2

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = unquote(unquote(scope["path"])).lower()
        if ("/file=" in path and "://" in path.replace(":/", "://")) or "/proxy=" in path:
            await _refuse(send, 403, "Addresses on the web are not fetched.")
            return
        if path.rstrip("/").endswith(_UNUSED):
            await _refuse(send, 404, "Not found.")
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self.limit:
            await _refuse(send, 413, f"The request is too large; the limit is {self.limit / 2**20:.0f} MiB.")
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.limit:  # a client that does not say how much it sends is cut off
                return {"type": "http.disconnect"}
            return message

        async def headed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *_HEADERS]}
            await send(message)

        await self.app(scope, counted, headed)


async def _refuse(send: Send, status: int, reason: str) -> None:
    body = json.dumps({"detail": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

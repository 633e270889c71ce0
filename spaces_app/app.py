"""The Space: the application of timm-interpretable with the examples of this folder."""

from pathlib import Path

from timm_interpretable.app.page import serve

if __name__ == "__main__":
    serve(examples=Path(__file__).resolve().parent / "examples")

"""`python -m timm_interpretable.cli`, for launchers such as `accelerate launch -m`."""

from timm_interpretable.cli import app

app()

"""`python -m tools.release card|benchmark-cards|publish`."""

from tools.release.commands import app

app()

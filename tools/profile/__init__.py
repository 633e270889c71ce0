"""What the models, their attributions and the metrics cost on this machine: `python -m tools.profile`."""

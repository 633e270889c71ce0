"""Training recipes and the engine that runs them."""

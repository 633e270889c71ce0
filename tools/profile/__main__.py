"""`python -m tools.profile`: what interpretability costs on this machine."""

import typer

from tools.profile import bcos, coda_net, facnn, fame, metrics

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)


@app.callback()
def main() -> None:
    """Measure the cost of the models, their attributions and the metrics on this machine."""


app.command("facnn")(facnn.facnn)
app.command("bcos")(bcos.bcos)
app.command("coda_net")(coda_net.coda_net)
app.command("fame")(fame.fame)
app.command("metrics")(metrics.metrics)

if __name__ == "__main__":
    app()

"""`timm-interpretable list`."""

import typer

from timm_interpretable.cli.common import our_models, weight_sources


def list_models() -> None:
    """List the models, their size, and where their weights are."""
    import timm
    from timm.models import get_pretrained_cfg

    rows = [("model", "params", "input", "classes", "weights")]
    for names in our_models().values():
        for name in names:
            cfg = get_pretrained_cfg(name)
            model = timm.create_model(name, pretrained=False, device="meta")
            millions = sum(p.numel() for p in model.parameters()) / 1e6
            size = "x".join(str(side) for side in cfg.input_size[1:])
            try:
                sources = ", ".join(weight_sources(name)) or "none"
            except RuntimeError:  # still list the others; loading it gives the whole story
                sources = "damaged file"
            rows.append((name, f"{millions:.1f} M", size, str(model.num_classes), sources))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.rjust(w) if i in (1, 2, 3) else cell.ljust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        typer.echo("  ".join(cells).rstrip())

"""Commands of `vault-credentials` that are more than a few lines: `cli.py` adds each module's typer app to its own."""

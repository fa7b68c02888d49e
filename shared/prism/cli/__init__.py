"""The ``prism`` command: one module per command, nothing heavy imported before it is needed."""


def main() -> None:
    """Run the command line."""
    from prism.cli.app import app

    app(prog_name="prism")


__all__ = ["main"]

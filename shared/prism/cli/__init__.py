"""The ``prism`` command: one module per command, nothing heavy imported before it is needed."""


def main() -> None:
    """Run the command line."""
    import sys

    from prism.cli.app import app

    if hasattr(sys.stdout, "reconfigure"):  # a terminal that isn't UTF-8 must not break a command
        sys.stdout.reconfigure(errors="backslashreplace")
    app(prog_name="prism")


__all__ = ["main"]

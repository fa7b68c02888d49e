"""``prism policy …``: one module per command."""

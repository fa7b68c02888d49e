"""``prism tenant …``: one module per command."""

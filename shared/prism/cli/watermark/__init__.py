"""``prism watermark …``: one module per command."""

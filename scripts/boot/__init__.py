"""How a clean clone becomes a running server or a tested tree. Standard library only.

``tree`` knows where things lie, ``shell`` runs commands, ``steps`` decides what is up to date,
``cpu`` and ``llama`` build llama-cpp-python safely, ``model`` puts the demonstration model
together, ``install`` fills ``.venv``, ``serve`` runs the server.
"""

"""Looking at what moderation does from outside: many texts at once, and how right it is."""

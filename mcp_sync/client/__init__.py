"""The client: typed methods over a conversation."""

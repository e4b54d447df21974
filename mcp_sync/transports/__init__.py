"""Transports: ways to reach a server; the client ends of the bindings."""

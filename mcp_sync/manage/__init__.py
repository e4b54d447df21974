"""Manage: Callers around Callers: retries, a circuit breaker, reconnecting, and the order they stand in."""

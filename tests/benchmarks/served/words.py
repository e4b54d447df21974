"""What the tools of all servers say, and how many there are."""

LINE = "It was the best of times, it was the worst of times, it was the age of wisdom.\n"
EXTRA = [f"spare_{number}" for number in range(17)]
"""Names of tools that only make the list longer."""


def text(number: int) -> str:
    """Return about so many bytes."""
    return LINE * (number // len(LINE) + 1)

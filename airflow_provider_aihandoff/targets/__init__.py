"""The outside systems: how each kind is written to, looked at, and written to at most once."""

"""Kills and stops the attempts of tasks at every point, and counts what came of it. For tests and figures alone."""

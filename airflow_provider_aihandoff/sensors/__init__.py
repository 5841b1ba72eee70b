"""Sensors: what waits for a person."""

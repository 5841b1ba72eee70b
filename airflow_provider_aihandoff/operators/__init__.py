"""Operators: what runs on a worker. Each module is imported by itself, so that parsing a Dag stays light."""

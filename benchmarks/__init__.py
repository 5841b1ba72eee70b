"""Benchmarks: each compares two ways of doing the same in one run, and prints a ratio."""

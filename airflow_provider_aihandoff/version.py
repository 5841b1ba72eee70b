"""The version of this package: read by the build, and said by its REST API."""

__version__ = "0.1.0"

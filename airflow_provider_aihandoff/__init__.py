"""AI Handoff: a durable job-state layer between long-running AI work and the systems that run a business."""

__version__ = "0.1.0"

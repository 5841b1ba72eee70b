"""The demo: a real Airflow, a real PostgreSQL and a small business system, on one machine."""

"""A whole Airflow on many nodes, each of which is ended in turn while jobs flow."""

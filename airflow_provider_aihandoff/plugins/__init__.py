"""What the provider adds to Airflow's API server: the review pages and the jobs API."""

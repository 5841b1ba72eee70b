"""OpenAI's webhooks: verified, read, and handed to the ledger. Knows nothing of Airflow or of HTTP servers."""

"""What this package knows of OpenAI's Responses API in background mode. Imports nothing from Airflow."""

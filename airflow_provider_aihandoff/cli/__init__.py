"""`airflow aihandoff`: the ledger from a terminal."""

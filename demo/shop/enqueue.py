"""`python -m demo.shop.enqueue`: ask for a product note in a transaction of the shop's own."""

import argparse
import os

import psycopg

from airflow_provider_aihandoff.core.job_requests.enqueue import enqueue

DATABASE_VARIABLE = "AIHANDOFF_SHOP_DATABASE"


def main() -> None:
    parser = argparse.ArgumentParser(description=f"{__doc__} The ledger's database is in {DATABASE_VARIABLE}.")
    parser.add_argument("slug")
    options = parser.parse_args()
    with psycopg.connect(os.environ[DATABASE_VARIABLE]) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS shop_products (slug text PRIMARY KEY)")
        connection.execute("INSERT INTO shop_products VALUES (%s) ON CONFLICT DO NOTHING", [options.slug])
        asked = enqueue(connection, "product-note", options.slug, {"slug": options.slug}, requested_by="visitor")
    print(asked)


if __name__ == "__main__":
    main()

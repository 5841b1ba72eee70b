"""`python -m demo.shop.submit`: ask for a product note with the client, and wait until it is published.

Run it again, also after it was killed: it finds the same request.
"""

import argparse
import os

from airflow_provider_aihandoff.client import Client, log_in
from demo.shop import PASSWORD_VARIABLE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slug")
    parser.add_argument("--airflow", default="http://127.0.0.1:8080")
    parser.add_argument("--login", default="shop")
    options = parser.parse_args()
    token = log_in(options.airflow, options.login, os.environ.get(PASSWORD_VARIABLE, options.login))
    with Client(options.airflow, token=token) as jobs:
        request = jobs.submit("product-note", {"slug": options.slug}, key=options.slug)
        for event in jobs.follow(request):
            if event.request is not None:
                print(event.request.said, flush=True)
            elif event.name == "text":
                print(event.data["delta"], end="", flush=True)
        done = jobs.wait(request, timeout=60)
    for made in done.records:
        print(f"Published: {made.link or made.external_id}", flush=True)


if __name__ == "__main__":
    main()

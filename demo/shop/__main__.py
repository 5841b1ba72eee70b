"""`python -m demo.shop`: serve the shop on this machine. Its password is in `AIHANDOFF_SHOP_PASSWORD`."""

import argparse
import os

import uvicorn

from airflow_provider_aihandoff.client import log_in
from demo.shop import PASSWORD_VARIABLE
from demo.shop.proxy import Airflow, create_app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--airflow", required=True, help="where Airflow is")
    parser.add_argument("--cms", required=True, help="where the business system is")
    parser.add_argument("--login", required=True, help="the shop's login in Airflow")
    options = parser.parse_args()
    token = log_in(options.airflow, options.login, os.environ[PASSWORD_VARIABLE], trust_env=False)
    app = create_app(Airflow(options.airflow, token), options.cms)
    uvicorn.run(app, host="127.0.0.1", port=options.port, access_log=False, log_level="warning")


if __name__ == "__main__":
    main()

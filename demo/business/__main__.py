"""`python -m demo.business`: serve the company's systems on this machine."""

import argparse
from pathlib import Path

import uvicorn

from demo.business.app import create_app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--log-file", type=Path, required=True, help="the witness log, which is also the memory")
    parser.add_argument("--more-tickets", type=int, default=0, help="tickets beside those of the seeds")
    parser.add_argument("--more-products", type=int, default=0, help="products beside those of the seeds")
    options = parser.parse_args()
    app = create_app(options.log_file, options.more_tickets, options.more_products)
    uvicorn.run(app, host=options.host, port=options.port, access_log=False, log_level="warning")


if __name__ == "__main__":
    main()

"""A web shop on an origin of its own, which asks for product notes."""

PASSWORD_VARIABLE = "AIHANDOFF_SHOP_PASSWORD"  # noqa: S105  a name
"""Where the shop's server reads the password of its login in Airflow."""

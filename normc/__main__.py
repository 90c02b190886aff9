"""``python -m normc`` prints how normc was built and what it uses."""

from ._config import show_config

show_config()

"""The application in a process that nobody started with Rondel: it installs it, before anything that runs."""

import rondel

rondel.install()

from asgi import app  # noqa: E402, F401

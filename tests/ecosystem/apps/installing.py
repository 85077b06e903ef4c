"""An application that installs Rondel itself, before all other imports."""

import rondel

rondel.install()

from asgi import app  # noqa: E402, F401

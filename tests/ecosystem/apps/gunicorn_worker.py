"""uvicorn's worker for gunicorn, on Rondel: `gunicorn -k gunicorn_worker.RondelWorker app:app`."""

from uvicorn_worker import UvicornWorker


class RondelWorker(UvicornWorker):
    CONFIG_KWARGS = {**UvicornWorker.CONFIG_KWARGS, "loop": "rondel:new_event_loop"}  # noqa: RUF012

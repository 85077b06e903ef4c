"""PostgreSQL, Redis and nginx from Debian's packages, each in a temporary folder on a free port.

PostgreSQL refuses to run as root, so root starts it as an unprivileged user. The benchmarks use
them as well.
"""

import abc
import glob
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Self

from processes import PATIENCE, accepts, free_port

SETUP = "run `make ecosystem-setup` as root, or install it"


class NotHere(Exception):
    """Raised if a server is not installed."""


def found(name: str, *elsewhere: str) -> str:
    """Return the path of a program."""
    for path in (shutil.which(name), *(match for pattern in elsewhere for match in sorted(glob.glob(pattern))[::-1])):
        if path is not None and os.access(path, os.X_OK):
            return path
    raise NotHere(f"{name} is not here: {SETUP}")


class Server(abc.ABC):
    """A server process with its port and folder."""

    def __init__(self) -> None:
        # Not one of pytest's folders: other users have no access to them.
        self._temporary = tempfile.TemporaryDirectory(prefix="rondel-", ignore_cleanup_errors=True)
        self.folder = Path(self._temporary.name)
        self.folder.chmod(0o755)
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._user: str | None = None

    def give_to(self, name: str) -> None:
        """Make the server run as another user, if this process runs as root."""
        if os.geteuid() != 0:
            return
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            user = pwd.getpwnam("nobody")
        self._user = user.pw_name
        for path in (self.folder, *self.folder.iterdir()):
            os.chown(path, user.pw_uid, user.pw_gid)

    def call(self, *command: object) -> None:
        """Run a command that must succeed before the server starts."""
        done = subprocess.run(
            [*map(str, command)],
            cwd=self.folder,
            user=self._user,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{command[0]}: {done.stdout}{done.stderr}")

    def serve(self, *command: object) -> None:
        """Start the server and wait until it accepts connections."""
        log = self.folder / "log"
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [*map(str, command)],
                cwd=self.folder,
                user=self._user,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )
        deadline = time.monotonic() + PATIENCE
        while not accepts(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} does not serve:\n{log.read_text()}")
            time.sleep(0.02)

    @abc.abstractmethod
    def start(self) -> None:
        """Prepare the server's files, and start it."""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            # SIGINT and SIGTERM both end these three, but on SIGTERM PostgreSQL waits for its
            # clients.
            self._process.send_signal(2)
            try:
                self._process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._temporary.cleanup()


class PostgreSQL(Server):
    """A PostgreSQL cluster with the superuser `rondel`, without a password."""

    @property
    def dsn(self) -> str:
        return f"postgresql://rondel@127.0.0.1:{self.port}/postgres"

    @staticmethod
    def programs() -> tuple[str, ...]:
        # On Debian these are not on PATH. The server must have the version of the `initdb` that
        # made the cluster.
        initdb = Path(found("initdb", "/usr/lib/postgresql/*/bin/initdb")).resolve()
        return str(initdb), str(initdb.with_name("postgres")), str(initdb.with_name("pg_isready"))

    def start(self) -> None:
        initdb, server, ready = self.programs()
        self.give_to("postgres")
        data = self.folder / "data"
        self.call(initdb, "-D", data, "-U", "rondel", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self.folder,
            "fsync": "off",
            "shared_buffers": "16MB",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        self.serve(server, "-D", data, *options)
        # It accepts connections before it is ready for clients.
        deadline = time.monotonic() + PATIENCE
        while subprocess.run([ready, "-q", "-h", "127.0.0.1", "-p", str(self.port)], check=False).returncode:
            if time.monotonic() > deadline:
                raise RuntimeError("PostgreSQL does not get ready")
            time.sleep(0.02)


class Redis(Server):
    """A Redis server that writes nothing to disk."""

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @staticmethod
    def programs() -> tuple[str, ...]:
        return (found("redis-server"),)

    def start(self) -> None:
        (server,) = self.programs()
        self.serve(server, "--bind", "127.0.0.1", "--port", self.port, "--save", "", "--appendonly", "no")


NGINX = """\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 512; }}
http {{
    access_log off;
    keepalive_requests 1000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port} backlog=512;
        {tls}
        root {folder}/site;
        location = /teapot {{ return 418 "short and stout"; }}
        location = /moved {{ return 302 /index.html; }}
        location = /slow/ {{ limit_rate 20k; }}
    }}
}}
"""


class Nginx(Server):
    """A site of `PAGES` pages with links to each other, over HTTP and, with a certificate, TLS."""

    PAGES = 200

    def __init__(self, chain: Path | None = None, key: Path | None = None) -> None:
        super().__init__()
        self.tls_port = free_port()
        self._chain, self._key = chain, key

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def tls_url(self) -> str:
        return f"https://localhost:{self.tls_port}"

    @staticmethod
    def programs() -> tuple[str, ...]:
        return (found("nginx", "/usr/sbin/nginx"),)

    def start(self) -> None:
        (server,) = self.programs()
        site = self.folder / "site"
        site.mkdir()
        for number in range(self.PAGES):
            links = "".join(
                f'<a href="/page{2 * number + step}.html">next</a>\n'
                for step in (1, 2)
                if 2 * number + step < self.PAGES
            )
            (site / f"page{number}.html").write_text(f"<html><title>{number}</title>\n{links}</html>\n")
        (site / "index.html").write_text('<html><a href="/page0.html">begin</a></html>\n')
        (site / "large.bin").write_bytes(bytes(range(256)) * 4096 * 4)
        tls = ""
        if self._chain is not None and self._key is not None:
            chain, key = (shutil.copy(path, self.folder) for path in (self._chain, self._key))
            tls = f"listen 127.0.0.1:{self.tls_port} ssl; ssl_certificate {chain}; ssl_certificate_key {key};"
        settings = NGINX.format(folder=self.folder, port=self.port, tls=tls)
        (self.folder / "nginx.conf").write_text(settings)
        if os.geteuid() == 0:
            # If nginx runs as root, its workers run as another user, who must be able to read the
            # pages.
            self.give_to("www-data")
        self.serve(server, "-p", self.folder, "-e", self.folder / "error.log", "-c", self.folder / "nginx.conf")

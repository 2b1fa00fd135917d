"""The options of `manage.py runlab`, and what the settings must know of them.

Standard library and psutil only: manage.py reads this before Django reads its settings.
"""

import argparse
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import psutil

#: What a server process has no use for: BLAS starts a thread for each core when it is imported,
#: and a process with threads must not fork.
ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "2"}


#: Agents come from other machines; the addresses that stand for "all" are nobody's name.
ALL_ADDRESSES = "0.0.0.0"  # noqa: S104
NO_NAMES = {ALL_ADDRESSES, "::"}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--host", default=ALL_ADDRESSES, help="address to listen on (default: all of them)"
    )
    parser.add_argument(
        "--port", type=int, default=8000, help="port to listen on (default: 8000; 0: any free one)"
    )
    parser.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="database, logs, keys and the runs' files (default: LAB_DATA_DIR, or ./data)",
    )
    parser.add_argument(
        "--public-url", metavar="URL", help="how people and agents reach it, e.g. behind a proxy"
    )
    parser.add_argument("--server", choices=["uvicorn", "daphne"], default="uvicorn")
    parser.add_argument("--agent", action="store_true", help="run an agent on this machine too")
    parser.add_argument(
        "--source",
        type=Path,
        metavar="DIR",
        help="where the jobs of that agent run (default: here)",
    )
    parser.add_argument(
        "--tls", choices=["self"], help="serve https with a certificate authority of its own"
    )
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="serve https with this one")
    parser.add_argument("--tls-key", type=Path, metavar="FILE")
    parser.add_argument("--dev", action="store_true", help="debug pages; starts anew on a change")


def into_environment(argv: Sequence[str]) -> None:
    """Tell the settings, which are read from the environment, what the command line says."""
    parser = argparse.ArgumentParser(add_help=False)
    add_options(parser)
    try:
        options, _ = parser.parse_known_args(list(argv))
    except SystemExit:  # the command itself parses again, and explains
        return
    os.environ.update(_environment(options))


def _environment(options: argparse.Namespace) -> dict[str, str]:
    data_dir = options.data_dir or Path(os.environ.get("LAB_DATA_DIR") or "data")
    public_url = options.public_url or os.environ.get("LAB_PUBLIC_URL", "")
    told = {
        **{name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()},
        "LAB_DATA_DIR": str(make_data_dir(data_dir.expanduser().absolute())),
        "LAB_PUBLIC_URL": public_url,
        "LAB_ALLOWED_HOSTS": ",".join(_allowed_hosts(options.host, public_url)),
    }
    if options.tls or options.tls_cert or public_url.startswith("https:"):
        told["LAB_HTTPS"] = "true"
    if options.tls:
        told["LAB_CA_FILE"] = str(Path(told["LAB_DATA_DIR"]) / "tls" / "ca.pem")
    if options.dev:
        told["LAB_DEBUG"] = "true"
    return told


def make_data_dir(path: Path) -> Path:
    """The data folder, made when missing and open to its owner only."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = path / f".writable.{os.getpid()}"
        probe.touch()
        probe.unlink()
        if path.stat().st_uid == os.getuid():
            path.chmod(0o700)
    except OSError as exc:
        sys.exit(
            f"The data folder {path} cannot be written to: {exc.strerror}.\n"
            "Choose another one with --data-dir, or have this one given to you."
        )
    return path


def _allowed_hosts(host: str, public_url: str) -> list[str]:
    """The names this server goes by: those said, the host's own, and its addresses."""
    said = os.environ.get("LAB_ALLOWED_HOSTS", "")
    names = [*said.split(","), urlsplit(public_url).hostname, host]
    names += ["localhost", socket.gethostname(), _full_name(), *local_addresses()]
    usable = [name for name in names if name and name not in NO_NAMES]
    return list(dict.fromkeys(usable))


def _full_name() -> str:
    """The host's name with its domain; asking may take the resolver seconds, so not for long."""
    with suppress(OSError, subprocess.SubprocessError):
        answer = subprocess.run(["hostname", "-f"], capture_output=True, text=True, timeout=0.5)
        return answer.stdout.strip()
    return ""


def local_addresses() -> list[str]:
    """This host's addresses as they stand in a URL."""
    found = []
    for addresses in psutil.net_if_addrs().values():
        for address in addresses:
            if address.family == socket.AF_INET:
                found.append(address.address)
            elif address.family == socket.AF_INET6:
                found.append(f"[{address.address.partition('%')[0]}]")
    return found

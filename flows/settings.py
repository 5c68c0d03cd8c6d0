"""Where the workspace is and how Prefect, DVC and MLflow are set up in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from k2core.machine.proxies import is_loopback, spare_all, spare_loopback
from k2core.tracking.address import lives

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "work" / "pages.json"
"""Written by `make ui` while it runs: its process id and the addresses of its servers."""
SETTINGS = {
    "PREFECT_HOME": str(ROOT / ".prefect"),
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": "nobody",
    "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
    "PREFECT_API_LOG_RETRYABLE_ERRORS": "true",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    # Without heartbeats a run whose process was killed would stay "Running" for ever (see flows/automations.py).
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    "DVC_NO_ANALYTICS": "1",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""Everything of Prefect's inside the project; set before Prefect is imported, never over the user's own."""


def apply_settings() -> None:
    """Make the workspace the current folder and set what Prefect reads when it is imported.

    A run reports to the server that `make ui` has started for this workspace, unless the user names another one. Ours,
    the temporary one of `flows.pipeline` included, answer nobody without the workspace's secret.
    """
    os.chdir(ROOT)
    for key, value in SETTINGS.items():
        os.environ.setdefault(key, value)
    folder = str(Path(sys.executable).parent)
    if folder not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join([folder, os.environ.get("PATH", "")])
    (ROOT / ".prefect").mkdir(mode=0o700, exist_ok=True)
    (ROOT / ".prefect").chmod(0o700)
    pages = running_pages()
    ours = f"{pages['prefect']}/api" if "prefect" in pages else ""
    if ours:
        os.environ.setdefault("PREFECT_API_URL", ours)
    if os.environ.get("PREFECT_API_URL", "") == ours and (ours or not _elsewhere()):
        from flows.access import prefect_login

        login = os.environ.setdefault("PREFECT_SERVER_API_AUTH_STRING", prefect_login())
        os.environ["PREFECT_API_AUTH_STRING"] = login
    spare_loopback()
    if is_loopback(os.environ.get("PREFECT_API_URL", "http://127.0.0.1")):  # or the temporary server
        spare_all()


def _elsewhere() -> bool:
    """Whether a file of the user's names a Prefect server: it must not be sent the secret of ours."""
    home = Path(os.environ["PREFECT_HOME"])
    profiles = Path(os.environ.get("PREFECT_PROFILES_PATH") or home / "profiles.toml")
    if not any(path.exists() for path in (profiles, ROOT / ".env", ROOT / "prefect.toml")):
        return False
    ask = "from prefect.settings import PREFECT_API_URL; raise SystemExit(7 if PREFECT_API_URL.value() else 0)"
    return subprocess.run([sys.executable, "-c", ask], check=False).returncode == 7


def running_pages() -> dict[str, str]:
    """The `make ui` that serves this workspace: `pid`, `prefect`, `mlflow` (addresses); empty if there is none.

    Without addresses it is still starting.
    """
    try:
        pages: dict[str, str] = json.loads(PAGES.read_text())
        return pages if lives(int(pages["pid"]), float(pages["born"])) else {}
    except (FileNotFoundError, ValueError, KeyError):
        return {}

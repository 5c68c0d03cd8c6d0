"""Known faults of the locked packages, from the OSV database. Without a network nothing is known, and that is said.

Exit status: 0 no fault, or not asked for want of a network; 1 a fault is known, or the audit itself went wrong.
"""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATABASE = "https://api.osv.dev"
LOCKS = ("requirements.txt", "requirements-data.txt", "requirements-uv.txt")
PATIENCE_S = 15


def reachable() -> str:
    """Why the database gives no answer; empty if it does."""
    try:
        urllib.request.urlopen(DATABASE, timeout=PATIENCE_S).close()
    except urllib.error.HTTPError:  # an answer, if an unkind one: the root is no page
        return ""
    except OSError as error:
        return str(getattr(error, "reason", error))
    return ""


def main() -> int:
    if fault := reachable():
        print(f"AUDIT SKIPPED: {DATABASE} cannot be reached ({fault}); run `make audit` where there is a network")
        return 0
    locks = [argument for lock in LOCKS for argument in ("-r", str(ROOT / lock))]
    command = [sys.executable, "-m", "pip_audit", "--vulnerability-service", "osv", "--require-hashes", "--disable-pip"]
    return subprocess.run([*command, *locks], env=os.environ | {"PIP_AUDIT_PROGRESS_SPINNER": "off"}).returncode


if __name__ == "__main__":
    sys.exit(main())

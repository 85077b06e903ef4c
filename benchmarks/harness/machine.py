"""Names the machine the figures belong to, and prepares it: cores and descriptors."""

import os
import platform
import re
import resource
from pathlib import Path


def describe() -> dict[str, str]:
    """CPU model, kernel and the like, for the head of every report."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    model = re.search(r"model name\s*: (.+)", text)
    return {
        "cpu": model[1] if model else platform.machine(),
        "cores": str(os.cpu_count()),
        "kernel": f"{platform.system()} {platform.release()}",
        "load": " ".join(f"{average:.2f}" for average in os.getloadavg()),
    }


def cores() -> tuple[int | None, int | None]:
    """A core for the measured process and another one for the load generator; None where there are not two."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        return None, None
    return allowed[0], allowed[1]


def raise_descriptor_limit(wanted: int) -> None:
    """Allows `wanted` descriptors to this process and its children, or as many as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), max(hard, wanted)))
    except (ValueError, PermissionError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

"""`make wheels`: builds the source archive and a wheel for every interpreter found, into dist/.

With zig (the package ziglang) the wheels are linked against glibc 2.17, the oldest that Rust
supports. Without it they need this machine's glibc, and maturin tags them so. Wheels for musl
(Alpine) are built as well if Rust has the target. Then auditwheel checks the tag of each wheel, and
each interpreter installs the wheel that pip chooses into a fresh environment and uses it. Wheels
that could not be built or tried are reported.
"""

import argparse
import importlib.util
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import interpreters
from trying import ROOT, wheel_for

GLIBC = "manylinux_2_17"
MUSL = "musllinux_1_2"


def main() -> int:
    parser = argparse.ArgumentParser(description="Builds wheels and the source archive.")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="default: %(default)s")
    parser.add_argument("--target-dir", type=Path, default=ROOT / "target" / "wheels", help="default: %(default)s")
    parser.add_argument("--versions", help="with commas, e.g. 3.13,3.14 (default: every one found)")
    parser.add_argument("--no-musl", action="store_true", help="leave out the wheels for musl")
    parser.add_argument(
        "--try-with",
        type=Path,
        action="append",
        default=[],
        metavar="PYTHON",
        help="one more interpreter to try the wheels with, such as one of musl's; may be repeated",
    )
    options = parser.parse_args()

    skipped = []
    found = interpreters.found()
    skipped += [f"Python {version}: not found" for version in interpreters.VERSIONS if version not in found]
    if options.versions:
        skipped += [
            f"Python {version}: not asked for" for version in found if version not in options.versions.split(",")
        ]
        found = {version: path for version, path in found.items() if version in options.versions.split(",")}
    common = ["--release", "--locked", "--target-dir", str(options.target_dir), "--out", str(options.out)]
    maturin = [sys.executable, "-m", "maturin"]
    _run(*maturin, "sdist", "--out", str(options.out))
    has_zig = importlib.util.find_spec("ziglang") is not None
    linking = ["--zig", "--compatibility", GLIBC] if has_zig else []
    for path in found.values():
        _run(*maturin, "build", *common, *linking, "--interpreter", str(path))

    target = f"{platform.machine()}-unknown-linux-musl"
    if options.no_musl:
        skipped.append("wheels for musl: not asked for")
    elif not has_zig or not _has_target(target):
        skipped.append(f"wheels for musl: they need ziglang, and `rustup target add {target}`")
    else:
        for version in found:
            musl = ["--zig", "--compatibility", MUSL, "--target", target, "--interpreter", f"python{version}"]
            try:
                _run(*maturin, "build", *common, *musl)
            except subprocess.CalledProcessError:
                skipped.append(f"wheel for musl and Python {version}: it does not build")

    wrong = [
        f"{wheel.name} is not what its name says"
        for wheel in sorted(options.out.glob("*.whl"))
        if not _deserves_its_tag(wheel)
    ]
    untried = {*options.out.glob("*.whl")}
    for python in (*found.values(), *options.try_with):
        wheel = wheel_for(python, options.out)
        print(f"{python}: {wheel.name} works" if wheel else f"{python}: no wheel fits", flush=True)
        if wheel is None:
            wrong.append(f"{python} has no wheel")
        untried.discard(wheel)
    skipped += [f"{wheel.name} was not tried: no interpreter for it is here" for wheel in sorted(untried)]
    for what in skipped:
        print(f"SKIPPED: {what}")
    for what in wrong:
        print(f"WRONG: {what}", file=sys.stderr)
    return 1 if wrong else 0


def _run(*command: str) -> None:
    print("$", *command, flush=True)
    # maturin looks for ziglang in the first `python3` on PATH, which must be the running
    # interpreter.
    first = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    subprocess.run(command, cwd=ROOT, env={**os.environ, "PATH": first}, check=True)


def _has_target(target: str) -> bool:
    sysroot = subprocess.run(
        ["rustc", "--print", "sysroot"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    return (Path(sysroot) / "lib" / "rustlib" / target).exists()


def _deserves_its_tag(wheel: Path) -> bool:
    asked = subprocess.run(
        [sys.executable, "-m", "auditwheel", "show", str(wheel)], capture_output=True, text=True, check=False
    )
    text = " ".join(asked.stdout.split())
    if "musllinux" in wheel.name:
        # On a machine with glibc auditwheel doesn't know musl's library. The wheel must need no
        # other library.
        libraries = set(re.findall(r'"([^"]+)": ', text.partition("required by the wheel:")[2]))
        print(f"{wheel.name}: needs {', '.join(libraries) or 'nothing'}")
        return libraries <= {"libc.so"} and "references no external versioned symbols" in text
    found = re.search(r'following platform tag: "(\w+)"', text)
    tag = found[1] if found else "unknown"
    print(f"{wheel.name}: {tag}")
    return tag in wheel.name


if __name__ == "__main__":
    sys.exit(main())

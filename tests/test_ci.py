"""What a change must pass: a browser is installed where that is possible, and missed in words where it is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
#: Programs of the system that the script itself uses.
_USED = ("bash", "env", "id", "timeout", "cp", "chmod", "cat")
_INSTALLS = """#!/usr/bin/env bash
echo "$@" >> "$LOG"
for word in "$@"; do [ "$word" = "$FAILS" ] && exit 100; done
case " $* " in *" install "*) cp /bin/true "$BIN/chromium";; esac
exit 0
"""


def browser(folder: Path, *, apt: bool = True, fails: str = "", chromium: bool = False) -> tuple[int, str, str]:
    """``.ci/browser`` on a machine with these programs: its code, what it says, and how apt-get was called."""
    programs = folder / "bin"
    programs.mkdir()
    for name in _USED:
        found = next(path for path in (Path(f"/usr/bin/{name}"), Path(f"/bin/{name}")) if path.exists())
        (programs / name).symlink_to(found)
    (programs / "sudo").write_text('#!/usr/bin/env bash\nshift\nexec "$@"\n')
    if apt:
        (programs / "apt-get").write_text(_INSTALLS)
    if chromium:
        (programs / "chromium").write_text("#!/usr/bin/env bash\n")
    for program in programs.iterdir():
        if not program.is_symlink():
            program.chmod(0o755)
    log = folder / "apt.log"
    environment = {"PATH": str(programs), "BIN": str(programs), "LOG": str(log), "FAILS": fails}
    run = subprocess.run([ROOT / ".ci" / "browser"], env=environment, capture_output=True, text=True, check=False)
    return run.returncode, run.stderr, log.read_text() if log.exists() else ""


def test_a_browser_that_is_there_is_enough(tmp_path: Path) -> None:
    assert browser(tmp_path, chromium=True) == (0, "", "")


def test_debians_browser_is_installed(tmp_path: Path) -> None:
    code, said, calls = browser(tmp_path)
    assert (code, said) == (0, "")
    update, install = calls.splitlines()
    assert "update" in update.split()
    assert install.endswith("install -q -y --no-install-recommends chromium")


@pytest.mark.parametrize(
    ("machine", "reason"),
    [({"apt": False}, "no Debian"), ({"fails": "update"}, "no network?"), ({"fails": "install"}, "install chromium")],
)
def test_where_none_can_be_had_it_says_so_and_tests_skip(
    tmp_path: Path, machine: dict[str, object], reason: str
) -> None:
    code, said, _ = browser(tmp_path, **machine)  # type: ignore[arg-type]
    assert code == 1
    assert reason in said
    assert "Tests that need a browser are skipped" in said


def test_what_must_pass_requires_the_browser_that_it_has() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert script.index("make check") < script.index("if .ci/browser; then export QRBATCH_REQUIRE_CHROMIUM=1")
    assert script.rstrip().endswith("make test")


@pytest.mark.parametrize(("required", "skipped"), [("1", "False"), ("", "True")])
def test_without_a_browser_tests_skip_unless_it_is_required(tmp_path: Path, required: str, skipped: str) -> None:
    code = "from tests.pipelines.chromium import needs_browser; print(needs_browser.mark.args[0])"
    environment = {"PATH": str(tmp_path), "QRBATCH_REQUIRE_CHROMIUM": required}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert run.stdout.strip() == skipped, run.stderr

"""A copy of bench/gpu.sh with everything that needs a GPU replaced (see Script)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

from gpu import builds, ledger

BENCH = Path(__file__).parents[2] / "bench"

FACTS = {
    "gpu": {"name": "A GPU", "capability": "9.0"},
    "torch": "2.11.0",
    "nvcc": None,
    "python_version": "3.12.3",
    "commit": {"id": "0" * 40},
    "datetime": "2026-12-01T10:00:00+00:00",
}
ENTRY = {
    "name": "bench_margin[native-1000-float32]",
    "stats": {"median": 1e-3},
    "extra_info": {"limit": "copy", "bytes": 1, "peers": {}},
}

# Stands in for python3: each of its uses does what a file of the test says, or succeeds. What needs neither torch nor a GPU
# runs in earnest, the compilation with a setup.py of the test's.
FAKE = """\
#!/usr/bin/env bash
use() {{ [ ! -f "{folder}/$1" ] || . "{folder}/$1"; }}
suite() {{
  use "$DYNAMS_GPU_SUITE"
  sed "s/SUITE/$DYNAMS_GPU_SUITE/" "{folder}/ledger.jsonl" >> "$DYNAMS_GPU_LEDGER"
}}
echo "$*" >> "{folder}/calls"
case "$*" in
  *environment.py*) use environment; cat "{folder}/facts.json" ;;
  *"builds.py usable"*) use check ;;
  *results.py* | *builds.py*) exec "{python}" "$@" ;;
  *"import json, sys"*) echo 90 ;;
  *"import xdist"*) exit 1 ;;
  *"-m pytest"*) echo "pytest of $DYNAMS_GPU_SUITE"; suite ;;
  *sanitized.py*) echo cases; suite ;;
  *profiled.py*) use profile ;;
  *trained.py*) echo trained; suite ;;
  *record.py*) echo told; suite ;;
  *"dynams.cli compare"*) use comparing "$@" ;;
esac
exit 0
"""
SANITIZER = """\
#!/usr/bin/env bash
while [ "$1" != application-only ]; do [ "$1" = --tool ] && tool=$2; shift; done
shift
"$@" || exit
echo "========= ERROR SUMMARY: 0 errors by $tool"
[ ! -f "{folder}/$tool" ] || . "{folder}/$tool"
"""
NCU = """\
#!/usr/bin/env bash
echo "    Section: GPU Speed Of Light Throughput"
[ ! -f "{folder}/ncu-does" ] || . "{folder}/ncu-does"
"""
SETUP = """\
import os, sys, sysconfig
from pathlib import Path

package = Path(sys.argv[-1]) / "dynams_kernels"
package.mkdir(parents=True, exist_ok=True)
for name, switch in (("_cpu", "CPU"), ("_cuda", "CUDA")):
    if os.environ["DYNAMS_BUILD_" + switch] == "required":
        (package / (name + sysconfig.get_config_var("EXT_SUFFIX"))).write_text("compiled")
"""
# In the case of SETUP: how a compiler fails, or hangs, on CUDA's part.
FATAL = (
    "import os\nif os.environ['DYNAMS_BUILD_CUDA'] == 'required': raise SystemExit('nvcc: fatal')\n"
)
HANGS = "import time\ntime.sleep(60)\n"

# The stages of each plan.
FIRST = ["environment", "build", "cases", "tests, native", "benchmarks", "profile"]
FULL = ["environment", "build", "tests, native", "tests, triton", "benchmarks", "memcheck"]


class Script:
    """A copy of the script in a folder of its own, its surroundings faked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repo = folder / "repo"
        self.fakes = folder / "fakes"
        self.out = folder / "out"
        self.data: Path | None = None
        self.fakes.mkdir()
        bench = self.repo / "bench"
        shutil.copytree(BENCH / "gpu", bench / "gpu", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("gpu.sh", "units.py"):
            shutil.copy(BENCH / name, bench / name)
        for package in builds.PACKAGES.values():
            (self.repo / package).mkdir(parents=True)
            (self.repo / package / "__init__.py").write_text(f"# {package}")
        (self.repo / "csrc").mkdir()
        tests = self.repo / "tests" / "kernels"
        tests.mkdir(parents=True)
        for name in ("cuda_values", "cuda_linear", "smallest_k", "memory"):
            (tests / f"test_{name}.py").touch()
        (self.repo / "setup.py").write_text(SETUP)
        self.fake("facts.json", json.dumps(FACTS))
        done = [{"collected": 1}, {"begin": "x"}, {"end": "x", "outcome": "passed", "entry": ENTRY}]
        self.fake_ledger(*done, {"finished": True})
        self.executable("python3", FAKE)
        self.executable("compute-sanitizer", SANITIZER)
        self.executable("ncu", NCU)
        self.executable("nvidia-smi", "#!/usr/bin/env bash\n")

    def fake(self, name: str, text: str) -> None:
        (self.fakes / name).write_text(textwrap.dedent(text))

    def fake_ledger(self, *lines: dict[str, object]) -> None:
        """What every suite leaves in the ledger."""
        self.fake(
            "ledger.jsonl", "".join(f"{json.dumps({'suite': 'SUITE', **e})}\n" for e in lines)
        )

    def executable(self, name: str, text: str) -> None:
        path = self.fakes / name
        path.write_text(text.format(folder=self.fakes, python=sys.executable))
        path.chmod(0o755)

    def begin(self, *arguments: str, seconds: int | None = None) -> subprocess.Popen[str]:
        environment = {**os.environ, "PATH": f"{self.fakes}:{os.environ['PATH']}"}
        for name in ("PYTHON", "DYNAMS_CIFAR10", "DYNAMS_GPU_SECONDS", ledger.FILE):
            environment.pop(name, None)
        if seconds is not None:
            environment["DYNAMS_GPU_SECONDS"] = str(seconds)
        if self.data is not None:
            environment["DYNAMS_CIFAR10"] = str(self.data)
        return subprocess.Popen(
            ["bash", str(self.repo / "bench" / "gpu.sh"), str(self.out), *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, seconds: int | None = None) -> Ran:
        return Ran.of(self.begin(*arguments, seconds=seconds))

    def stages(self) -> dict[str, str]:
        stages = json.loads((self.out / "kernels.json").read_text())["run"]["stages"]
        return {stage["stage"]: stage["outcome"] for stage in stages}

    def notes(self) -> dict[str, str]:
        stages = json.loads((self.out / "kernels.json").read_text())["run"]["stages"]
        return {stage["stage"]: stage["note"] for stage in stages}

    def calls(self, about: str) -> list[str]:
        lines = (self.fakes / "calls").read_text().splitlines()
        return [line for line in lines if about in line]


@dataclass
class Ran:
    returncode: int
    stdout: str
    stderr: str

    @classmethod
    def of(cls, process: subprocess.Popen[str]) -> Ran:
        stdout, stderr = process.communicate(timeout=120)
        return cls(process.returncode, stdout, stderr)

    @property
    def last_line(self) -> str:
        return self.stdout.strip().splitlines()[-1]

#!/usr/bin/env bash
# Compiles the package's modules for a machine with a GPU, on one without, so that bench/gpu.sh need not:
#
#   bash bench/gpu/prebuild.sh [PYTHON] [ARCHITECTURES]      python3.12 and 90 (an H100 or H200) unless named
#
# Needs nvcc, a C++ compiler, a PYTHON of the version used there and CUTLASS's headers: those of DYNAMS_CUTLASS, else they are
# downloaded, with what else the build requires. The modules go to build/gpu/prebuilt, a few megabytes that git
# ignores: bring that folder along. bench/gpu.sh takes it where it fits the Python, the GPU and the source, and says so.
set -euo pipefail
wanted=${1:-python3.12} architectures=${2:-90}
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
state=$repo/build/gpu
out=$state/prebuilt
# pyenv's shims stand on the PATH also where the version is not the one in use.
python=""
for candidate in "$wanted" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/*/bin/"$wanted"; do
  if "$candidate" -c '' 2> /dev/null; then python=$candidate && break; fi
done
[ -n "$python" ] || { echo "prebuild.sh: no $wanted can be run" >&2; exit 2; }
mkdir -p "$state"

# The build's own requirements, in an environment of their own.
if ! "$state/venv/bin/python" -c 'import setuptools, pybind11, ninja' 2> /dev/null ||
  [ "$("$state/venv/bin/python" -V)" != "$("$python" -V)" ]; then
  rm -rf "$state/venv"
  "$python" -m venv "$state/venv"
  "$state/venv/bin/python" -m pip install -q -c "$repo/constraints.txt" "setuptools>=77" pybind11 ninja
fi
# CUTLASS's headers alone: building with them needs nothing that its package requires. Named, they must be there.
if [ -z "${DYNAMS_CUTLASS:-}" ]; then
  package=$(cd "$repo/build_backend" && "$state/venv/bin/python" -B -c 'import cuda_requirements as c; print(c.CUTLASS_PACKAGE)')
  if [ ! -d "$state/$package" ]; then
    "$state/venv/bin/python" -m pip install -q --no-deps --target "$state/$package.part" "$package"
    mv "$state/$package.part" "$state/$package"
  fi
  export DYNAMS_CUTLASS=$state/$package/cutlass_library/source
fi
"$state/venv/bin/python" "$repo/bench/gpu/builds.py" make "$out" "$architectures"

# Neither module needs torch, a driver or a GPU to load.
"$state/venv/bin/python" - "$out/dynams_kernels" << 'END'
import importlib.util, pathlib, sys
for name in ("_cpu", "_cuda"):
    [path] = pathlib.Path(sys.argv[1]).glob(f"{name}.*")
    spec = importlib.util.spec_from_file_location(f"dynams_kernels.{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    print(name, "loads,", getattr(module, "ARCHITECTURES", ""))
print("Hopper's kernels:", module.HOPPER or "built in")
END
du -sh "$out"

#!/usr/bin/env bash
# Verifies and measures the GPU kernels, unattended, in under nine minutes:
#
#   bash bench/gpu.sh OUTPUT_FOLDER [--stage build|tests|sanitizers|benchmarks|compare]...
#
# Needs a CUDA GPU and a python3 (or $PYTHON) with torch, triton, pytest, pytest-benchmark, hypothesis and numpy; with
# setuptools, pybind11, ninja and nvcc it builds the compiled kernels, else it says so and measures Triton alone; pytest-xdist
# makes the tests fast enough to end in their time. Nothing is downloaded, nothing is installed outside build/gpu.
#
# stage         limit, s   leaves in OUTPUT_FOLDER
# environment         45   environment.json   GPU, driver, clocks, versions, commit ($DYNAMS_COMMIT where there is no git)
# build              110   build.log          registers and spills of every compiled kernel at its end
# tests         130 + 60   tests.log, junit.xml   pytest -m gpu with the compiled kernels, then with Triton's; what only a GPU
#                          can show first, then the contract tests that also run on the CPU
# sanitizers     30 + 70   sanitizers.log     small shapes with results compared; then memcheck, racecheck, initcheck and
#                          synccheck, all at once
# benchmarks    the rest   benchmarks.log, kernels.json (pytest-benchmark; kernels.jsonl while it runs); 80 s at worst, what
#                          the targets rest on first
# compare       what is left   compare.log, compare/: the next missing cells of `dynams compare cifar10`, where $DYNAMS_CIFAR10
#                          names the folder of the data and what training needs is installed. Committed cells count as done;
#                          a cell under way goes on in the next run on this machine
# Together at most 530 s. kernels.md, the report, is written anew after every stage, so a run cut off leaves what it had; what
# one stage leaves of its time goes to the benchmarks. With --stage only those run, on the build of an earlier run. What an
# earlier run left in OUTPUT_FOLDER is replaced.
#
# Exit code: 0 where every stage that ran was good, 1 where one failed or was cut off, 2 where there is no GPU or the arguments
# are wrong. A target missed is not a failure.
set -uo pipefail

readonly TOTAL=${DYNAMS_GPU_SECONDS:-525}
readonly ENVIRONMENT_LIMIT=45 BUILD_LIMIT=110 WARM_LIMIT=30 SANITIZERS_LIMIT=70 LEAST_COMPARE=60
python=${PYTHON:-python3}
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out="" stages="" failed=""

usage() {
  echo "usage: bash bench/gpu.sh OUTPUT_FOLDER [--stage build|tests|sanitizers|benchmarks|compare]..." >&2
  exit 2
}
while [ $# -gt 0 ]; do
  case $1 in
    --stage)
      [ $# -ge 2 ] || usage
      case $2 in build | tests | sanitizers | benchmarks | compare) stages="$stages $2" ;; *) usage ;; esac
      shift 2
      ;;
    -*) usage ;;
    *)
      [ -z "$out" ] || usage
      out=$1
      shift
      ;;
  esac
done
[ -n "$out" ] || usage
stages=${stages:-build tests sanitizers benchmarks compare}
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 2

if [ -n "${DYNAMS_CIFAR10:-}" ]; then DYNAMS_CIFAR10=$(cd "$DYNAMS_CIFAR10" && pwd) || exit 2; fi

state=$repo/build/gpu
site=$state/site
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'echo "gpu.sh: FAILED: stopped from outside ($SECONDS s)"; exit 1' INT TERM HUP
# Python looks for modules in the folder it is started in: an empty one, or the source tree would hide the package installed.
mkdir -p "$state" "$work/empty" && cd "$work/empty" || exit 2
export TRITON_CACHE_DIR=$state/triton TORCHINDUCTOR_CACHE_DIR=$state/inductor PYTHONUNBUFFERED=1

say() { printf '==== %4d s  %s\n' "$SECONDS" "$*"; }
wants() { case " $stages " in *" $1 "*) return 0 ;; *) return 1 ;; esac; }

# limited SECONDS command...: at most so long, and never past the whole run's end; 124 or 137 where it was cut off.
# STOP_WITH=INT lets pytest write what it has.
limited() {
  local most=$1 left=$((TOTAL - SECONDS))
  shift
  [ "$left" -lt "$most" ] && most=$left
  [ "$most" -ge 1 ] || return 124
  timeout --signal="${STOP_WITH:-TERM}" --kill-after=5 "$most" "$@"
}

# outcome STAGE CODE BEGIN [NOTE]: the stage's line in the report, and the report so far.
outcome() {
  local word=ok
  case $2 in 0) ;; skipped) word=skipped ;; 124 | 137) word="cut off" ;; *) word=failed ;; esac
  case $word in ok | skipped) ;; *) failed="$failed; $1 $word" ;; esac
  printf '{"stage": "%s", "outcome": "%s", "seconds": %d, "note": "%s"}\n' \
    "$1" "$word" $((SECONDS - $3)) "${4:-}" >> "$out/kernels.jsonl"
  say "$1: $word${4:+ ($4)}"
  "$python" "$repo/bench/gpu/results.py" page "$out" || failed="$failed; no report of $1"
}

environment() {
  limited "$ENVIRONMENT_LIMIT" "$python" "$repo/bench/gpu/environment.py" > "$work/environment.json" 2> "$work/environment.log"
  local code=$?
  if [ $code -ne 0 ]; then
    # One line, the last of what was said: importing torch may warn before it.
    local told
    told=$(tail -n 1 "$work/environment.log")
    echo "${told:-gpu.sh: the environment could not be read (exit code $code)}" >&2
    exit 2
  fi
  rm -f "$out"/{kernels.json,kernels.jsonl,kernels.md,junit.xml,environment.json}
  rm -f "$out"/{build,tests,sanitizers,benchmarks,compare}.log
  mv "$work/environment.json" "$out/environment.json"
  outcome environment 0 0
}

pip_install() {
  rm -rf "$site"
  limited "$BUILD_LIMIT" env DYNAMS_BUILD_CUDA="$1" DYNAMS_CUDA_ARCHITECTURES="$architecture" \
    "$python" -m pip install -v --no-deps --no-build-isolation --no-index --no-cache-dir \
    --disable-pip-version-check --target "$site" "$repo"
}

build() {
  local begin=$SECONDS code=0 note=""
  # Only for the GPU at hand: the others' code takes the compiler as long again, each.
  local architecture
  architecture=$("$python" -c 'import json, sys; print(json.load(open(sys.argv[1]))["gpu"]["capability"].replace(".", ""))' \
    "$out/environment.json")
  echo "$site" > "$state/path"
  pip_install required > "$out/build.log" 2>&1 || code=$?
  if [ $code -eq 0 ]; then
    cat "$repo"/build/native-*/dynams_kernels._cuda/*.log >> "$out/build.log" 2> /dev/null
  else
    note="NO COMPILED CUDA KERNELS: Triton alone is tested and measured, see build.log"
    say "$note"
    if ! pip_install off >> "$out/build.log" 2>&1; then
      note="$note; not installed either, the source tree is used"
      printf '%s\n' "$repo:$repo/python" > "$state/path"
    fi
  fi
  use_build
  "$python" -c 'import dynams_kernels as dk; print(dk.__file__); print(dk.backends())' >> "$out/build.log" 2>&1 || code=1
  "$python" "$repo/bench/gpu/results.py" trim "$out/build.log"
  outcome build $code "$begin" "$note"
}

use_build() { export PYTHONPATH=$(cat "$state/path"):$repo/bench; }

tests() {
  local backend begin code limit note xdist=() files=() file
  for file in "$repo"/tests/kernels/test_cuda*.py "$repo"/tests/kernels/test_*.py; do
    case " ${files[*]-} " in *" $file "*) ;; *) files+=("$file") ;; esac
  done
  if "$python" -c 'import xdist' 2> /dev/null; then
    # The time goes to compiling Triton's kernels, on the host. Each process holds half a gigabyte of the GPU.
    local processes
    processes=$(nproc)
    xdist=(-n $((processes < 14 ? processes : 14)) --max-worker-restart=24)
  fi
  for backend in native triton; do
    begin=$SECONDS code=0 note="" limit=130
    [ $backend = triton ] && limit=60
    STOP_WITH=INT DYNAMS_KERNELS_BACKEND=$backend HYPOTHESIS_PROFILE=gpu limited "$limit" "$python" -m pytest -c "$repo/pyproject.toml" --rootdir "$repo" \
      "${files[@]}" -m gpu -v --tb=short -p no:cacheprovider -p no:benchmark -p gpu.device_guard \
      ${xdist[@]+"${xdist[@]}"} --junitxml "$work/$backend.xml" >> "$out/tests.log" 2>&1 || code=$?
    if [ -s "$work/$backend.xml" ]; then
      "$python" "$repo/bench/gpu/results.py" tests "$out" "$backend" "$work/$backend.xml" || code=1
    fi
    [ $code -eq 5 ] && note="no test was found"
    # Linear margins are Triton's with either backend: tested once.
    case $code in
      0 | 1) for file in "${!files[@]}"; do case ${files[$file]} in *linear*) unset "files[$file]" ;; esac done ;;
    esac
    outcome "tests, $backend" $code "$begin" "$note"
  done
  "$python" "$repo/bench/gpu/results.py" trim "$out/tests.log"
}

sanitizers() {
  local begin=$SECONDS tool code sanitizer
  sanitizer=$(command -v compute-sanitizer || command -v /usr/local/cuda/bin/compute-sanitizer)
  # Without a tool first: the results are compared, and Triton's kernels are compiled once for all four.
  limited "$WARM_LIMIT" "$python" "$repo/bench/gpu/sanitized.py" > "$out/sanitizers.log" 2>&1
  outcome "sanitizers' cases" $? "$begin"
  begin=$SECONDS
  if [ -z "$sanitizer" ]; then
    outcome sanitizers skipped "$begin" "compute-sanitizer is not installed"
    return
  fi
  for tool in memcheck racecheck initcheck synccheck; do
    (
      PYTORCH_NO_CUDA_MEMORY_CACHING=1 limited "$SANITIZERS_LIMIT" "$sanitizer" --tool "$tool" --error-exitcode 9 \
        --target-processes application-only "$python" "$repo/bench/gpu/sanitized.py" --unchecked > "$work/$tool.log" 2>&1
      echo $? > "$work/$tool.code"
    ) &
  done
  wait
  for tool in memcheck racecheck initcheck synccheck; do
    code=$(cat "$work/$tool.code" 2> /dev/null || echo 1)
    printf '\n==== %s\n' "$tool" >> "$out/sanitizers.log"
    cat "$work/$tool.log" >> "$out/sanitizers.log"
    outcome "$tool" "$code" "$begin" "$(grep -a 'ERROR SUMMARY\|RACECHECK SUMMARY' "$work/$tool.log" | tail -n 1 | tr -d '"\\=')"
  done
  "$python" "$repo/bench/gpu/results.py" trim "$out/sanitizers.log"
}

benchmarks() {
  local begin=$SECONDS code=1 attempt finished="" left
  export DYNAMS_BENCH_LEDGER=$out/kernels.jsonl
  # Those begun last still need their time, and the report its own.
  DYNAMS_BENCH_DEADLINE=$(($(date +%s) + TOTAL - SECONDS - 20))
  export DYNAMS_BENCH_DEADLINE
  # A kernel that hangs or poisons the device ends the process; the next one goes on behind it.
  for attempt in 1 2 3 4 5 6; do
    left=$((TOTAL - SECONDS - 5))
    [ "$left" -ge 10 ] || break
    code=0
    limited "$left" "$python" -m pytest -c "$repo/pyproject.toml" --rootdir "$repo" "$repo/bench/gpu" -q --tb=short \
      -p no:cacheprovider -p no:xdist -p gpu.device_guard >> "$out/benchmarks.log" 2>&1 || code=$?
    grep -q '"finished": true' "$out/kernels.jsonl" && finished=yes && break
    say "benchmarks: process $attempt ended with code $code, going on behind the benchmark it was at"
  done
  if [ -z "$finished" ]; then
    [ "$code" -ne 0 ] || code=1
  elif [ "$attempt" -gt 1 ]; then
    code=1
  fi
  nvidia-smi --query-gpu=clocks.sm,clocks.mem,temperature.gpu,power.draw --format=csv >> "$out/benchmarks.log" 2>&1
  "$python" "$repo/bench/gpu/results.py" trim "$out/benchmarks.log"
  outcome benchmarks "$code" "$begin"
}

compare() {
  local begin=$SECONDS code=0 left=$((TOTAL - SECONDS - 15)) folder=$state/compare cell
  if [ -z "${DYNAMS_CIFAR10:-}" ]; then
    outcome compare skipped "$begin" "DYNAMS_CIFAR10 names no folder"
    return
  fi
  if [ "$left" -lt "$LEAST_COMPARE" ]; then
    outcome compare skipped "$begin" "$((left > 0 ? left : 0)) s left"
    return
  fi
  mkdir -p "$folder/cells"
  for cell in "$repo"/bench/results/*/compare-cifar10/cells/*.json; do
    if [ -e "$cell" ]; then cp -n "$cell" "$folder/cells/"; fi
  done
  limited $((left + 10)) "$python" -m dynams.cli compare cifar10 --data.path "$DYNAMS_CIFAR10" --out "$folder" \
    --limit-seconds "$left" > "$out/compare.log" 2>&1 || code=$?
  mkdir -p "$out/compare"
  # Not the checkpoints of what is under way: hundreds of megabytes.
  cp -r "$folder"/{cells,plan.yaml,compare.md,compare.html} "$out/compare/" 2> /dev/null
  "$python" "$repo/bench/gpu/results.py" trim "$out/compare.log"
  outcome compare "$code" "$begin" "$(tail -n 1 "$out/compare.log" | tr -d '"\\' | cut -c 1-200)"
}

environment
if wants build || [ ! -s "$state/path" ]; then build; else use_build; fi
wants tests && tests
wants sanitizers && sanitizers
wants benchmarks && benchmarks
wants compare && compare
"$python" "$repo/bench/gpu/results.py" finish "$out" || failed="$failed; no report"
if [ -n "$failed" ]; then
  echo "gpu.sh: FAILED${failed/;/:} ($SECONDS s, $out/kernels.md)"
  exit 1
fi
echo "gpu.sh: ok ($SECONDS s, $out/kernels.md)"

#!/usr/bin/env bash
# Verifies and measures the GPU kernels, unattended, on a machine lent for a quarter of an hour:
#
#   bash bench/gpu.sh OUTPUT_FOLDER --plan first      at most 280 s: are they right, how far from the targets, which kernel for which head
#   bash bench/gpu.sh OUTPUT_FOLDER [--plan full]     at most 350 s: the rest as far as it comes, when what the first run showed is mended
#   bash bench/gpu.sh OUTPUT_FOLDER --plan compare    at most 525 s: missing cells of `dynams compare cifar10`
#   bash bench/gpu.sh OUTPUT_FOLDER --plan record     at most 420 s: missing cells of `dynams compare sprint-96`
#   ... [--stage STAGE]... [--suspect NAME]...        those stages of the plan alone; what memcheck is to look at
#
# Needs a CUDA GPU and a python3 (or $PYTHON) with torch, triton, numpy, pytest, pytest-benchmark and hypothesis. The compiled
# kernels are those of build/gpu/prebuilt (see gpu/prebuild.sh) where they fit this Python, GPU and source; else they are built,
# with nvcc, setuptools, pybind11 and ninja; else Triton alone is measured, and that is said. pytest-xdist makes the tests fast
# enough to end in their time; training needs lightning-fabric, pyyaml and, for CIFAR-10, pyarrow and pillow. Nothing is
# downloaded, nothing is written outside build/ and OUTPUT_FOLDER.
#
# plan    stage          at most, s  what it does                                                        leaves
# every   environment    120         GPU, driver, clocks, versions, commit ($DYNAMS_COMMIT without git)
# every   build          70          takes or makes the compiled kernels                                 build.log
# first   cases          50          every path of every backend, compared with plain torch              cases.log
# first   tests          85          what only a GPU can show, and selection, with the compiled kernels  tests.log
# first   benchmarks     the rest    what targets rest on, and each kernel for linear heads (40 to 70 s)  benchmarks.log
# first   profile        35          Nsight Compute on the selection and the linear kernels              profile.log
# full    tests          125         tests that need a GPU, those that never passed on one first (110 s) tests.log
# full    tests-triton   80          those that depend on the backend, with Triton's
# full    benchmarks     the rest    what targets rest on, then what was longest not measured            benchmarks.log
# full    memcheck       15 to 40    compute-sanitizer on what looked wrong, else on every path          sanitizers.log
# any     racecheck, initcheck, synccheck    40    the other tools likewise; only by --stage
# any     train          100         the trainer: every strategy, ResNet-18 on $DYNAMS_CIFAR10 (parquet; noise where it is unset),
#                                    steps, scoring, the share of selecting, waits for the device; only by --stage    train.log
# compare compare        the rest    $DYNAMS_CIFAR10 names the data; committed cells count as done       compare.log, compare.tgz
# record  record         the rest    the same of the record's recipe: a seed of each recipe in turn      record.log, record.tgz
#
# Cells are of the last runs too, where build/gpu/NAME has been kept; results of several runs add up once each one's cells.jsonl is
# in bench/results/MACHINE/compare-cifar10 (record: MACHINE/record). What a cell of the record should take is in
# bench/results/NOTES.md: not measured yet; each process compiles for about two minutes first, outside the cells' seconds.
#
# kernels.md, the report, is written anew after every stage. Every outcome of a test, case or benchmark is in kernels.jsonl as
# soon as it is known, and at the end in kernels.json, every cell in compare.tgz or record.tgz seconds after it is finished: a run that
# is cut off keeps all up to the cut, and
# `python bench/gpu/results.py finish OUTPUT_FOLDER` makes its report anywhere. What an earlier run left in OUTPUT_FOLDER is replaced.
# $DYNAMS_GPU_SECONDS is another limit for the whole, to which all others are scaled.
#
# --suspect: a test's id (with ::), or how the name of a case begins ("native: smallest_k"); those that fail in the same run
# are suspects by themselves.
#
# Exit code: 0 where every stage that ran was good, 1 where one failed or was cut off, 2 where there is no GPU or the arguments
# are wrong. A target missed is not a failure.
set -uo pipefail

python=${PYTHON:-python3}
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
gpu=$repo/bench/gpu
out="" plan=full stages="" failed="" suspects=()

usage() {
  echo "usage: bash bench/gpu.sh OUTPUT_FOLDER [--plan first|full|compare|record] [--stage STAGE]... [--suspect NAME]..." >&2
  exit 2
}
while [ $# -gt 0 ]; do
  case $1 in
    --plan | --stage | --suspect)
      [ $# -ge 2 ] || usage
      case $1 in
        --plan) case $2 in first | full | compare | record) plan=$2 ;; *) usage ;; esac ;;
        --stage)
          case $2 in
            build | cases | tests | tests-triton | benchmarks | profile | memcheck | racecheck | initcheck | synccheck | train | compare | record)
              stages="$stages $2" ;;
            *) usage ;;
          esac
          ;;
        --suspect) suspects+=("$2") ;;
      esac
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
case $plan in
  first) planned=280 order="cases tests benchmarks profile" ;;
  full) planned=350 order="tests tests-triton benchmarks memcheck" ;;
  compare) planned=525 order="compare" ;;
  record) planned=420 order="record" ;;
esac
stages=${stages:-$order}
readonly TOTAL=${DYNAMS_GPU_SECONDS:-$planned}
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 2
if [ -n "${DYNAMS_CIFAR10:-}" ]; then DYNAMS_CIFAR10=$(cd "$DYNAMS_CIFAR10" && pwd) || exit 2; fi

state=$repo/build/gpu
site=$state/site
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Python looks for modules in the folder it is started in: an empty one, or the source tree would hide the package assembled.
mkdir -p "$state" "$work/empty" && cd "$work/empty" || exit 2
export TRITON_CACHE_DIR=$state/triton TORCHINDUCTOR_CACHE_DIR=$state/inductor PYTHONUNBUFFERED=1
export DYNAMS_GPU_LEDGER=$out/kernels.jsonl
export PYTHONPATH=$site:$repo/bench${PYTHONPATH:+:$PYTHONPATH}

# ------------------------------------------------------------------------------------ time, and what stages came to

say() { printf '==== %4d s  %s\n' "$SECONDS" "$*"; }
results() { "$python" "$gpu/results.py" "$@"; }
# A plan's seconds as seconds of this run.
scaled() { echo $((($1 * TOTAL + planned - 1) / planned)); }
# What is left for stages, less what is kept for those to come; the report needs its time too.
left() { echo $((TOTAL - SECONDS - $(scaled $((5 + ${1:-0}))))); }
least() { echo $(($1 < $2 ? $1 : $2)); }
# share MOST KEPT: what a stage may take of what is left, where KEPT is for those after it; half of it in any case.
share() {
  local free half
  free=$(left "$2") half=$(($(left) / 2))
  least "$(scaled "$1")" $((free > half ? free : half))
}

# limited SECONDS command...: at most so long, and never past the whole run's end; 124 or 137 where it was cut off. Killed at
# once with all it started: what it did is in the ledger, and a process that hangs on the device would not end otherwise.
limited() {
  local most
  most=$(least "$1" "$(left)")
  shift
  [ "$most" -ge 1 ] || return 124
  timeout --signal=KILL "$most" "$@" &
  echo $! >> "$work/pids"
  wait $!
}

stopped() {
  local pid
  while read -r pid; do [ "$(cat "/proc/$pid/comm")" = timeout ] && kill -KILL -- "-$pid"; done < "$work/pids"
  results page "$out"
  echo "gpu.sh: FAILED: stopped from outside ($SECONDS s)" >&3
  exit 1
} 2> /dev/null
exec 3>&1 # standard output, whatever the stage it happens in does with its own
trap stopped INT TERM HUP

# outcome STAGE CODE BEGIN [NOTE]: the stage's line in the report, and the report so far.
outcome() {
  local word=ok
  case $2 in 0) ;; skipped) word=skipped ;; 124 | 137) word="cut off" ;; *) word=failed ;; esac
  case $word in ok | skipped) ;; *) failed="$failed; $1 $word" ;; esac
  say "$1: $word${4:+ ($4)}"
  results stage "$out" "$1" "$word" $((SECONDS - $3)) "${4:-}" || failed="$failed; no report of $1"
}

# outcome_of_suite STAGE SUITE CODE BEGIN [NOTE]: the same, by what the ledger holds of a suite.
outcome_of_suite() {
  local told
  told=$(results suite "$out" "$1" "$2" "$3" $((SECONDS - $4)) "${5:-}") || failed="$failed; $1 ${told%% (*}"
  say "$1: $told"
}

# ------------------------------------------------------------------------------------ environment and build

environment() {
  limited "$(scaled 120)" "$python" "$gpu/environment.py" > "$work/environment.json" 2> "$work/environment.log"
  local code=$?
  if [ $code -ne 0 ]; then
    # One line, the last of what was said: importing torch may warn before it.
    local told=""
    [ $code -eq 137 ] || told=$(tail -n 1 "$work/environment.log")
    echo "${told:-gpu.sh: the environment could not be read (exit code $code)}" >&2
    exit 2
  fi
  results begin "$out" "$plan" < "$work/environment.json" || exit 2
  outcome environment 0 0
}

# assembled FOLDER SECONDS: the package with the modules of a folder; 0 where its CUDA kernels can be used here.
assembled() {
  "$python" "$gpu/builds.py" assemble "$1" "$site" && limited "$2" "$python" "$gpu/builds.py" usable
} >> "$out/build.log" 2>&1

native=no
build() { # SECONDS
  local begin=$SECONDS end folder note="" architecture code=1
  end=$((SECONDS + $(scaled "$1")))
  architecture=$("$python" -c 'import json, sys; print(json.load(open(sys.argv[1]))["gpu"]["capability"].replace(".", ""))' \
    "$work/environment.json")
  for folder in prebuilt native; do
    [ -e "$state/$folder" ] || continue
    if note=$("$python" "$gpu/builds.py" fits "$state/$folder" "$architecture"); then
      if assembled "$state/$folder" $((end - SECONDS)); then native=yes; else note="does not work here, see build.log"; fi
    fi
    note="build/gpu/$folder: $note"
    echo "$note" >> "$out/build.log"
    [ $native = no ] || break
  done
  if [ $native = no ]; then
    # Only for the GPU at hand: the others' code takes the compiler as long again, each.
    if limited $((end - SECONDS)) "$python" "$gpu/builds.py" make "$state/native" "$architecture" >> "$out/build.log" 2>&1; then
      note="${note:+$note; }built here"
      cat "$repo"/build/native-*/dynams_kernels._cuda/*.log >> "$out/build.log" 2> /dev/null
    else
      limited $((end - SECONDS)) "$python" "$gpu/builds.py" make "$state/native" "$architecture" --without-cuda >> "$out/build.log" 2>&1
    fi
    assembled "$state/native" $((end - SECONDS)) && native=yes
  fi
  [ $native = yes ] && code=0 || note="NO COMPILED CUDA KERNELS: Triton alone is tested and measured, see build.log"
  results trim "$out/build.log"
  outcome build $code "$begin" "$note"
}

# ------------------------------------------------------------------------------------ tests, cases, benchmarks

# suite NAME LOG SECONDS pytest's arguments...: a process that dies on the device is followed by another one, which goes on
# behind the test it was at. Sets `code`.
suite() {
  local name=$1 log=$2 end=$((SECONDS + $3)) grace attempt
  shift 3
  grace=$(least "$(scaled 11)" $(((end - SECONDS) / 3)))
  code=124
  for attempt in 1 2 3 4 5 6; do
    [ $((end - SECONDS)) -gt "$grace" ] || break
    code=0
    DYNAMS_GPU_SUITE=$name DYNAMS_GPU_DEADLINE=$(($(date +%s) + end - SECONDS - grace)) \
      limited $((end - SECONDS)) "$python" -m pytest -c "$repo/pyproject.toml" --rootdir "$repo" --tb=short \
      -p no:cacheprovider -p gpu.outcomes -p gpu.device_guard "$@" >> "$out/$log" 2>&1 || code=$?
    results finished "$out" "$name" && break
    [ $((end - SECONDS)) -le "$grace" ] || say "$name: process $attempt ended with code $code, going on behind the test it was at"
  done
  # 124: there was no second left to begin in.
  case $attempt-$code in 1-* | *-124 | *-137) ;; *) code=1 ;; esac
  results trim "$out/$log"
}

# test_files PATTERN...: in this order, each once
test_files() {
  local pattern file
  for pattern in "$@"; do
    for file in "$repo"/tests/kernels/$pattern; do if [ -e "$file" ]; then echo "$file"; fi; done
  done | awk '!seen[$0]++'
}

tests() { # BACKEND SECONDS KEPT, for what comes after
  local begin=$SECONDS code files known=() xdist=(-p no:xdist)
  if [ "$1" = native ] && [ $native = no ]; then
    outcome "tests, native" skipped "$begin" "no compiled kernels"
    return
  fi
  if [ "$plan" = first ]; then
    files=$(test_files 'test_cuda_values.py' 'test_cuda_selection.py' 'test_cuda.py' 'test_smallest_k.py' 'test_selector.py' 'test_topk.py' 'test_cuda_linear_candidates.py' 'test_cuda_linear.py')
  else
    files=$(test_files 'test_cuda_values.py' 'test_cuda_selection.py' 'test_cuda*.py' 'test_smallest_k.py' 'test_selector.py' 'test_[lmst]*.py' 'test_*.py')
    # What no committed report tells to have passed comes first.
    known=(-p gpu.known)
  fi
  # Each kernel of a linear head is tested by its name with either backend, and what torch does around a call is the same for
  # both: once.
  if [ "$1" = triton ] && [ $native = yes ]; then
    files=$(grep -Ev '(linear|_compile|_dispatch|_autograd|_public_api)[^/]*$' <<< "$files")
  fi
  # The time goes to compiling Triton's kernels, on the host. Each process holds half a gigabyte of the GPU.
  if "$python" -c 'import xdist' 2> /dev/null; then xdist=(-n "$(least "$(nproc)" 16)" --max-worker-restart=24); fi
  mapfile -t files <<< "$files"
  DYNAMS_KERNELS_BACKEND=$1 HYPOTHESIS_PROFILE=gpu suite "$1" tests.log "$(share "$2" "$3")" \
    "${files[@]}" ${known[@]+"${known[@]}"} -m gpu -v -p no:benchmark "${xdist[@]}"
  outcome_of_suite "tests, $1" "$1" "$code" "$begin"
}

benchmarks() { # KEPT, for what comes after
  local begin=$SECONDS code only=()
  [ "$plan" = first ] && only=(--targets-only)
  suite benchmarks benchmarks.log "$(left "$1")" "$gpu" -q -p no:xdist ${only[@]+"${only[@]}"}
  nvidia-smi --query-gpu=clocks.sm,clocks.mem,temperature.gpu,power.draw --format=csv >> "$out/benchmarks.log" 2>&1
  outcome_of_suite benchmarks benchmarks "$code" "$begin"
}

# cases SUITE SECONDS PARTS [sanitized.py's arguments...]: in as many processes, by $under. Sets `code` to the worst.
under=()
cases() {
  local name=$1 end=$((SECONDS + $2)) parts=$3 part one found=""
  shift 3
  for part in $(seq "$parts"); do
    (
      for _ in 1 2 3 4; do
        one=124
        [ $((end - SECONDS)) -ge 1 ] || break
        DYNAMS_GPU_SUITE=$name DYNAMS_GPU_DEADLINE=$(($(date +%s) + end - SECONDS - $(scaled 3))) \
          limited $((end - SECONDS)) ${under[@]+"${under[@]}"} "$python" "$gpu/sanitized.py" --part "$part/$parts" "$@"
        one=$?
        # 3: some were wrong; 9: the sanitizer found something. With that or anything else it may have died at a case: another
        # process goes on behind.
        case $one in 0 | 3 | 124 | 137) break ;; 9) found=9 ;; esac
      done >> "$work/$name.$part.log" 2>&1
      echo "${found:-$one}" > "$work/$name.$part.code"
    ) &
  done
  wait
  code=$(cat "$work/$name".*.code | sort -n | tail -n 1)
}

all_cases() { # SECONDS KEPT, for what comes after
  local begin=$SECONDS code
  cases cases "$(share "$1" "$2")" "$(least "$(nproc)" 12)"
  cat "$work"/cases.*.log > "$out/cases.log"
  results trim "$out/cases.log"
  outcome_of_suite cases cases "$code" "$begin"
}

# ------------------------------------------------------------------------------------ tools

tool() { command -v "$1" || ls /usr/local/cuda/bin/"$1" /opt/nvidia/nsight-compute/*/"$1" 2> /dev/null | head -n 1; }

profile() { # SECONDS
  local begin=$SECONDS end=$((SECONDS + $(scaled "$1"))) code=0 ncu names
  ncu=$(tool ncu)
  [ -n "$ncu" ] || { outcome profile skipped "$begin" "ncu is not installed"; return; }
  # The later processes have what time there is.
  for names in "held linear" candidates "streamed skinny"; do
    # shellcheck disable=SC2086 # several names
    limited $((end - SECONDS)) "$ncu" --clock-control none --profile-from-start off --target-processes application-only \
      --kernel-name 'regex:select_smallest|linear|device_kernel' --print-details all --section SpeedOfLight --section LaunchStats \
      --section Occupancy --section WarpStateStats --section MemoryWorkloadAnalysis --section ComputeWorkloadAnalysis \
      "$python" "$gpu/profiled.py" $names >> "$out/profile.log" 2>&1 || code=$?
    case $code in
      0) ;;
      124 | 137) grep -q 'Section: GPU Speed Of Light' "$out/profile.log" && code=0; break ;;
      *) break ;;
    esac
  done
  if grep -q ERR_NVGPUCTRPERM "$out/profile.log"; then
    outcome profile skipped "$begin" "ncu has no permission to read the counters (ERR_NVGPUCTRPERM)"
  else
    outcome profile "$code" "$begin" "$(grep -c 'Section: GPU Speed Of Light' "$out/profile.log") kernels, see profile.log"
  fi
  results trim "$out/profile.log"
}

sanitize() { # TOOL SECONDS
  local begin=$SECONDS code sanitizer kind rest seconds suspect part=0 parts=6 only=() ids=() before=$failed
  sanitizer=$(tool compute-sanitizer)
  [ -n "$sanitizer" ] || { outcome "$1" skipped "$begin" "compute-sanitizer is not installed"; return; }
  seconds=$(least "$(scaled "$2")" "$(left)")
  export PYTORCH_NO_CUDA_MEMORY_CACHING=1
  under=("$sanitizer" --tool "$1" --error-exitcode 9 --target-processes application-only)
  for suspect in ${suspects[@]+"${suspects[@]}"}; do
    case $suspect in *::*) ids+=("native $suspect") ;; *) only+=(--only "$suspect") ;; esac
  done
  while read -r kind rest; do
    case $kind in case) only+=(--only "$rest") ;; test) ids+=("$rest") ;; esac
  done < <(results suspects "$out")
  for suspect in ${ids[@]+"${ids[@]}"}; do
    part=$((part + 1))
    (
      DYNAMS_KERNELS_BACKEND=${suspect%% *} DYNAMS_GPU_SUITE=$1 HYPOTHESIS_PROFILE=gpu limited "$seconds" "${under[@]}" \
        "$python" -m pytest -c "$repo/pyproject.toml" --rootdir "$repo" "$repo/${suspect#* }" --tb=short \
        -p no:cacheprovider -p no:xdist -p no:benchmark -p gpu.outcomes > "$work/$1.test-$part.log" 2>&1
      echo $? > "$work/$1.test-$part.code"
    ) &
  done
  if [ ${#only[@]} -gt 0 ] || [ ${#ids[@]} -eq 0 ]; then
    [ ${#only[@]} -eq 0 ] || parts=$(least 6 $((${#only[@]} / 2)))
    cases "$1" "$seconds" "$parts" --unchecked ${only[@]+"${only[@]}"}
  fi
  wait
  unset PYTORCH_NO_CUDA_MEMORY_CACHING
  # 9: it found something.
  code=$(cat "$work/$1".*.code | sort -n | tail -n 1)
  if grep -qx 9 "$work/$1".*.code; then code=9; fi
  { echo "==== $1" && cat "$work/$1".*.log; } >> "$out/sanitizers.log"
  results trim "$out/sanitizers.log"
  outcome_of_suite "$1" "$1" "$code" "$begin" "$(grep -ah 'ERROR SUMMARY\|RACECHECK SUMMARY' "$work/$1".*.log | tr -d '=' | sort | uniq -c | tr -s ' \n' ' ' | cut -c 1-300)"
  # It has what time there is.
  case $failed in *"; $1 cut off") failed=$before ;; esac
}

train() { # SECONDS
  local begin=$SECONDS code=124 attempt end
  end=$((SECONDS + $(least "$(scaled "$1")" "$(left)")))
  # What hangs or poisons the device ends its process, and another goes on behind it.
  for attempt in 1 2 3 4; do
    [ $((end - SECONDS)) -ge 1 ] || break
    code=0
    TMPDIR=$work DYNAMS_GPU_SUITE=train DYNAMS_GPU_DEADLINE=$(($(date +%s) + end - SECONDS - $(scaled 5))) \
      limited $((end - SECONDS)) "$python" "$gpu/trained.py" >> "$out/train.log" 2>&1 || code=$?
    case $code in 0 | 3 | 5 | 124 | 137) break ;; esac
    say "train: process $attempt ended with code $code, going on behind the part it was at"
  done
  results trim "$out/train.log"
  # 5: a package is missing.
  if [ "$code" -eq 5 ]; then outcome train skipped "$begin" "$(tail -n 1 "$out/train.log")"; else outcome_of_suite train train "$code" "$begin"; fi
}

# archived NAME FOLDER: one file of a comparison, without the checkpoints of what is under way: hundreds of megabytes.
archived() {
  (cd "$2" && tar -czf "$out/.$1.tgz" --ignore-failed-read -- cells.jsonl plan.yaml compare.md compare.html
    mv -f "$out/.$1.tgz" "$out/$1.tgz") 2> /dev/null
}

# compared NAME PLAN FOLDER: missing cells of `dynams compare PLAN`; committed ones are in bench/results/*/FOLDER.
compared() {
  local begin=$SECONDS code seconds folder=$state/$1 note keeper before cells=0
  seconds=$(left 10)
  [ -n "${DYNAMS_CIFAR10:-}" ] || { outcome "$1" skipped "$begin" "DYNAMS_CIFAR10 names no folder"; return; }
  if [ "$seconds" -lt 60 ]; then
    outcome "$1" skipped "$begin" "$((seconds > 0 ? seconds : 0)) s left"
    return
  fi
  mkdir -p "$folder"
  # A report of later cells holds the earlier ones too.
  [ -e "$folder/cells.jsonl" ] ||
    cat "$repo"/bench/results/*/"$3"/cells.jsonl 2> /dev/null | awk '!seen[$0]++' > "$folder/cells.jsonl"
  # As they come: whoever kills this run, or the machine, leaves no time for it.
  while sleep 2 && kill -0 $$; do
    [ "$folder/cells.jsonl" -nt "$out/$1.tgz" ] && archived "$1" "$folder"
  done > /dev/null 2>&1 3>&- &
  keeper=$!
  cells=$(wc -l < "$folder/cells.jsonl")
  while :; do
    before=$cells code=0
    # Of the ten seconds that are left behind its own it gets three: where it has to be killed, its cells are to be told all the same.
    TMPDIR=$work limited $((seconds + 3)) "$python" -m dynams.cli compare "$2" --data.path "$DYNAMS_CIFAR10" --out "$folder" \
      --limit-seconds "$seconds" >> "$out/$1.log" 2>&1 || code=$?
    seconds=$(left 10) cells=$(wc -l < "$folder/cells.jsonl")
    # One that a signal ended is followed by another, unless it had done nothing: the next would end there too.
    [ $code -gt 128 ] && [ "$cells" -gt "$before" ] && [ "$seconds" -ge 60 ] || break
    say "$1: a process ended with code $code, going on behind its cells"
  done
  kill $keeper && wait $keeper 2> /dev/null
  note=$(tail -n 1 "$out/$1.log" | cut -c 1-200)
  archived "$1" "$folder"
  DYNAMS_GPU_SUITE=$1 limited 10 "$python" "$gpu/record.py" "$folder" >> "$out/$1.log" 2>&1
  results trim "$out/$1.log"
  outcome "$1" "$code" "$begin" "$note"
}

# ------------------------------------------------------------------------------------ the plan

environment
# A comparison that no data is named for computes nothing: nobody waits for a compiler.
for stage in $stages; do
  case $stage in compare | record) [ -n "${DYNAMS_CIFAR10:-}" ] || continue ;; esac
  build 70
  break
done
for stage in $stages; do
  case $plan-$stage in
    *-build) ;;
    *-cases) all_cases 50 200 ;;
    first-tests) tests "$([ $native = yes ] && echo native || echo triton)" 85 115 ;;
    *-tests) tests native 125 150 ;;
    *-tests-triton) tests triton 80 110 ;;
    *-benchmarks) benchmarks "$([ "$plan" = first ] && echo 25 || echo 15)" ;;
    *-profile) profile 35 ;;
    *-train) train 100 ;;
    *-compare) compared compare cifar10 compare-cifar10 ;;
    *-record) compared record sprint-96 record ;;
    *) sanitize "$stage" 40 ;;
  esac
done
results finish "$out" || failed="$failed; no report"
if [ -n "$failed" ]; then
  echo "gpu.sh: FAILED${failed/;/:} ($SECONDS s, $out/kernels.md)"
  exit 1
fi
echo "gpu.sh: ok ($SECONDS s, $out/kernels.md)"

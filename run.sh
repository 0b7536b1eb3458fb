#!/usr/bin/env bash
# audio-gst from nothing to a GST-against-Mix-all table: environment, corpora, shards, base model, gradient probe,
# groups, training arms, report. Every stage leaves a result and is skipped when that result is there; a stage that was
# killed goes on where it stopped. Nothing is downloaded but Python packages.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

usage() {
  cat <<'EOF'
bash run.sh [options]           prepare, probe, group, train and report; prints the tables
bash run.sh tables [options]    the paper's tables T1-T7: the whole grid of runs, cell by cell
bash run.sh test [args]         install and run the test suite (arguments go to pytest; -m long: what takes longest)

  --corpora DIR      raw corpora to use instead of the generated mini corpora
  --adapter NAME     how to read them: auto (default), jsonl, or the name of one corpus
  --out DIR          experiment folder            (default runs/mini; runs/<name of DIR> with --corpora)
  --arms a,b         arms to train                (default mix_all,gst-g3,gst-random-3)
  --seeds N          seeds per arm, from 0        (default 1)
  --world-size N     ranks per run                (default: the number of GPUs, or 2 without any)
  --base DIR         folder of the base model, shared by experiments (default runs/base)
  --set KEY=VALUE    recipe override for probe and arms, e.g. --set train.max_steps=100; repeatable
  --active-env       use the active Python environment instead of .venv
  -h, --help         this text

of tables:
  --scale NAME       quick (default): two seeds, few steps; standard: five seeds, every step; full: the paper's own setting
  -c, --recipe NAME  recipe that every arm goes on top of (default mini); other models and data bring their own, and
                     read data.shards, or --corpora
  --only T1,T4       only these tables
  --plan             say what would run and how long it takes here, and stop
  --sbatch N         write a SLURM array of N workers that share the grid, and stop
EOF
}

# ---------------------------------------------------------------------------------------------------------- options
CORPORA="" ADAPTER=auto OUT="" ARMS=mix_all,gst-g3,gst-random-3 SEEDS=1 WORLD_SIZE="" BASE=runs/base ACTIVE_ENV=0
OVERRIDES=() COMMAND=run TEST_ARGS=() SCALE=quick FAMILY=mini TABLES_ARGS=()
need_value() { [[ $# -ge 2 && -n "$2" ]] || { echo "run.sh: $1 needs a value" >&2; exit 2; }; }
while [[ $# -gt 0 ]]; do
  case "$1" in
    test) COMMAND=test; shift; TEST_ARGS=("$@"); break ;;
    tables) COMMAND=tables; shift ;;
    --scale) need_value "$@"; SCALE=$2; shift 2 ;;
    -c | --recipe) need_value "$@"; FAMILY=$2; shift 2 ;;
    --only | --sbatch) need_value "$@"; TABLES_ARGS+=("$1" "$2"); shift 2 ;;
    --plan) TABLES_ARGS+=("$1"); shift ;;
    --corpora) need_value "$@"; CORPORA=$2; shift 2 ;;
    --adapter) need_value "$@"; ADAPTER=$2; shift 2 ;;
    --out) need_value "$@"; OUT=$2; shift 2 ;;
    --arms) need_value "$@"; ARMS=$2; shift 2 ;;
    --seeds) need_value "$@"; SEEDS=$2; shift 2 ;;
    --world-size) need_value "$@"; WORLD_SIZE=$2; shift 2 ;;
    --base) need_value "$@"; BASE=$2; shift 2 ;;
    --set) need_value "$@"; OVERRIDES+=("$2"); shift 2 ;;
    --active-env) ACTIVE_ENV=1; shift ;;
    -h | --help) usage; exit 0 ;;
    *) echo "run.sh: unknown option $1; bash run.sh --help lists them" >&2; exit 2 ;;
  esac
done
[[ $SEEDS =~ ^[1-9][0-9]*$ ]] || { echo "run.sh: --seeds takes a number of at least 1, got $SEEDS" >&2; exit 2; }
[[ $WORLD_SIZE =~ ^([1-9][0-9]*)?$ ]] || { echo "run.sh: --world-size takes a number of at least 1, got $WORLD_SIZE" >&2; exit 2; }
if [[ -n $CORPORA && ! -d $CORPORA ]]; then echo "run.sh: --corpora: no such folder: $CORPORA" >&2; exit 2; fi
case $FAMILY in mini | mini-*) IS_MINI=1 ;; *) IS_MINI=0 ;; esac
if [[ -z $OUT ]]; then
  if [[ -n $CORPORA ]]; then OUT=runs/$(basename "$(realpath "$CORPORA")"); else OUT=runs/$FAMILY; fi
  if [[ $COMMAND == tables ]]; then OUT+=-$(basename "${SCALE%.yaml}"); fi
fi

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} TOKENIZERS_PARALLELISM=false PYTHONWARNINGS=ignore
STARTED=$SECONDS
STAGES=7; if [[ $COMMAND == tables ]]; then STAGES=5; fi
stage() { STAGE_NAME=${1/\/N/\/$STAGES}; STAGE_STARTED=$SECONDS; echo; echo "== $STAGE_NAME"; }
stage_done() { echo "-- $STAGE_NAME: $((SECONDS - STAGE_STARTED)) s"; }
# A stage is over when its mark holds the text that says what it was made from.
marked() { [[ -f $1 && "$(cat "$1")" == "$2" ]]; }
mark() { mkdir -p "$(dirname "$1")"; printf '%s' "$2" > "$1.tmp"; mv "$1.tmp" "$1"; }
# once MARK KEY COMMAND...: run the command unless MARK says that it was done with KEY.
once() {
  local file=$1 key=$2
  shift 2
  if marked "$file" "$key"; then echo "$file: already done"; return; fi
  "$@"
  mark "$file" "$key"
}
launch() { deepspeed --log_level warning --num_accelerators "$WORLD_SIZE" --master_port "$(free_port)" --module "$@"; }
free_port() { python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# ----------------------------------------------------------------------------------------------------- 1 environment
stage "1/N environment"
if [[ $ACTIVE_ENV == 0 ]]; then
  [[ -x .venv/bin/python ]] || python3 -m venv .venv
  # shellcheck disable=SC1091
  source .venv/bin/activate
fi
ENV_KEY="$(cksum < setup.py) $(python -c 'import sys; print(sys.prefix, sys.version_info[:2])')"
ENV_MARK=$(python -c 'import sys; print(sys.prefix)')/.audio-gst-installed
if ! marked "$ENV_MARK" "$ENV_KEY"; then
  # torch first and exactly: a looser request may bring several gigabytes of CUDA packages to a machine without a GPU.
  python -m pip install --quiet torch==2.13.0
  python -m pip install --quiet -e '.[dev]'
  mark "$ENV_MARK" "$ENV_KEY"
fi
GPUS=$(python -c 'import torch; print(torch.cuda.device_count())')
if [[ $GPUS == 0 ]]; then export DS_ACCELERATOR=cpu; fi
if [[ -z $WORLD_SIZE ]]; then WORLD_SIZE=$((GPUS > 0 ? GPUS : 2)); fi
stage_done

if [[ $COMMAND == test ]]; then
  # Most tests wait for one process to start or compute: two at a time take little more than half as long.
  exec python -m pytest -n auto --maxprocesses 4 --dist loadfile -m "not long" "${TEST_ARGS[@]}"
fi

# ---------------------------------------------------------------------------------------- 2 corpora, 3 shards
stage "2/N corpora"
if [[ -z $CORPORA && $IS_MINI == 1 ]]; then
  CORPORA=$OUT/corpora
  gst-data mini --out "$CORPORA"
fi
# The base model has corpora of its own: broad clips, other seeds, other questions.
NEEDS_BASE=0; if [[ $IS_MINI == 1 && ! -f $BASE/model/config.json ]]; then NEEDS_BASE=1; fi
if [[ $NEEDS_BASE == 1 ]]; then gst-data mini --alignment --out "$BASE/corpora"; fi
stage_done

stage "3/N shards"
COMMON=()
if [[ -n $CORPORA ]]; then
  gst-data prepare --root "$CORPORA" --corpus "$ADAPTER" --out "$OUT/shards"
  COMMON+=("data.shards=$OUT/shards")
fi
if [[ $NEEDS_BASE == 1 ]]; then gst-data prepare --root "$BASE/corpora" --corpus jsonl --out "$BASE/shards"; fi
stage_done

# ------------------------------------------------------------------- 4 base model
stage "4/N base model"
if [[ $NEEDS_BASE == 1 ]]; then
  if [[ ! -f $BASE/random/config.json ]]; then
    gst model tiny --family qwen2_audio --shards "$BASE/shards" --out "$BASE/random"
  fi
  launch pipeline.cli.train -c mini-align "out=$BASE" "data.shards=$BASE/shards" "model.path=$BASE/random"
  rm -rf "$BASE/model.tmp" && cp -r "$BASE/arms/align-s0/model" "$BASE/model.tmp" && mv "$BASE/model.tmp" "$BASE/model"
fi
case $FAMILY in
  mini-scratch) COMMON+=("model.path=$BASE/random") ;;
  mini*) COMMON+=("model.path=$BASE/model") ;;
esac
COMMON+=("${OVERRIDES[@]}")
stage_done

# ------------------------------------------------------------------------------------------------ the paper's tables
if [[ $COMMAND == tables ]]; then
  stage "5/N tables"
  gst tables --out "$OUT" -c "$FAMILY" --scale "$SCALE" --ranks "$WORLD_SIZE" "${TABLES_ARGS[@]}" "${COMMON[@]}"
  stage_done
  echo
  echo "grid: $OUT   all stages: $((SECONDS - STARTED)) s"
  exit 0
fi

# --------------------------------------------------------------------------------- 5 warm-up, gradient probe, groups
COMMON=("out=$OUT" "${COMMON[@]}")
# What the runs below depend on; the commands themselves check it again, by digest.
KEY="$(cat "$OUT"/shards/*/manifest.json "$BASE"/model/* pipeline/recipes/*.yaml pipeline/recipes/arms/*.yaml | cksum) $WORLD_SIZE ${OVERRIDES[*]-}"
stage "5/7 warm-up, gradient probe, groups"
once "$OUT/marks/probe" "$KEY" launch pipeline.cli.probe -c "$FAMILY-gst-g3" "${COMMON[@]}"
once "$OUT/marks/groups" "$KEY" gst group -c "$FAMILY-gst-g3" "${COMMON[@]}"
stage_done

# ----------------------------------------------------------------------------------------------------------- 6 arms
stage "6/7 arms: $ARMS, $SEEDS seed(s), $WORLD_SIZE rank(s)"
# Each arm's own groups, made right before it trains: arms of one method share the pointer to the latest version.
train_arm() {
  local arm=$1 seed=$2 recipe="$FAMILY-${1//_/-}"
  case $arm in
    gst-t[0-9]*) launch pipeline.cli.transfer -c "$recipe" "${COMMON[@]}" ;;&
    gst-[gt][0-9]* | gst-random-* | gst-strict-cycle | gst-adaptive | mastering-rate) gst group -c "$recipe" "${COMMON[@]}" ;;
  esac
  launch pipeline.cli.train -c "$recipe" "${COMMON[@]}" "train.seed=$seed" "schedule.seed=$seed"
}
for ((seed = 0; seed < SEEDS; seed++)); do
  for arm in ${ARMS//,/ }; do
    once "$OUT/marks/$arm-s$seed" "$KEY" train_arm "$arm" "$seed"
  done
done
stage_done

# ------------------------------------------------------------------------------------------ 7 evaluation and report
stage "7/7 evaluation and report"
once "$OUT/marks/original" "$KEY" launch pipeline.cli.evaluate -c "$FAMILY-mix-all" "${COMMON[@]}"
gst report "$OUT" --arms "original,$ARMS"
stage_done

echo
echo "experiment: $OUT   MLflow store: mlflow ui --backend-store-uri sqlite:///$OUT/mlflow.db"
echo "runs, affinity and groups in a browser: gst serve $OUT"
echo "all stages: $((SECONDS - STARTED)) s"

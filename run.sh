#!/usr/bin/env bash
# audio-gst from nothing to a GST-against-Mix-all table: environment, corpora, shards, base model, gradient probe,
# groups, training arms, report. Every stage leaves a result and is skipped when that result is there; a stage that was
# killed goes on where it stopped. Nothing is downloaded but Python packages.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

usage() {
  cat <<'EOF'
bash run.sh [options]        prepare, probe, group, train and report; prints the tables
bash run.sh test [args]      install and run the test suite (arguments go to pytest)

  --corpora DIR      raw corpora to use instead of the generated mini corpora
  --adapter NAME     how to read them: auto (default), jsonl, or the name of one corpus
  --out DIR          experiment folder            (default runs/mini; runs/<name of DIR> with --corpora)
  --arms a,b         arms to train                (default mix_all,gst-g3,gst-random-3)
  --seeds N          seeds per arm, from 0        (default 1)
  --world-size N     ranks per run                (default 2)
  --base DIR         folder of the base model, shared by experiments (default runs/base)
  --set KEY=VALUE    recipe override for probe and arms, e.g. --set train.max_steps=100; repeatable
  --active-env       use the active Python environment instead of .venv
  -h, --help         this text
EOF
}

# ---------------------------------------------------------------------------------------------------------- options
CORPORA="" ADAPTER=auto OUT="" ARMS=mix_all,gst-g3,gst-random-3 SEEDS=1 WORLD_SIZE=2 BASE=runs/base ACTIVE_ENV=0
OVERRIDES=() COMMAND=run TEST_ARGS=()
need_value() { [[ $# -ge 2 && -n "$2" ]] || { echo "run.sh: $1 needs a value" >&2; exit 2; }; }
while [[ $# -gt 0 ]]; do
  case "$1" in
    test) COMMAND=test; shift; TEST_ARGS=("$@"); break ;;
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
[[ $WORLD_SIZE =~ ^[1-9][0-9]*$ ]] || { echo "run.sh: --world-size takes a number of at least 1, got $WORLD_SIZE" >&2; exit 2; }
if [[ -n $CORPORA && ! -d $CORPORA ]]; then echo "run.sh: --corpora: no such folder: $CORPORA" >&2; exit 2; fi
if [[ -z $OUT ]]; then
  if [[ -n $CORPORA ]]; then OUT=runs/$(basename "$(realpath "$CORPORA")"); else OUT=runs/mini; fi
fi

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} TOKENIZERS_PARALLELISM=false PYTHONWARNINGS=ignore
STARTED=$SECONDS
stage() { STAGE_NAME=$1; STAGE_STARTED=$SECONDS; echo; echo "== $1"; }
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
stage "1/7 environment"
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
if ! python -c 'import torch, sys; sys.exit(not torch.cuda.is_available())'; then export DS_ACCELERATOR=cpu; fi
stage_done

if [[ $COMMAND == test ]]; then
  exec python -m pytest "${TEST_ARGS[@]}"
fi

# ---------------------------------------------------------------------------------------- 2 corpora, 3 shards
stage "2/7 corpora"
if [[ -z $CORPORA ]]; then
  CORPORA=$OUT/corpora
  gst-data mini --out "$CORPORA"
fi
# The base model has corpora of its own: broad clips, other seeds, other questions.
[[ -f $BASE/model/config.json ]] || gst-data mini --alignment --out "$BASE/corpora"
stage_done

stage "3/7 shards"
gst-data prepare --root "$CORPORA" --corpus "$ADAPTER" --out "$OUT/shards"
[[ -f $BASE/model/config.json ]] || gst-data prepare --root "$BASE/corpora" --corpus jsonl --out "$BASE/shards"
stage_done

# ------------------------------------------------------------------- 4 base model, warm-up and gradient probe
COMMON=("out=$OUT" "data.shards=$OUT/shards" "model.path=$BASE/model" "${OVERRIDES[@]}")
stage "4/7 base model, warm-up and gradient probe"
if [[ ! -f $BASE/model/config.json ]]; then
  if [[ ! -f $BASE/random/config.json ]]; then
    gst model tiny --family qwen2_audio --shards "$BASE/shards" --out "$BASE/random"
  fi
  launch pipeline.cli.train -c mini-align "out=$BASE" "data.shards=$BASE/shards" "model.path=$BASE/random"
  rm -rf "$BASE/model.tmp" && cp -r "$BASE/arms/align-s0/model" "$BASE/model.tmp" && mv "$BASE/model.tmp" "$BASE/model"
fi
# What the runs below depend on; the commands themselves check it again, by digest.
KEY="$(cat "$OUT"/shards/*/manifest.json "$BASE"/model/* pipeline/recipes/*.yaml | cksum) $WORLD_SIZE ${OVERRIDES[*]-}"
once "$OUT/marks/probe" "$KEY" launch pipeline.cli.probe -c mini-gst-g3 "${COMMON[@]}"
stage_done

# --------------------------------------------------------------------------------------------------------- 5 groups
stage "5/7 groups"
once "$OUT/marks/groups" "$KEY" gst group -c mini-gst-g3 "${COMMON[@]}"
stage_done

# ----------------------------------------------------------------------------------------------------------- 6 arms
stage "6/7 arms: $ARMS, $SEEDS seed(s), $WORLD_SIZE rank(s)"
# Each arm's own groups, made right before it trains: arms of one method share the pointer to the latest version.
train_arm() {
  local arm=$1 seed=$2 recipe="mini-${1//_/-}"
  case $arm in
    gst-t[0-9]*) launch pipeline.cli.transfer -c "$recipe" "${COMMON[@]}" ;;&
    gst-[gt][0-9]* | gst-random-* | gst-strict-cycle | gst-adaptive | mastering-rate) gst group -c "$recipe" "${COMMON[@]}" ;;
  esac
  launch pipeline.cli.train -c "$recipe" "${COMMON[@]}" "train.seed=$seed" "schedule.seed=$seed" \
    "schedule.affinity=$OUT/affinity"
}
for ((seed = 0; seed < SEEDS; seed++)); do
  for arm in ${ARMS//,/ }; do
    once "$OUT/marks/$arm-s$seed" "$KEY" train_arm "$arm" "$seed"
  done
done
stage_done

# ------------------------------------------------------------------------------------------ 7 evaluation and report
stage "7/7 evaluation and report"
once "$OUT/marks/original" "$KEY" launch pipeline.cli.evaluate -c mini-mix-all "${COMMON[@]}"
gst report "$OUT" --arms "original,$ARMS"
stage_done

echo
echo "experiment: $OUT   MLflow store: mlflow ui --backend-store-uri sqlite:///$OUT/mlflow.db"
echo "runs, affinity and groups in a browser: gst serve $OUT"
echo "all stages: $((SECONDS - STARTED)) s"

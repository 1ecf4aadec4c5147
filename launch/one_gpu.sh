#!/usr/bin/env bash
# Checks, measures and trains on a machine with one NVIDIA GPU and no network, within a
# time limit:
#
#   LIMIT=600 launch/one_gpu.sh [--dry-run] PAIRS OUT [--config.key=value ...]
#
# --dry-run  prints every command and runs none
#
# PAIRS    comma-separated folders, each with ir/ and vis/
# OUT      folder for the results; a second call continues the training in it
# --config.key=value  changes a key of the training
#
# LIMIT     seconds for the whole script (default 600)
# PYTHON    a Python that has jax with CUDA, flax, optax, orbax, pillow and safetensors
#           (default python3)
# WHEELS    folder of wheels of what it lacks (launch/README.md lists them); they are
#           installed into OUT/packages
# PRESETS   networks to measure (default "lite full")
# DTYPES    types of the arithmetic to measure (default "float32 bfloat16")
# SIZES     low-resolution sizes to fuse (default 240x320,480x640)
# BATCH     samples in a measured train step (default 32)
# CONFIG    the training (default configs/student_x2.py:short, the full network)
# PLATFORM  cpu runs everything on the CPU, to try the script (default cuda)
#
# Stages: `checks` compares each operation and train step with the CPU; `fuse-...` and
# `train-...` measure; `training` trains for the time that is left and saves.  Each has a
# limit; one that fails or runs out of time does not keep the next from starting.
# OUT/results.json and OUT/results.txt list what came out, OUT/weights/ holds the best
# weights in parts of at most 15 MB (`cat part_* >model.safetensors` joins them).
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"

options "$0" "$@"
set -- ${arguments[0]+"${arguments[@]}"}
(($# >= 2)) || fail "usage: $0 [--dry-run] PAIRS OUT [--config.key=value ...]"
pairs=$1 out=$2
shift 2
python=${PYTHON:-python3} platform=${PLATFORM:-cuda} seconds=${LIMIT:-600}
[[ $seconds =~ ^[1-9][0-9]*$ ]] || fail "LIMIT=$seconds is not a number of seconds."
((seconds >= 60)) ||
    fail "LIMIT=$seconds is too short for the first stage: give at least 60 seconds."
IFS=, read -ra roots <<<"$pairs"
for root in "${roots[@]}"; do
    [[ -d $root/ir && -d $root/vis ]] || fail "$root holds no folders ir and vis."
done
out=$(realpath --canonicalize-missing "$out")
run mkdir -p "$out"
for i in "${!roots[@]}"; do roots[i]=$(cd "${roots[i]}" && pwd); done
cd "$(dirname "$0")/.."

export JAX_PLATFORMS=$platform XLA_PYTHON_CLIENT_PREALLOCATE=false
[[ $platform == cpu ]] || export JAX_PLATFORMS=$platform,cpu # the checks need both
export PYTHONPATH=$PWD:$out/packages${PYTHONPATH:+:$PYTHONPATH}
if [[ -n ${WHEELS:-} ]]; then
    run "$python" -m pip install --quiet --no-index --no-deps --target "$out/packages" \
        --upgrade "$WHEELS"/*.whl || fail "the wheels in $WHEELS cannot be installed."
fi
if [[ ! $dry ]]; then
    "$python" -c 'import sys, jax; jax.devices(sys.argv[1])' "$platform" 2>"$out/devices.log" ||
        fail "jax finds no $platform device here ($(tail -n 1 "$out/devices.log")): install" \
            "jax with CUDA, or try the script with PLATFORM=cpu."
fi

stages=()
# stage NAME LIMIT COMMAND...: runs a command for at most LIMIT seconds of those left.
stage() {
    local name=$1 limit=$2 start=$SECONDS code=0
    local left=$((seconds - SECONDS - 10)) # SECONDS counts from the script's start
    shift 2
    ((limit <= left)) || limit=$left
    if ((limit < 3)); then
        stages+=("$name no-time 0")
        return
    fi
    if [[ $dry ]]; then
        run timeout --signal=TERM --kill-after=60 "$limit" "$@"
        return
    fi
    echo "== $name, at most $limit s"
    # After TERM a training run saves, which may take as long as a step and a checkpoint.
    timeout --signal=TERM --kill-after=60 "$limit" "$@" 2>"$out/$name.log" |
        tee "$out/$name.txt" || code=${PIPESTATUS[0]}
    ((code == 0 || code == 124)) || tail -n 3 "$out/$name.log" >&2
    stages+=("$name $code $((SECONDS - start))")
}
benchmark() {
    local name=$1 limit=$2
    shift 2
    stage "$name" "$limit" "$python" -m hkdnet_jax.benchmark "$@" --out "$out/$name.json"
}

read -ra presets <<<"${PRESETS:-lite full}"
read -ra dtypes <<<"${DTYPES:-float32 bfloat16}"
benchmark checks $((seconds / 4)) parity --preset "${presets[@]}" --dtype "${dtypes[@]}"
for preset in "${presets[@]}"; do
    for dtype in "${dtypes[@]}"; do
        common=(--preset "$preset" --dtype "$dtype")
        benchmark "fuse-$preset-$dtype" $((seconds / 16)) fuse "${common[@]}" \
            --size "${SIZES:-240x320,480x640}"
        benchmark "train-$preset-$dtype" $((seconds / 16)) train "${common[@]}" \
            --size 24x24 --batch "${BATCH:-32}"
    done
done

# fitting REPORT... SECONDS: as many epochs of 100 steps as fit into the seconds, by what
# a step of phase 2 took.
fitting() {
    "$python" - "$@" <<'PYTHON'
import json, pathlib, sys

*files, left = sys.argv[1:]
rows = [r for f in files if pathlib.Path(f).exists() for r in json.loads(open(f).read())["rows"]]
step = min((row["seconds"] for row in rows if row["phase"] == 2), default=1.0)
print(max(2, int(0.8 * int(left) / step / 100)))
PYTHON
}

epochs=100 # in a dry run, which knows no time of a step
[[ $dry ]] || epochs=$(fitting "$out"/train-"${presets[-1]}"-*.json $((seconds - SECONDS - 10)))
roots_list=$(IFS=, && echo "${roots[*]}")
stage training "$seconds" "$python" -m hkdnet_jax.main \
    --config="${CONFIG:-configs/student_x2.py:short}" \
    --workdir="$out/training" --config.data.roots="$roots_list" \
    --config.teacher.dir=hkdnet_jax/pretrained/teacher --config.tensorboard=False \
    --config.train.epochs="$epochs" --config.train.phase1_epochs=$(((epochs + 4) / 5)) "$@"
[[ ! $dry ]] || exit 0
if [[ -f $out/training/model.safetensors ]]; then
    rm -rf "$out/weights" && mkdir "$out/weights"
    split --bytes=15M --numeric-suffixes "$out/training/model.safetensors" \
        "$out/weights/part_"
fi

"$python" - "$out" "${stages[@]}" <<'PYTHON'
import json, pathlib, sys

out = pathlib.Path(sys.argv[1])
rows = []
for name, code, seconds in (stage.split() for stage in sys.argv[2:]):
    ended = {"0": "done", "124": "stopped at its limit", "no-time": "not begun"}
    row = {"stage": name, "seconds": int(seconds), "ended": ended.get(code, code)}
    file = out / f"{name}.json"
    rows.append(row | ({"report": json.loads(file.read_text())} if file.exists() else {}))
(out / "results.json").write_text(json.dumps(rows, indent=2) + "\n")
lines = [f"{'stage':24} {'seconds':>7}  ended"]
lines += [f"{r['stage']:24} {r['seconds']:7}  {r['ended']}" for r in rows]
text = "\n".join(lines) + "\n"
print(text, end="")
for row in rows:
    table = out / f"{row['stage']}.txt"
    text += f"\n{row['stage']}\n{table.read_text() if table.exists() else ''}"
(out / "results.txt").write_text(text)
sys.exit(int(any(stage.split()[1] not in ("0", "124", "no-time") for stage in sys.argv[2:])))
PYTHON

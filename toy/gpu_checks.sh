#!/usr/bin/env bash
# What there was no GPU for: run this on one, with random weights in the shape of LLaDA-8B (16 GB of disk, no network).
#
#     GPU=h200 bash toy/gpu_checks.sh runs/gpu
#
# Measures the parts of a round of the Sudoku preset, eager and compiled, and the decoding of a batch, beside what `dmpo plan` expects
# of that GPU (h100 unless GPU names another). A measurement that fails is a line of its table and does not end the script: the
# straightforward loss and ELBO of 512 rows need more memory for their logits than any card has. The exit code is 1 if the tests fail, or all
# measurements.
# SIZES and OPTIONS make it small enough to try on a CPU:
#
#     SIZES="--d-model 64" OPTIONS="sampler.response_length=32 sampler.block_length=8 sampler.steps=16 train.num_rollouts=2" \
#         bash toy/gpu_checks.sh runs/try
set -eo pipefail
folder=${1:?give a folder that does not exist}
sizes=${SIZES:---d-model 4096 --n-layers 32 --n-heads 32 --mlp-hidden-size 12288 --rows 126464}
mkdir "$folder"
python -m toy.small_llada "$folder/model" $sizes
options="model.path=$folder/model $OPTIONS"
dmpo plan llada_sudoku --gpu "${GPU:-h100}" $options | tee "$folder/plan.txt"

bench() {  # name of its files; seconds, after which no row is run again; measurements and options
    local name=$1 seconds=$2
    shift 2
    dmpo bench "$@" --config llada_sudoku $options --seconds "$seconds" --json "$folder/$name.json" | tee "$folder/$name.txt" ||
        echo "$name: some measurements failed, see the lines below its table"
}

for compile in none default; do
    for lean in false true; do
        ways="model.compile=$compile model.lora_lean=$lean"
        bench "parts_compile_${compile}_lean_$lean" 300 loss elbo samplers $ways
        bench "round_compile_${compile}_lean_$lean" 900 round $ways --repeats 1  # at most an hour for it
    done
done
compgen -G "$folder/*.json" > /dev/null || { echo "nothing was measured, see above" >&2; exit 1; }
python -m pytest -q tests/test_pretend.py tests/test_llada.py tests/test_golden.py

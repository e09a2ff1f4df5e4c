#!/usr/bin/env bash
# What there was no GPU for: run this on one, with random weights in the shape of LLaDA-8B (16 GB of disk, no network).
#
#     bash toy/gpu_checks.sh runs/gpu
#
# Measured are the parts of a round of the Sudoku preset, eager and compiled, and the decoding of a batch; beside them stands what
# `dmpo plan` expects. SIZES and OPTIONS make it small enough to try on a CPU:
#
#     SIZES="--d-model 64" OPTIONS="sampler.response_length=32 sampler.block_length=8 sampler.steps=16 train.num_rollouts=2" \
#         bash toy/gpu_checks.sh runs/try
set -eo pipefail
folder=${1:?give a folder that does not exist}
sizes=${SIZES:---d-model 4096 --n-layers 32 --n-heads 32 --mlp-hidden-size 12288 --rows 126464}
mkdir "$folder"
python -m toy.small_llada "$folder/model" $sizes
options="model.path=$folder/model $OPTIONS"
dmpo plan llada_sudoku $options | tee "$folder/plan.txt"
for compile in none default; do
    for lean in false true; do
        dmpo bench loss elbo samplers round --config llada_sudoku $options model.compile=$compile model.lora_lean=$lean \
            --seconds 300 --json "$folder/compile_${compile}_lean_$lean.json" | tee "$folder/compile_${compile}_lean_$lean.txt"
    done
done
python -m pytest -q tests/test_pretend.py tests/test_llada.py tests/test_golden.py

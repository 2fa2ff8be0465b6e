#!/usr/bin/env bash
# All that waits for a GPU, in Markdown: bash benchmarks/gpu.sh > gpu.md        (about an hour)
# The tests marked `cuda`; throughput with the plan's memory beside what was used, and the cost of a
# step beside its parts and after its teacher is freed, as it is and compiled, for the paper's model,
# a large one, and decoders of 6 and 12 layers; the accounts of a step; the rivals.
# --quick: tiny models and few rounds, on a CPU too. RIVALS=PYTHON: an interpreter that has them.
set -uo pipefail
cd "$(dirname "$0")/.."
failed=0
step() {
    printf '\n## `%s`\n\n' "$*"
    "$@" 2>&1 || { failed=1; printf '\nFAILED with exit code %s\n' "$?"; }
}
sizes=(
    "--scale paper"
    "--scale large train.batch_size=32"
    "--scale decoder scale.num_layers=6 scale.teacher_num_layers=4 train.batch_size=32"
    "--scale decoder train.batch_size=32"
)
compiled=(false true)
quick=()
if [ "${1:-}" = --quick ]; then
    tiny="scale.width=32 scale.num_heads=2 scale.mlp_width=64 scale.vocab_size=512 train.batch_size=4"
    sizes=("--scale nano $tiny" "--scale nano task=clm $tiny")
    compiled=(false)
    quick=(--quick)
fi
step python -c 'import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU")'
step python -m pytest -q -n 0 -m cuda
for words in "${sizes[@]}"; do
    for compile in "${compiled[@]}"; do
        # shellcheck disable=SC2086 # these are words
        step python benchmarks/throughput.py "${quick[@]}" $words "train.compile=$compile"
        # shellcheck disable=SC2086
        step python benchmarks/step_cost.py "${quick[@]}" --rounds 20 $words "train.compile=$compile"
    done
    # shellcheck disable=SC2086
    step python benchmarks/accounts.py $words
done
step python benchmarks/against_rivals.py "${quick[@]}" --python "${RIVALS:-python}"
exit "$failed"

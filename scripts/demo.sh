#!/bin/bash
# The main job on a simulated study: pretrain without labels, fine-tune on a metadata column, predict.
# usage: scripts/demo.sh [FOLDER]   (default: demo; what an earlier demo left there is replaced)
set -euo pipefail
out=${1:-demo}
study=$out/study
small=(--embedding-dim 32 --attention-layers 2 --attention-heads 4 --batch-size 16)

run() {
  printf '\n$ %s\n' "$*"
  "$@"
}

run aam simulate "$study" --overwrite
run aam pretrain --table "$study/table.biom" --tree "$study/tree.nwk" --output-dir "$out/pretrained" --overwrite \
  "${small[@]}" --epochs 10
run aam train --table "$study/table.biom" --metadata "$study/metadata.tsv" --metadata-column acidity \
  --group-column subject --pretrained-encoder "$out/pretrained" --output-dir "$out/acidity" --overwrite \
  "${small[@]}" --epochs 10
run aam predict --checkpoint "$out/acidity" --table "$study/table.biom" --output "$out/predictions.tsv"

cat <<END

Done. The results are in $out:
  study/                       the simulated table, tree, metadata and taxonomy
  pretrained/                  the encoder: plots/, metrics.jsonl, checkpoints/
  acidity/                     the fine-tuned model; val_predictions.tsv holds samples of held-out subjects
  predictions.tsv              the acidity that the model predicts for every sample
END

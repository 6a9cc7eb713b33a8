#!/bin/bash
# The main job on a simulated study: compare learners on new subjects, pretrain without labels, fine-tune, predict.
# usage: scripts/demo.sh [FOLDER]   (default: demo; what an earlier demo left there is replaced)
set -euo pipefail
out=${1:-demo}
study=$out/study
small=(--embedding-dim 32 --attention-layers 2 --batch-size 16 --epochs 30)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # a model this small gains nothing from more threads

run() {
  printf '\n$ %s\n' "$*"
  "$@"
}

run aam simulate "$study" --overwrite
run aam evaluate --table "$study/table.biom" --tree "$study/tree.nwk" --metadata "$study/metadata.tsv" \
  --metadata-column acidity --group-column subject --repeats 1 --jobs 2 --output-dir "$out/compared" --overwrite
run aam pretrain --table "$study/table.biom" --tree "$study/tree.nwk" --output-dir "$out/pretrained" --overwrite \
  "${small[@]}" --lr 0.002
run aam train --table "$study/table.biom" --metadata "$study/metadata.tsv" --metadata-column acidity \
  --pretrained-encoder "$out/pretrained" --output-dir "$out/acidity" --overwrite "${small[@]}"
run aam predict --checkpoint "$out/acidity" --table "$study/table.biom" --output "$out/predictions.tsv" --overwrite

cat <<END

Done. The results are in $out:
  $study/           the simulated table, tree, metadata and taxonomy
  $out/compared/        how well each learner predicts subjects that it has not seen: scores.tsv, plots/scores.png
  $out/pretrained/      the encoder; predicted against true UniFrac distances in plots/
  $out/acidity/         the model of the column acidity; validation samples in val_predictions.tsv and plots/
  $out/predictions.tsv  the acidity that the model predicts for every sample of the table
END

#!/bin/sh
# What rounding costs: every llama.cpp type of the small model beside its bf16 original, both computed in f32.
#
#   measure.sh MODEL_FOLDER OUT_FOLDER [PACK...]
#
# MODEL_FOLDER is what train.py wrote, OUT_FOLDER takes the GGUF files and table.txt. Each PACK is measured too. Set DOTS
# to the program, LLAMA to a folder of llama.cpp's programs (llama-quantize and, for importance matrices, llama-imatrix),
# PYTHON to a Python with numpy, gguf, torch and safetensors, TOKENS to read less than the whole text.
set -eu
here=$(dirname "$0")
model=$1 out=$2
shift 2
: "${DOTS:=dots}" "${PYTHON:=python3}" "${LLAMA:?a folder of llama.cpp programs}"
: "${TYPES:=Q8_0 Q6_K Q5_K_M Q4_K_M Q4_K_S IQ4_XS Q4_0 Q3_K_M}"
mkdir -p "$out"
source=$out/small-BF16.gguf
table=$out/table.txt

compare() { # name, model, flags
    name=$1 measured=$2
    shift 2
    "$DOTS" compare "$model" "$measured" --text "$model/test.txt" ${TOKENS:+--tokens "$TOKENS"} --json "$@" | "$PYTHON" -c '
import json, sys
r = json.load(sys.stdin)
m, k = r["model"], r["kl_divergence"]
print("| {} | {:.2f} | {:.3f} | {:.5f} ± {:.5f} | {:.4f} | {:.2f} % |".format(
    sys.argv[1], m["bits_per_weight"], m["perplexity"], k["mean"], k["standard_error"], k["quantile_99"],
    100 * r["same_best_token"]))' "$name" | tee -a "$table"
}

quantize() { # name, type, flags
    name=$1 type=$2
    shift 2
    "$LLAMA/llama-quantize" "$@" "$source" "$out/small-$name.gguf" "$type" > "$out/quantize-$name.log" 2>&1
}

"$PYTHON" "$here/to_gguf.py" "$model" "$source"
{
    echo "| weights | bits each | perplexity | mean KL to bf16 | 99 % | same best token |"
    echo "| --- | ---: | ---: | ---: | ---: | ---: |"
} | tee "$table"
compare BF16 "$source"
for type in $TYPES; do
    quantize "$type" "$type"
    compare "$type" "$out/small-$type.gguf"
done
if [ -x "$LLAMA/llama-imatrix" ]; then
    "$LLAMA/llama-imatrix" -m "$source" -f "$model/calibration.txt" -c 256 -o "$out/imatrix.gguf" > "$out/imatrix.log" 2>&1
    for type in Q4_K_M IQ4_XS; do
        quantize "$type-imatrix" "$type" --imatrix "$out/imatrix.gguf"
        compare "$type, importance matrix" "$out/small-$type-imatrix.gguf"
    done
fi
for pack in "$@"; do
    compare "$(basename "$pack")" "$pack"
done

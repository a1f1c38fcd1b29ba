#!/usr/bin/env bash
# The embedded model, from nothing: text, tokenizer, shards, pretraining, annealing, fine-tuning, pack, scores, card.
#
#   runs/nano.sh WORK [--minutes N] [--to STEP]
#
# WORK is a folder for all of it, some 3 GB. What is done is not done again, and training goes on from its last checkpoint: after a crash or
# Ctrl-C, run the same command. --minutes N makes the whole thing small enough for about N minutes of training steps. --to STEP ends after text,
# corpus, tokenizer, shards, pretrain, more, chat, again, pack or scores. DOTS names the program (target/release/dots), SPEED the tokens a second that
# --minutes counts on, SHAPE options for the shape of a rehearsal (`--set model.layers=2`). Needs Python 3 and, for the text, apt-get and dpkg-deb
# of a Debian 12; FREE names a folder that text.py wrote before.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
work= minutes= last=card
while [ $# -gt 0 ]; do
    case $1 in
        --minutes) minutes=$2; shift 2 ;;
        --to) last=$2; shift 2 ;;
        -*) echo "$0: unknown option $1" >&2; exit 2 ;;
        *) work=$1; shift ;;
    esac
done
[ -n "$work" ] || { sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 2; }
dots=$(realpath "${DOTS:-$here/../target/release/dots}")
mkdir -p "$work/done" "$work/data"
work=$(realpath "$work")
free=$(realpath -m "${FREE:-$work/free}")
cd "$work"

# Does a step, a function of that name, once; its mark is set when it has ended well.
step() {
    local step=$1
    if [ ! -e "done/$step" ]; then
        echo "== $step" >&2
        "$step"
        touch "done/$step"
    fi
    if [ "$step" = "$last" ]; then exit 0; fi
}

# A part of the 31 M training tokens: of 11 stable, 7 annealing, 8 and 5 fine-tuning.
scaled() { echo $(($1 * minutes * 60 * ${SPEED:-4500} / 31 / 4096 * 4096 + 4096)); }

# Whether a rehearsal is so short that a tenth of the corpus is enough.
is_small() { [ -n "$minutes" ] && [ "$minutes" -lt 20 ]; }

text() { [ -e "$free/sources.tsv" ] || python3 "$here/nano/text.py" "$free"; }

corpus() {
    local small=()
    if is_small; then small=(--small); fi
    python3 "$here/nano/corpus.py" "$free" corpus ${small[@]+"${small[@]}"}
}

tokenizer() {
    "$dots" tokenizer train corpus/text/*.jsonl corpus/chats/*.jsonl -o tokenizer --vocab-size 8192 --replace
}

shards() {
    local name
    for name in en zh ko docs taught valid; do
        "$dots" tokenize "corpus/text/$name.jsonl" -o "data/$name" --tokenizer tokenizer --end '<|endoftext|>' --replace
    done
}

# train RUN RECIPE OPTION...: starts a run, or goes on with it.
train() {
    local run=$1 recipe=$2
    shift 2
    if [ -e "$run/recipe.toml" ]; then set -- "$run"; else set -- "$recipe" -o "$run" "$@"; fi
    "$dots" train "$@" 2>&1 | tee -i "$run.log" >&2
    # A run that was stopped ends well too, and is not done.
    tail -n 1 "$run.log" | grep -q '^All .* steps are made' || exit 130
}

# The newest checkpoint of a run.
newest() { find "$1/checkpoints" -mindepth 1 -maxdepth 1 -name 'step-*' | sort | tail -n 1; }

pretrain() {
    local set=()
    if [ -n "$minutes" ]; then
        read -ra set <<< "${SHAPE:-}"
        set+=(--set "phases.stable.tokens=$(scaled 11)" --set "phases.annealing.tokens=$(scaled 7)" --set "checkpoints.every_tokens=$(scaled 3)" \
            --set "validation.every_tokens=$(scaled 3)")
    fi
    train pretrain "$here/nano/nano.toml" ${set[@]+"${set[@]}"}
    ln -sfn "$(newest pretrain)" pretrained
}

# Chats that only fine-tuning sees: neither the tokenizer nor pretraining depends on them.
more() {
    local small=()
    if is_small; then small=(--small); fi
    python3 "$here/nano/more.py" corpus ${small[@]+"${small[@]}"}
}

# fine_tune RUN RECIPE END: a run whose last checkpoint END will name.
fine_tune() {
    local set=() tenths=1
    if is_small; then tenths=10; fi
    if [ -n "$minutes" ]; then
        set=(--set "phases.0.epochs=$(awk "BEGIN { print $tenths * $minutes * 60 * ${SPEED:-4500} / 31e6 }")" --set "checkpoints.every_tokens=$(scaled 2)")
    fi
    train "$1" "$here/nano/$2" ${set[@]+"${set[@]}"}
    ln -sfn "$(newest "$1")" "$3"
}

chat() { fine_tune chat nano-chat.toml chat-end; }

again() { fine_tune again nano-again.toml chatty; }

pack() {
    "$dots" pack chatty nano-q4 --type q4
    # So small a model says what it knows best, or nonsense.
    sed -i 's/"do_sample": true/"do_sample": false/' nano-q4/generation_config.json
}

scores() {
    local model every=1
    if is_small; then every=20; fi
    for model in nano-q4 chatty; do
        python3 "$here/nano/evaluate.py" --dots "$dots" --model "$model" --held corpus/heldout.jsonl --out "scores-$model.json" --every "$every"
    done
}

# A rehearsal does not replace the model of the repository.
card() {
    local out=$here/../models/nano
    if [ -n "$minutes" ]; then out=$work/models-nano; fi
    mkdir -p "$out"
    rm -f "$out"/*.safetensors
    cp nano-q4/* "$out/"
    python3 "$here/nano/card.py" --dots "$dots" --work . --free "$free" --out "$out"
}

for each in text corpus tokenizer shards pretrain more chat again pack scores card; do step "$each"; done

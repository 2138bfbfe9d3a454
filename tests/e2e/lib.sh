# Sourced by the end-to-end checks: a temporary folder, a tiny recipe, and what they expect of the program.
#   . lib.sh PROGRAM        sets $program and $work; the script ends with `finish`

program=$1
work=$(mktemp -d "${TMPDIR:-/tmp}/moonlight-e2e-XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
failures=0

fail() {
    echo "FAILED: $*"
    failures=$((failures + 1))
}

finish() {
    [ "$failures" -eq 0 ]
    exit
}

# Stop at once when what follows needs what came before.
need() {
    [ "$failures" -eq 0 ] || exit 1
}

# write_recipe FILE: a model that trains twenty steps in a second or so, data built from its own text.
write_recipe() {
    cat >"$1" <<END
[model]
preset = nano-moe
hidden_size = 32
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 2
head_dim = 8
rotary_dim = 8
moe_intermediate_size = 32
max_position_embeddings = 64
[data]
dir = $work/data
bytes = 60k
vocab_size = 300
[train]
steps = 20
batch = 2
seq = 32
[optim]
warmup = 5
[eval]
every = 0
windows = 4
[checkpoint]
every = 5
END
}

# run STATUS ARGUMENT...: the program ends with STATUS; its streams are in $work/out and $work/err.
run() {
    wanted=$1
    shift
    "$program" "$@" >"$work/out" 2>"$work/err" </dev/null
    found=$?
    if [ "$found" -ne "$wanted" ]; then
        fail "moonlight $*: expected status $wanted, found $found and:"
        cat "$work/out" "$work/err"
    fi
}

# says TEXT: the last run said so on standard error.
says() {
    grep -qF -e "$1" "$work/err" && return
    fail "expected \"$1\" on standard error, found:"
    cat "$work/err"
}

# expect STATUS TEXT ARGUMENT...: both.
expect() {
    text=$2
    status=$1
    shift 2
    run "$status" "$@"
    says "$text"
}

# losses RUN: "step ce" of every logged step, the digits as they were written.
losses() {
    sed -n 's/^{"step":\([0-9]*\),"tokens".*"ce":\([^,]*\),.*/\1 \2/p' "$1/log.jsonl"
}

# same_losses A B: two runs logged the same steps once each, with the same digits.
same_losses() {
    losses "$1" >"$work/losses_a"
    losses "$2" >"$work/losses_b"
    [ -s "$work/losses_a" ] || fail "$1/log.jsonl has no steps"
    cmp -s "$work/losses_a" "$work/losses_b" && return
    fail "losses of $1 and $2 differ:"
    diff "$work/losses_a" "$work/losses_b"
}

# wait_for_checkpoint RUN: until it has one to go on from; fails after half a minute.
wait_for_checkpoint() {
    tries=0
    while [ ! -e "$1/latest" ]; do
        tries=$((tries + 1))
        [ "$tries" -lt 3000 ] || return 1
        sleep 0.01
    done
}
# wait_for_log RUN N: until N steps are logged; fails after half a minute.
wait_for_log() {
    tries=0
    while [ "$(cat "$1/log.jsonl" 2>/dev/null | wc -l)" -lt "$2" ]; do
        tries=$((tries + 1))
        [ "$tries" -lt 3000 ] || return 1
        sleep 0.01
    done
}

#!/bin/sh
# Typecheck, named traces, a short random slice, and two planted bugs that it must find.
# Installs quint into spec/node_modules when it is not there. `SAMPLES=1000 spec/run.sh` looks longer.
set -eu
cd "$(dirname "$0")"
QUINT=node_modules/.bin/quint
SAMPLES="${SAMPLES:-15}"
SEED="${SEED:-7}"

if [ ! -x "$QUINT" ]; then
    command -v npm >/dev/null || { echo "error: quint is installed with npm, which is not here" >&2; exit 2; }
    npm install --no-audit --no-fund --silent
fi

for file in hbusig traces variants; do  # the others are imported by these
    "$QUINT" typecheck "$file.qnt" >/dev/null || { echo "error: $file.qnt does not typecheck" >&2; exit 1; }
done
echo "typecheck: ok"

"$QUINT" test --backend=typescript --main=hbusig_host hbusig.qnt
"$QUINT" test --backend=typescript --main=ordering ordering.qnt
"$QUINT" test --backend=typescript --main=traces traces.qnt

# explore MAIN FILE SAMPLES SEED: the exit status of quint run
explore() {
    "$QUINT" run --backend=typescript --main="$1" --invariant=safe --max-samples="$3" --max-steps=25 \
        --seed="$4" --verbosity=1 "$2"
}
explore hbusig_host hbusig.qnt 100 "$SEED"
explore protocol variants.qnt "$SAMPLES" "$SEED"
explore protocol_with_byzantine_first_primary variants.qnt "$SAMPLES" "$SEED"

# must_find MAIN SAMPLES SEED: the planted bug is found, or this script fails
must_find() {
    status=0
    output=$(explore "$1" variants.qnt "$2" "$3" 2>&1) || status=$?
    case "$status$output" in
        1*violation*) echo "$1: found" ;;
        *) echo "error: $1 was not found: $output" >&2; exit 1 ;;
    esac
}
must_find planted_late 50 "$SEED"
must_find planted_omit 10 0x13721  # from SEED it takes some 400 samples

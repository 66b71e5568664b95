#!/bin/sh
# Makes the virtual environment: tools/venv.sh FOLDER [PYTHON]
#
# Without PYTHON it takes the quickest python3 on the PATH that will do: 3.11 to 3.13 (see requires-python in
# pyproject.toml), or one under its full name beside a python3 that will not do. Builds of one version differ
# by a tenth and more (profile-guided optimisation or not), and a node is Python where it does not verify.
# The first one on the PATH is taken unless another is at least 5 per cent quicker.
set -eu

folder=$1
named=${2:-}
script='
import sys, time
if not (3, 11) <= sys.version_info < (3, 14):
    sys.exit(1)
import ensurepip, venv


class Client:
    __slots__ = ("name", "count")

    def __init__(self, name):
        self.name, self.count = name, 0

    def ask(self, key):
        self.count += 1
        return (self.name, key, self.count)


def once():
    clients = {b"%d" % number: Client(b"%d" % number) for number in range(64)}
    names, seen = list(clients), {}
    begin = time.perf_counter_ns()
    for number in range(20_000):
        name = names[number & 63]
        seen[clients[name].ask(number)] = name
        if len(seen) > 512:
            seen.clear()
    return time.perf_counter_ns() - begin


print(min(once() for _ in range(15)) // 1000)
'

if [ -n "$named" ]; then
    "$named" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
        || { echo "tepbft needs Python 3.11, 3.12 or 3.13, and $named is none; name one with: make PYTHON=/path/to/python3"; exit 1; }
    exec "$named" -m venv "$folder"
fi

set --
old_ifs=$IFS
IFS=:
for place in $PATH; do
    for name in python3 python3.13 python3.12 python3.11; do
        [ -x "$place/$name" ] || continue
        "$place/$name" -c "$script" >/dev/null 2>&1 || continue
        set -- "$@" "$place/$name"
        break
    done
done
IFS=$old_ifs

# Several rounds, and the least of each: a machine that others use too is at half its speed now and then.
best= best_us=
if [ $# -gt 1 ]; then
    for round in 1 2 3 4; do
        number=0
        for candidate; do
            number=$((number + 1))
            took_us=$("$candidate" -c "$script" 2>/dev/null) || continue
            eval "least_us=\${us_$number:-$took_us}"
            [ "$took_us" -gt "$least_us" ] || least_us=$took_us
            eval "us_$number=$least_us"
        done
    done
fi
number=0
for candidate; do
    number=$((number + 1))
    eval "took_us=\${us_$number:-999999999}"
    if [ -z "$best" ] || [ $((took_us * 100)) -lt $((best_us * 95)) ]; then
        best=$candidate best_us=$took_us
    fi
done

if [ -z "$best" ]; then
    echo 'tepbft needs Python 3.11, 3.12 or 3.13 with its venv module, and nothing on the PATH is that.'
    echo 'Install it (Debian 12 and 13: apt install python3-venv), or name one with: make PYTHON=/path/to/python3'
    exit 1
fi
echo "Python: $best"
exec "$best" -m venv "$folder"

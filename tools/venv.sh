#!/bin/sh
# Makes the virtual environment: tools/venv.sh FOLDER [PYTHON]
#
# Without PYTHON it takes the quickest python3 on the PATH that will do. Builds of one version differ by a
# tenth and more (profile-guided optimisation or not), and a node is Python where it does not verify.
# The first one on the PATH is taken unless another is at least 5 per cent quicker.
set -eu

folder=$1
named=${2:-}
script='
import sys, time
if sys.version_info < (3, 11):
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
    "$named" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
        || { echo "tepbft needs Python 3.11 or later, and $named is none; name one with: make PYTHON=/path/to/python3"; exit 1; }
    exec "$named" -m venv "$folder"
fi

best= best_us=
old_ifs=$IFS
IFS=:
for place in $PATH; do
    candidate=$place/python3
    [ -x "$candidate" ] || continue
    took_us=$("$candidate" -c "$script" 2>/dev/null) || continue
    if [ -z "$best" ] || [ $((took_us * 100)) -lt $((best_us * 95)) ]; then
        best=$candidate best_us=$took_us
    fi
done
IFS=$old_ifs

if [ -z "$best" ]; then
    echo 'tepbft needs Python 3.11 or later with its venv module, and no python3 on the PATH is that.'
    echo 'Install it (Debian: apt install python3-venv), or name one with: make PYTHON=/path/to/python3'
    exit 1
fi
echo "Python: $best"
exec "$best" -m venv "$folder"

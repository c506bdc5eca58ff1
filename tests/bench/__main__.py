"""`python -m tests.bench [fake|kernel|decrypt|looked-at] [COUNT]`: one JSON object a line on standard output.

`python -m tests.bench flood` has options of its own, see `flood`.
"""

import json
import sys
from itertools import chain

from pcscf.server import settle_memory
from tests.bench import decrypt, flood, stages, wire


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "fake"
    if name == "flood":
        flood.main(sys.argv[2:])
        return
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 5000
    if name == "decrypt":
        for figure in decrypt.measure(count):
            print(json.dumps(figure), flush=True)
        return
    if name == "looked-at":
        for figure in wire.compare("fake", count):
            print(json.dumps(figure), flush=True)
        return
    settle_memory()
    memory = stages.memory() if name == "fake" else ()  # the kernel's memory is not ours to measure
    for figure in chain(stages.measure(name, count), wire.measure(name, count), memory):
        print(json.dumps(figure), flush=True)


if __name__ == "__main__":
    main()

"""`python -m tests.bench [fake|kernel] [COUNT]`: one JSON object a line on standard output."""

import json
import sys

from pcscf.server import settle_memory
from tests.bench import challenge, stages


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "fake"
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 5000
    settle_memory()
    for figure in (*stages.measure(name, count), challenge.measure(name, count)):
        print(json.dumps(figure), flush=True)


if __name__ == "__main__":
    main()

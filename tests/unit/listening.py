"""`python -m tests.unit.listening DESCRIPTORS [LIMIT]`: a transport that answers, in a process with few descriptors.

Says its port, then one JSON object for each line it reads: CPU seconds so far, connections, and what it complained of.
LIMIT: connections it believes it may have, whatever the descriptors say.
"""

import asyncio
import json
import resource
import socket
import sys
import time
from ipaddress import ip_address

from pcscf.transport import Transport
from pcscf.vocabulary import Flow, Interface

HERE = ip_address("127.0.0.1")


async def serve(descriptors: int, limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
    told: list[str] = []

    def complain(detail: str, flow: Flow | None) -> None:
        told.append(detail)

    transport = Transport(
        lambda message, flow: transport.send(b"answer", flow),
        lambda error, flow: None,
        lambda flow, reason: None,
        on_trouble=complain,
    )
    if limit:
        transport._table.limit = limit
    with socket.socket() as probe:
        probe.bind((str(HERE), 0))
        port = probe.getsockname()[1]
    await transport.listen_tcp(HERE, port, Interface.GM)
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    print(port, flush=True)
    while await commands.readline():
        report = {"cpu": time.process_time(), "open": len(transport), "told": told, "limit": transport.limit}
        print(json.dumps(report), flush=True)
    await transport.close()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))

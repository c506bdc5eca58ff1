"""A UE that nobody here wrote: SIPp authenticates with its own AKA, without IPsec, where the operator allows that."""

import re
import shutil
import tomllib
from pathlib import Path

import pytest

from tests.interop.plant import REALM, SUBSCRIBERS, plant

SCENARIO = Path(__file__).with_name("sipp_register.xml")
CALLS = 4
"""SIPp takes RES for a C string: one answer in 32 is cut at a zero octet and rightly refused. Another vector then."""


@pytest.mark.parametrize("transport", ["u1", "t1"])
def test_sipp_registers_with_its_own_aka(tmp_path: Path, transport: str) -> None:
    assert shutil.which("sipp"), "install sip-tester"
    card = next(each for each in tomllib.loads(SUBSCRIBERS.read_text())["subscriber"] if "op" in each)
    keys = f"aka_OP=0x{card['op']} aka_K=0x{card['k']} aka_AMF=0x{card['amf']}"
    user = tmp_path / "user.csv"
    user.write_text(f"SEQUENTIAL\n{card['impi']};{REALM};[authentication username={card['impi']} {keys}]\n")
    command = ("sipp", "10.45.0.1:5060", "-sf", str(SCENARIO), "-inf", str(user), "-i", "10.45.0.2", "-p", "5060")
    limits = ("-t", transport, "-m", "1", "-nostdin", "-auth_uri", REALM, "-timeout", "20s", "-timeout_error")
    traces = ("-trace_msg", "-message_file", str(tmp_path / "messages.log"))
    with plant(tmp_path, core=["--without-integrity"], PCSCF_IPSEC__WITHOUT="admit") as running:
        for _ in range(CALLS):
            said = running.execute("ue", *command, *limits, *traces, check=False)
            messages = (tmp_path / "messages.log").read_text()
            if "SIP/2.0 200" in messages:
                break
        assert "Successful call" in said and "SIP/2.0 200" in messages, said + messages
        assert "SIP/2.0 401" in messages and not re.search("[ci]k=", messages)
        assert not running.sas()

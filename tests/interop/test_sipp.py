"""A UE that nobody here wrote: SIPp authenticates with its own AKA, without IPsec, where the operator allows that."""

import shutil
import tomllib
from pathlib import Path

import pytest

from tests.interop.plant import REALM, SUBSCRIBERS, plant

SCENARIO = Path(__file__).with_name("sipp_register.xml")


@pytest.mark.parametrize("transport", ["u1", "t1"])
def test_sipp_registers_with_its_own_aka(tmp_path: Path, transport: str) -> None:
    assert shutil.which("sipp"), "install sip-tester"
    card = next(each for each in tomllib.loads(SUBSCRIBERS.read_text())["subscriber"] if "op" in each)
    keys = f"aka_OP=0x{card['op']} aka_K=0x{card['k']} aka_AMF=0x{card['amf']}"
    user = tmp_path / "user.csv"
    user.write_text(f"SEQUENTIAL\n{card['impi']};{REALM};[authentication username={card['impi']} {keys}]\n")
    with plant(tmp_path, core=["--without-integrity"], PCSCF_IPSEC__WITHOUT="admit") as running:
        said = running.execute(
            "ue",
            *("sipp", "10.45.0.1:5060", "-sf", str(SCENARIO), "-inf", str(user), "-i", "10.45.0.2", "-p", "5060"),
            *(
                "-t",
                transport,
                "-m",
                "1",
                "-nostdin",
                "-auth_uri",
                REALM,
                "-trace_err",
                "-error_file",
                str(tmp_path / "errors.log"),
            ),
            *("-trace_msg", "-message_file", str(tmp_path / "messages.log"), "-timeout", "20s", "-timeout_error"),
            check=False,
        )
        messages = (tmp_path / "messages.log").read_text()
        assert "Successful call" in said and "SIP/2.0 200" in messages, said + messages
        assert not running.sas()

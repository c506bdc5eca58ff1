"""Test sets 1, 3 and 4 of TS 35.208 4.3, and the digests computed from them."""

from dataclasses import dataclass

from pcscf.lab.milenage import Milenage
from pcscf.lab.subscribers import Subscriber
from xfrm.model import Key

IMPI = "001010123456789@ims.mnc001.mcc001.3gppnetwork.org"
REALM = "ims.mnc001.mcc001.3gppnetwork.org"


@dataclass(frozen=True, slots=True, kw_only=True)
class Vector:
    name: str
    k: str
    rand: str
    sqn: str
    amf: str
    op: str
    opc: str
    f1: str
    f1_star: str
    f2: str
    f3: str
    f4: str
    f5: str
    f5_star: str
    autn: str
    nonce: str
    response: str
    response_auth: str
    response_auth_int: str
    sqn_ms: str
    auts: str
    auts_base64: str
    response_empty: str

    @property
    def milenage(self) -> Milenage:
        return Milenage(Key.fromhex(self.k), Key.fromhex(self.opc))

    def subscriber(self, *, sqn: int) -> Subscriber:
        return Subscriber.model_validate(
            {
                "impi": IMPI,
                "impus": [f"sip:+15551230001@{REALM}", "tel:+15551230001"],
                "k": self.k,
                "op": self.op,
                "amf": self.amf,
                "sqn": sqn,
            }
        )


VECTORS = (
    Vector(
        name="set 1",
        k="465b5ce8b199b49faa5f0a2ee238a6bc",
        rand="23553cbe9637a89d218ae64dae47bf35",
        sqn="ff9bb4d0b607",
        amf="b9b9",
        op="cdc202d5123e20f62b6d676ac72cb318",
        opc="cd63cb71954a9f4e48a5994e37a02baf",
        f1="4a9ffac354dfafb3",
        f1_star="01cfaf9ec4e871e9",
        f2="a54211d5e3ba50bf",
        f3="b40ba9a3c58b2a05bbf0d987b21bf8cb",
        f4="f769bcd751044604127672711c6d3441",
        f5="aa689c648370",
        f5_star="451e8beca43b",
        autn="55f328b43577b9b94a9ffac354dfafb3",
        nonce="I1U8vpY3qJ0hiuZNrke/NVXzKLQ1d7m5Sp/6w1Tfr7M=",
        response="486f3ee163ac4a424493c7ee626d3794",
        response_auth="cbefdcc54c81aa658d67da2fba29638c",
        response_auth_int="17755ff7bbf167d364a531859619f40c",
        sqn_ms="ff9bb4d0b627",
        auts="ba853f3c121cb55edb820040ab41",
        auts_base64="uoU/PBIctV7bggBAq0E=",
        response_empty="180933893eb8c4519e87ae2c9d5a1955",
    ),
    Vector(
        name="set 3",
        k="fec86ba6eb707ed08905757b1bb44b8f",
        rand="9f7c8d021accf4db213ccff0c7f71a6a",
        sqn="9d0277595ffc",
        amf="725c",
        op="dbc59adcb6f9a0ef735477b7fadf8374",
        opc="1006020f0a478bf6b699f15c062e42b3",
        f1="9cabc3e99baf7281",
        f1_star="95814ba2b3044324",
        f2="8011c48c0c214ed2",
        f3="5dbdbb2954e8f3cde665b046179a5098",
        f4="59a92d3b476a0443487055cf88b2307b",
        f5="33484dc2136b",
        f5_star="deacdd848cc6",
        autn="ae4a3a9b4c97725c9cabc3e99baf7281",
        nonce="n3yNAhrM9NshPM/wx/caaq5KOptMl3JcnKvD6ZuvcoE=",
        response="fa285adc03f0e209bbe03f2cd0fc5f0c",
        response_auth="a5b62778893ef6a0aa2f1a749beac73c",
        response_auth_int="e9c17cd0224b98dab7c6703217c52cbf",
        sqn_ms="9d027759601c",
        auts="43aeaaddecdae9774bd74e4b88e0",
        auts_base64="Q66q3eza6XdL105LiOA=",
        response_empty="b5427256b56bf45b1e46a24072fc3e38",
    ),
    Vector(
        name="set 4",
        k="9e5944aea94b81165c82fbf9f32db751",
        rand="ce83dbc54ac0274a157c17f80d017bd6",
        sqn="0b604a81eca8",
        amf="9e09",
        op="223014c5806694c007ca1eeef57f004f",
        opc="a64a507ae1a2a98bb88eb4210135dc87",
        f1="74a58220cba84c49",
        f1_star="ac2cc74a96871837",
        f2="f365cd683cd92e96",
        f3="e203edb3971574f5a94b0d61b816345d",
        f4="0c4524adeac041c4dd830d20854fc46b",
        f5="f0b9c08ad02e",
        f5_star="6085a86c6f63",
        autn="fbd98a0b3c869e0974a58220cba84c49",
        nonce="zoPbxUrAJ0oVfBf4DQF71vvZigs8hp4JdKWCIMuoTEk=",
        response="e18fe9c042c52a10882cf9d24e6a83fd",
        response_auth="7c355f56f6e5ccc95968aee917e3f933",
        response_auth_int="74336ebaa2d677e2ea06031da0e968ef",
        sqn_ms="0b604a81ecc8",
        auts="6be5e2ed83abe6b72e70bd455ab3",
        auts_base64="a+Xi7YOr5rcucL1FWrM=",
        response_empty="d05e1d8c0640e2b488d5b01edfe67640",
    ),
)

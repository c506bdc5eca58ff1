"""IMS P-CSCF with IPsec on Gm (3GPP TS 24.229, TS 33.203), and the simulators to try it with."""


class PcscfError(Exception):
    """What a user can mend; `str` says what is wrong and what to do, a finding a line."""

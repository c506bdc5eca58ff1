"""An IMS P-CSCF: the SIP edge proxy that speaks IPsec on Gm (3GPP TS 33.203, TS 24.229)."""

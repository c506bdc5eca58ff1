"""How people and scripts look into a running P-CSCF."""

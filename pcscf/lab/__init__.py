"""Simulators and the lab: a UE, an S-CSCF, namespaces and the scenario of `pcscf lab`."""

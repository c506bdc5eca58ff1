"""Linux IPsec for Python: ESP transport-mode security associations, in the kernel or in this process.

Knows nothing of SIP. `backend.open_backend` gives the interface; `model` has its values.
"""

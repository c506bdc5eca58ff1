"""Sans-IO SIP (RFC 3261): messages, parser, typed field views, transactions. No IMS, no I/O in here."""

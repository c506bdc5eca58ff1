"""Captures: read, written, taken, decrypted, and shown as a ladder."""

"""Sending the audit log on."""

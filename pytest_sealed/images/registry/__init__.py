"""Talks to image registries: `sealed pull`, `push`, `login` and `logout`. A test run imports nothing of it.

See the OCI distribution specification, and for what it leaves open the documentation of the CNCF's distribution.
"""

"""The network service: hubs, veths, addresses, names. The one process that imports pyroute2."""

"""The forwarder: host loopback ports to container ports, and container logs to spool files. One process, one loop."""

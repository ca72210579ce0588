"""The container runtime: one supervisor per session, its helpers, and the client that talks to it. No pytest here."""

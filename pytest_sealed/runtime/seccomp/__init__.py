"""The filters of system calls: profiles in the OCI's form, and what libseccomp makes of ours for each machine."""

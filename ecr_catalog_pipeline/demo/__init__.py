"""The embedded world that `make run` mirrors: two git repositories and an ECR, all on this host."""

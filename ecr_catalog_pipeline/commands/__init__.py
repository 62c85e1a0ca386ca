"""The commands of `ecr-catalog`, one a file; `cli` gathers them."""

"""A Dagster code location that keeps one Backstage entity in sync with AWS ECR."""

"""A Dagster code location that keeps Backstage's picture of AWS ECR true."""

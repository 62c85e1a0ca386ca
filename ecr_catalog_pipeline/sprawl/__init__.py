"""Ad-hoc ECR entities: guard finds them, retire removes them, a check reports them."""

"""keybroker: one place in an AWS account that asks KMS for import parameters, and answers every caller from it."""

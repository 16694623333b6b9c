"""The demo: a whole import, narrated, against an embedded KMS."""

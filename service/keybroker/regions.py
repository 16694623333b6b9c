"""Which partition of AWS a Region is in, by its name alone."""

from __future__ import annotations

_PARTITIONS = {
    "cn-": "aws-cn",
    "us-gov-": "aws-us-gov",
    "us-iso-": "aws-iso",
    "us-isob-": "aws-iso-b",
    "eu-isoe-": "aws-iso-e",
    "us-isof-": "aws-iso-f",
    "eusc-": "aws-eusc",
}


def partition_of(region: str) -> str:
    """The partition, without asking the SDK; what begins like no other is taken for one of aws."""
    return next((partition for begin, partition in _PARTITIONS.items() if region.startswith(begin)), "aws")

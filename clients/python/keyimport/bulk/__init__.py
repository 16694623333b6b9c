"""Bulk import: hundreds of keys through KMS's small quota, each imported once, over crashes and interruptions."""

__all__ = ["bulk"]

from keyimport.bulk.command import bulk

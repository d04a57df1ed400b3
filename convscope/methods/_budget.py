"""The memory that methods of many forward passes keep to."""

BUDGET_MIB = 1024.0
BUDGET_HELP = "memory in MiB that the variants of an image may take at one time"

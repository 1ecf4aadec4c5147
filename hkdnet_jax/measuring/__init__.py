"""Speed, memory, operations, and compilation for machines that are not there."""

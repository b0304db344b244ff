"""The master and its children: who runs, who replaces whom, and what the operator is told."""

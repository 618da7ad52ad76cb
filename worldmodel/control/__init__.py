"""What the agent minimises and what it must never do."""
